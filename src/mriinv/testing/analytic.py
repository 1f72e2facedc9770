"""Problems whose answer is known: small dense operators, quadratic energies, Gaussian mixtures."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mriinv.core.operator import Operator
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.numerics.noise import complex_noise


class DenseOperator(Operator):
    """A x = M vec(x) for a complex matrix M ``(samples, y·x)``; data are ``(batch, samples)``."""

    name = "dense"

    def __init__(self, matrix: Tensor, shape: tuple[int, int]) -> None:
        self.matrix, self.shape = matrix, shape
        self.norm_bound = float(torch.linalg.matrix_norm(matrix, 2))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.matrix.T

    def adjoint(self, data: Tensor) -> Tensor:
        return (data @ self.matrix.conj()).unflatten(1, self.shape)


class QuadraticPrior(Prior):
    """E(x) = ½ xᴴQx with Hermitian positive semi-definite Q ``(y·x, y·x)``, or ½θ‖x‖² with a learnable θ.

    The posterior is Gaussian, its MAP image (AᴴA + Q)⁻¹Aᴴb.
    """

    name = "quadratic"
    provides = frozenset({"energy", "gradient"})

    def __init__(self, matrix: Tensor | None = None, theta: float = 1.0) -> None:
        super().__init__()
        self.matrix = matrix
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def energy(self, image: Tensor, noise_level: Any = None) -> Tensor:
        flat = image.flatten(1)
        weighted = self.theta * flat if self.matrix is None else flat @ self.matrix.T
        return 0.5 * (flat.conj() * weighted).real.double().sum(1)


class GaussianDenoiser(Prior):
    """The best denoiser D_σ(x) = m + C(C + σ²I)⁻¹(x − m) of Gaussian images with mean m and Hermitian C ``(y·x, y·x)``.

    C is a covariance as σ² is a variance: per real component, so that E(x − m)(x − m)ᴴ = 2C.
    """

    name = "gaussian-denoiser"
    provides = frozenset({"denoiser", "noise-conditional"})

    def __init__(self, covariance: Tensor, mean: Tensor | None = None, noise_range: tuple[float, float] = (0.01, 10.0)):
        super().__init__()
        self.noise_range = noise_range
        self.mean = torch.zeros_like(covariance[0]) if mean is None else mean
        self.variances, self.basis = torch.linalg.eigh(covariance)

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        image = image if create_graph else image.detach()
        level = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device).reshape(-1, 1)
        modes = (image.flatten(1) - self.mean) @ self.basis.conj()
        kept = self.variances / (self.variances + level**2)
        return (self.mean + (kept * modes) @ self.basis.T).view(image.shape)


@dataclass(frozen=True)
class GaussianMixture:
    """p(x) = Σ_k w_k N(x; m_k, C_k) of complex vectors.

    Each C_k is a covariance as σ² is a variance: per real component, so that E(x − m)(x − m)ᴴ = 2C.

    Attributes
    ----------
    weights : ``(component,)``, of sum 1
    means : complex ``(component, pixel)``
    covariances : complex Hermitian positive definite ``(component, pixel, pixel)``
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def mean(self) -> Tensor:
        """E x, ``(pixel,)``."""
        return self.weights.to(self.means) @ self.means

    @property
    def covariance(self) -> Tensor:
        """½E(x − E x)(x − E x)ᴴ, ``(pixel, pixel)``."""
        apart = self.means - self.mean
        parts = self.covariances + 0.5 * apart[:, :, None] * apart[:, None, :].conj()
        return (self.weights.to(parts).view(-1, 1, 1) * parts).sum(0)

    @property
    def fourth_moment(self) -> float:
        """E‖x − E x‖⁴, on which the error of a sampled covariance depends."""
        apart, gamma = self.means - self.mean, 2 * self.covariances
        trace = gamma.diagonal(dim1=1, dim2=2).real.sum(1)
        along = (apart.conj() * (gamma @ apart[:, :, None])[:, :, 0]).real.sum(1)
        each = (trace + apart.abs().square().sum(1)).square() + gamma.abs().square().sum((1, 2)) + 2 * along
        return float(self.weights @ each)

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariances)
        return values, vectors

    def log_terms(self, points: Tensor, level: float | Tensor = 0.0) -> Tensor:
        """Return log w_k N(x; m_k, C_k + σ²I) of points ``(batch, pixel)``, ``(batch, component)``."""
        variances, along = self._along(points, level)
        log_density = -(2 * math.pi * variances).log() - 0.5 * along.abs().square() / variances
        return log_density.sum(2) + self.weights.log()

    def score(self, points: Tensor, level: float | Tensor = 0.0) -> Tensor:
        """Return ∇ log p_σ, as ∂Re + i∂Im, of points ``(batch, pixel)`` at noise level σ."""
        variances, along = self._along(points, level)
        towards = torch.einsum("bkm,knm->bkn", along / variances, self._modes[1])
        share = self.log_terms(points, level).softmax(1)
        return -(share[:, :, None] * towards).sum(1)

    def _along(self, points: Tensor, level: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances of each component along its principal axes at noise level σ, and x − m_k there."""
        sigma = torch.as_tensor(level, dtype=torch.float64, device=points.device).reshape(-1, 1, 1)
        variances, basis = self._modes
        return variances + sigma**2, torch.einsum("bkn,knm->bkm", points[:, None] - self.means, basis.conj())

    def blurred(self, level: float) -> GaussianMixture:
        """Return p_σ, the law with white noise of `level` per real component added."""
        eye = torch.eye(self.means.shape[1]).to(self.means)
        return GaussianMixture(self.weights, self.means, self.covariances + level**2 * eye)

    def given(self, matrix: Tensor, data: Tensor, noise_std: float) -> GaussianMixture:
        """Return the law of x given b = M x + n: a mixture again.

        Parameters
        ----------
        matrix : M ``(sample, pixel)``
        data : b ``(sample,)``
        noise_std : of n, per real component
        """
        precision = torch.linalg.inv(self.covariances)
        covariances = torch.linalg.inv(matrix.mH @ matrix / noise_std**2 + precision)
        pulled = matrix.mH @ data / noise_std**2 + (precision @ self.means[:, :, None])[:, :, 0]
        means = (covariances @ pulled[:, :, None])[:, :, 0]
        # log p(b) = log p(b | x) + log p(x) - log p(x | b) for each component, at any x
        fit = -0.5 * (means @ matrix.T - data).abs().square().sum(1) / noise_std**2
        own = GaussianMixture(torch.ones_like(self.weights), means, covariances).log_terms(means)
        weights = (fit + self.log_terms(means).diagonal() - own.diagonal()).softmax(0)
        return GaussianMixture(weights, means, covariances)

    def modes(self, iterations: int = 1000) -> Tensor:
        """Return the local maxima of the density that the means climb to, ``(mode, pixel)``.

        x ← (Σ r_k P_k)⁻¹ Σ r_k P_k m_k with precisions P_k and shares r_k(x) of the components never lowers the
        density (Carreira-Perpiñán 2000).
        """
        precision = torch.linalg.inv(self.covariances)
        pulled = (precision @ self.means[:, :, None])[:, :, 0]
        points = self.means
        for _ in range(iterations):
            share = self.log_terms(points).softmax(1).to(points)
            points = torch.linalg.solve(torch.einsum("bk,knm->bnm", share, precision), share @ pulled)
        found: list[Tensor] = []
        near = 1e-6 * float(self.covariance.diagonal().real.sum().sqrt())
        for point in points:
            if all((point - other).norm() > near for other in found):
                found.append(point)
        return torch.stack(found)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return independent draws ``(count, pixel)``."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        roots = torch.linalg.cholesky(self.covariances)
        noise = complex_noise((count, self.means.shape[1]), 1.0, generator, self.means.dtype)
        return self.means[component] + (roots[component] @ noise[:, :, None])[:, :, 0]


class MixturePrior(Prior):
    """E(x) = −η² log p_σ(x) of a Gaussian mixture with noise of level σ, and its best denoiser, in closed form.

    Parameters
    ----------
    law : of the images, flattened; double precision
    noise_std : η per real component
    """

    name = "mixture"
    provides = frozenset({"energy", "gradient", "denoiser", "noise-conditional"})
    noise_range = (0.01, 10.0)

    def __init__(self, law: GaussianMixture, noise_std: float = 1.0) -> None:
        super().__init__()
        self.law, self.variance = law, torch.tensor([noise_std**2], dtype=torch.float64)

    def at_noise(self, noise_std: Tensor) -> MixturePrior:
        other = copy.copy(self)
        other.variance = noise_std.double().square()
        return other

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        level = 0.0 if noise_level is None else noise_level
        return -self.variance * self.law.log_terms(image.flatten(1), level).logsumexp(1)

    def energy_and_gradient(
        self, image: Tensor, noise_level: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        score = self.law.score(image.flatten(1), 0.0 if noise_level is None else noise_level).view(image.shape)
        return self.energy(image, noise_level), (-self.variance.view(-1, 1, 1) * score).to(image.dtype)

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        image = image if create_graph else image.detach()
        level = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device).reshape(-1, 1, 1)
        return image + (level**2 * self.law.score(image.flatten(1), level).view(image.shape)).to(image.dtype)


def gaussian_problem(
    shape: tuple[int, int] = (3, 4), samples: int = 9, batch: int = 1, seed: int = 0
) -> tuple[InverseProblem, QuadraticPrior, Tensor]:
    """Return a problem with ‖A‖ = 1 in double precision, a quadratic prior, and the Hessian AᴴA + Q of the cost.

    The scale of the problem is 1, so that solvers see the numbers as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = shape[0] * shape[1]
    matrix = complex_noise((samples, pixels), 1.0, generator, torch.complex128)
    matrix /= torch.linalg.matrix_norm(matrix, 2)
    factor = complex_noise((pixels, pixels), 1.0, generator, torch.complex128)
    prior_matrix = factor @ factor.mH
    prior_matrix *= 0.6 / torch.linalg.matrix_norm(prior_matrix, 2)
    prior_matrix += 0.1 * torch.eye(pixels)
    data = complex_noise((1, samples), 1.0, generator, torch.complex128).expand(batch, -1).contiguous()
    operator = DenseOperator(matrix, shape)
    problem = InverseProblem(operator, data, scale=torch.ones(batch, dtype=torch.float64))
    return problem, QuadraticPrior(prior_matrix), matrix.mH @ matrix + prior_matrix
