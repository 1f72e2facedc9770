"""Posteriors whose law is known exactly, and how far a sampler is from it.

from mriinv.testing.posteriors import measure, posteriors
for posterior in posteriors():
    print(measure("my-sampler", posterior))
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mriinv.compose import make_problem
from mriinv.core.capabilities import match
from mriinv.core.delegate import Watched
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem, Samples
from mriinv.core.sampler import Sampler
from mriinv.core.solver import Solver
from mriinv.data.acquisition import Acquisition
from mriinv.data.coils import simulate_coil_maps
from mriinv.data.masks import make_mask
from mriinv.errors import InputError, PluginError
from mriinv.numerics.fft import fft2c, ifft2c
from mriinv.numerics.noise import complex_noise
from mriinv.registry import registry
from mriinv.testing.analytic import DenseOperator, GaussianMixture, MixturePrior, gaussian_problem

NOISE = 0.1  # per real component, of all problems
LEVEL = 0.1  # noise level at which their samples are drawn
SAMPLES, CHAINS = 4096, 128
FEWEST_CHAINS = 16  # by whose means Monte Carlo errors are known to a fifth or so
SIGNIFICANT = 4.0  # standard deviations


@dataclass(frozen=True)
class AnalyticPosterior:
    """A linear problem with Gaussian noise and one image, and the exact law of this image.

    Covariances are per real component, E(x − m)(x − m)ᴴ = 2C; pixels are flattened.

    Attributes
    ----------
    problem : in double precision, of scale 1
    prior : whose exp(−E/η²) is `belief` blurred by the noise level it is evaluated at
    belief : the law of clean images before any data
    level : noise level at which samples are to be drawn; 0 for a prior without
    """

    name: str
    problem: InverseProblem
    prior: Prior
    belief: GaussianMixture
    level: float

    def law(self, level: float | None = None) -> GaussianMixture:
        """Return the exact law ∝ p_σ(x) exp(−‖Ax − b‖²/2η²) at noise level σ; None for `level`."""
        sigma = self.level if level is None else level
        return self.belief.blurred(sigma).given(self.matrix, self.problem.data.flatten(), self.noise_std)

    @property
    def noise_std(self) -> float:
        """η per real component."""
        assert self.problem.noise_std is not None
        return float(self.problem.noise_std)

    @cached_property
    def matrix(self) -> Tensor:
        """A as a matrix ``(sample, pixel)``."""
        shape = self.problem.back_projection().shape[1:]
        images = torch.eye(shape.numel(), dtype=self.problem.data.dtype).unflatten(1, shape)
        return torch.cat([self.problem.operator.forward(image[None]).flatten(1) for image in images]).T

    @property
    def mean(self) -> Tensor:
        """E x, ``(pixel,)``."""
        return self.law().mean

    @property
    def covariance(self) -> Tensor:
        """½E(x − E x)(x − E x)ᴴ, ``(pixel, pixel)``."""
        return self.law().covariance

    @property
    def modes(self) -> Tensor:
        """Local maxima of the density, ``(mode, pixel)``."""
        return self.law().modes()


@dataclass(frozen=True)
class Measurement:
    """How far the draws of a sampler are from the exact law, and how far those of an exact one would be.

    Attributes
    ----------
    approximate : whether the sampler is no Markov chain whose stationary law is stated (a diffusion sampler)
    bias : of the mean, root mean square over the principal axes of the law, in standard deviations along them
    bias_error : its Monte Carlo error, by the effective samples
    variance : trace of the sampled covariance over that of the exact one; 1 but for `variance_error`
    covariance_error : ‖Ĉ − C‖/‖C‖ (Frobenius)
    covariance_expected : the same of as many effective samples of the exact law
    weight_error, weight_expected : largest error of the weight of a component of a mixture, and its Monte Carlo error
    effective_samples : of the mean, harmonic mean over the principal axes
    acceptance : None where every proposal is accepted
    steps : of one chain
    evaluations : of the prior, images in all
    agrees : whether all errors are what chance explains
    """

    sampler: str
    posterior: str
    approximate: bool
    draws: int
    bias: float
    bias_error: float
    variance: float
    variance_error: float
    covariance_error: float
    covariance_expected: float
    weight_error: float | None
    weight_expected: float | None
    effective_samples: float
    seconds: float
    acceptance: float | None
    steps: int
    evaluations: int
    agrees: bool


def posteriors() -> tuple[AnalyticPosterior, ...]:
    """Return the cases: a dense Gaussian, mixtures whose components overlap or lie far apart, Gaussian SENSE."""
    return gaussian(), mixture("mixture", 0.4), mixture("mixture, far apart", 1.2), sense()


def gaussian() -> AnalyticPosterior:
    """Return a Gaussian posterior of 12 pixels with a dense operator and a dense quadratic energy."""
    problem, prior, _ = gaussian_problem()
    assert prior.matrix is not None
    covariances = NOISE**2 * torch.linalg.inv(prior.matrix)[None]
    belief = GaussianMixture(torch.ones(1).double(), torch.zeros_like(covariances[0, :1]), covariances)
    return AnalyticPosterior("gaussian", replace(problem, noise_std=torch.tensor(NOISE)), prior, belief, 0.0)


def mixture(name: str, apart: float) -> AnalyticPosterior:
    """Return a posterior of 6 pixels and three components, about 0.18 wide at `LEVEL` and √2·`apart` from each other.

    What sets the components apart lies in the null space of the operator but for a small part: the data hardly tell
    which of them the image is from.
    """
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(complex_noise((6, 6), 1.0, generator, torch.complex128)).Q
    matrix = torch.tensor([1.0, 0.7, 0.4]).to(axes).view(-1, 1) * axes[:, :3].mH
    seen = complex_noise((3, 3), 0.03, generator, torch.complex128)
    means = apart * axes[:, 3:].T + seen @ axes[:, :3].T
    roots = complex_noise((3, 6, 6), 0.04, generator, torch.complex128)
    covariances = roots @ roots.mH + 0.05**2 * torch.eye(6)
    belief = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]).double(), means, covariances)
    data = belief.draw(1, generator) @ matrix.T + complex_noise((1, 3), NOISE, generator, torch.complex128)
    problem = InverseProblem(DenseOperator(matrix, (2, 3)), data, NOISE, scale=1)
    return AnalyticPosterior(name, problem, MixturePrior(belief), belief, LEVEL)


def sense(shape: tuple[int, int] = (12, 12)) -> AnalyticPosterior:
    """Return SENSE with simulated coils and random lines, and a stationary Gaussian prior of power-law spectrum."""
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    spectrum = 1 / (1 + (y[:, None] ** 2 + x**2)) + 0.01
    pixels = torch.eye(math.prod(shape), dtype=torch.complex128).unflatten(1, shape)
    covariances = ifft2c(spectrum * fft2c(pixels)).flatten(1).T[None]
    belief = GaussianMixture(torch.ones(1).double(), torch.zeros_like(covariances[0, :1]), covariances)
    maps = simulate_coil_maps(shape, 4, generator, torch.complex128)[None]
    mask = make_mask("random-1d", shape, 2.0, 4)
    clean = fft2c(maps * belief.draw(1, generator).unflatten(1, shape)[:, None])
    noisy = mask[:, None] * (clean + complex_noise(clean.shape, NOISE, generator, clean.dtype))
    problem = make_problem(Acquisition(noisy, mask, maps, noise_std=NOISE), "sense")
    return AnalyticPosterior(
        "SENSE", replace(problem, scale=torch.ones(1).double()), MixturePrior(belief), belief, LEVEL
    )


def samplers() -> dict[str, type[Solver]]:
    """Return the registered solvers that draw samples, by name; those of broken plug-ins are left out."""
    found = {}
    for name in registry().components("solver"):
        try:
            solver = registry().load("solver", name)
        except PluginError:
            continue
        if issubclass(solver, Sampler) or "samples" in solver.Settings.model_fields:
            found[name] = solver
    return found


def applies(sampler: type[Solver], posterior: AnalyticPosterior) -> bool:
    """Return whether the prior of `posterior` provides what `sampler` requires."""
    return match(posterior.prior.provides, sampler.requires) is not None


def measure(
    sampler: str | type[Solver],
    posterior: AnalyticPosterior,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Measurement:
    """Run a sampler through the public interface and compare its draws with the exact law.

    A `Sampler` is compared with the law at the noise level where it draws; other solvers that return samples, such as
    diffusion models run backwards, with the law of clean images.

    Parameters
    ----------
    sampler : name in the registry, or a class
    settings : of the sampler; else 4096 draws of 128 chains, no check of the long run, the level of the posterior

    Raises
    ------
    InputError : a temperature other than 1, whose law is not known; a solver that returns no samples
    """
    cls = registry().load("solver", sampler) if isinstance(sampler, str) else sampler
    options: dict[str, Any] = {"samples": SAMPLES, "batch": CHAINS, "chains": CHAINS, "long_run": 0}
    options = {name: value for name, value in options.items() if name in cls.Settings.model_fields}
    options |= settings or {}
    level = 0.0
    if issubclass(cls, Sampler):
        options["noise_level"] = options.get("noise_level") or posterior.level or None
        lowest, highest = posterior.prior.noise_range or (0.0, 0.0)
        level = min(max(options["noise_level"] or 0.0, lowest), highest)
    if options.get("temperature", 1) != 1:
        raise InputError("measure", "temperature", str(options["temperature"]), "1: the law of others is not known")
    evaluations = 0

    def count(images: Tensor) -> None:
        nonlocal evaluations
        evaluations += len(images)

    prior, solver = Watched(posterior.prior, count), cls(**options)
    started = time.perf_counter()
    samples = solver(posterior.problem, prior, generator=torch.Generator().manual_seed(seed))
    seconds = time.perf_counter() - started
    if not isinstance(samples, Samples):
        raise InputError("measure", cls.name, type(samples).__name__, "a solver that returns samples")
    acceptance = None if samples.acceptance is None else float(samples.acceptance.mean())
    return Measurement(
        sampler=cls.name,
        posterior=posterior.name,
        approximate=not issubclass(cls, Sampler),
        draws=samples.count,
        **compare(samples.draws.flatten(2), posterior.law(level)),
        seconds=seconds,
        acceptance=acceptance,
        steps=int(samples.iterations.max()),
        evaluations=evaluations,
    )


def compare(draws: Tensor, law: GaussianMixture) -> dict[str, Any]:
    """Return the errors in `Measurement` of draws ``(chain, draw, pixel)`` of independent chains."""
    if len(draws) < FEWEST_CHAINS:
        raise InputError("measure", "draws", f"{len(draws)} chains", f"at least {FEWEST_CHAINS} independent ones")
    covariance = law.covariance
    variances, axes = torch.linalg.eigh(covariance)
    total, size = float(variances.sum()), float(torch.linalg.matrix_norm(covariance))
    apart = draws.to(axes) - law.mean
    along = apart @ axes.conj() / (2 * variances).sqrt()  # of unit variance, uncorrelated
    parts = torch.view_as_real(along).flatten(2)
    effective = 2 / (1 / effective_samples(parts)).view(-1, 2).sum(1)
    uncertain = 2 * parts.var((0, 1)).view(-1, 2).mean(1) / effective  # variance of the mean along each axis

    centred = (apart - apart.mean((0, 1))).flatten(0, 1)
    kept = 1 - float((variances / effective).sum()) / total  # of the variance, as the mean is sampled too
    sampled = 0.5 / kept * centred.T @ centred.conj() / len(centred)
    squares = apart.abs().square().sum(2, keepdim=True)
    # a product of two axes has about the geometric mean of the effective samples of their squares
    rate = float((variances / effective_samples(along.abs().square()).sqrt()).sum()) / total
    found: dict[str, Any] = {
        "bias": float(along.mean((0, 1)).abs().square().mean().sqrt()),
        "bias_error": float(uncertain.mean().sqrt()),
        "variance": float(sampled.diagonal().real.sum()) / total,
        "variance_error": math.sqrt((law.fourth_moment / (2 * total) ** 2 - 1) / float(effective_samples(squares))),
        "covariance_error": float(torch.linalg.matrix_norm(sampled - covariance)) / size,
        "covariance_expected": math.sqrt(law.fourth_moment / (2 * size) ** 2 - 1) * rate,
        "weight_error": None,
        "weight_expected": None,
        "effective_samples": float(1 / (1 / effective).mean()),
    }
    agrees = found["bias"] <= found["bias_error"] * _factor(parts.shape[2])
    agrees &= abs(found["variance"] - 1) <= found["variance_error"] * _factor(1)
    # as many axes as share the variance, and the products of any two
    agrees &= found["covariance_error"] <= found["covariance_expected"] * _factor((total / size) ** 4)
    if len(law.weights) > 1:
        shares = law.log_terms(draws.flatten(0, 1)).softmax(1).view(*draws.shape[:2], -1)  # of expectation w_k
        errors = (shares.mean((0, 1)) - law.weights).abs()
        expected = shares.std((0, 1)) / effective_samples(shares).sqrt()
        worst = int(errors.argmax())
        found |= {"weight_error": float(errors[worst]), "weight_expected": float(expected[worst])}
        agrees &= bool((errors <= expected * _factor(1)).all())
    return found | {"agrees": agrees}


def effective_samples(values: Tensor) -> Tensor:
    """Return the effective sample size of the mean of each quantity ``(chain, draw, quantity)``.

    It is the variance of the quantity over that of the means of independent chains, times their number: unbiased
    however short the chains are, where estimates from autocorrelations are not, and it takes many chains.
    """
    return len(values) * values.var((0, 1)) / values.mean(1).var(0)


def stationary_covariance(
    hessian: Tensor, step_size: float, noise: float, preconditioner: Tensor | None = None
) -> Tensor:
    r"""Return the covariance per real component of x ← x − τM∇C(x) + √v·M^{1/2}z for C of the given Hessian H.

    Along an eigenvalue g of M^{1/2}HM^{1/2} it is v/(τg(2 − τg)) in the coordinates M^{-1/2}x; M is the identity
    when None.
    """
    values, basis = torch.linalg.eigh(torch.eye(len(hessian)).to(hessian) if preconditioner is None else preconditioner)
    root = (basis * values.sqrt()) @ basis.mH
    g, modes = torch.linalg.eigh(root @ hessian @ root)
    modes = root @ modes
    return (modes * (noise / (step_size * g * (2 - step_size * g)))) @ modes.mH


def _factor(degrees: float) -> float:
    """Return the largest ratio of a root mean square to its expectation that chance explains (Wilson–Hilferty)."""
    return max(1 - 2 / (9 * degrees) + SIGNIFICANT * math.sqrt(2 / (9 * degrees)), 1.0) ** 1.5
