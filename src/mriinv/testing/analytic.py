"""Problems whose answer is known: small dense operators and quadratic energies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mriinv.core.operator import Operator
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.data.noise import complex_noise


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
        level = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device).reshape(-1, 1)
        modes = (image.flatten(1) - self.mean) @ self.basis.conj()
        kept = self.variances / (self.variances + level**2)
        return (self.mean + (kept * modes) @ self.basis.T).view(image.shape)


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
