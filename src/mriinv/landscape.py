"""The energy that a prior gives to an image with noise and with aliasing: is the image itself the minimum?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mriinv.config import RunConfig
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.core.types import ImageSlice
from mriinv.errors import InputError, require
from mriinv.jobs import find_jobs, full_slices
from mriinv.numerics.noise import complex_noise
from mriinv.setup import settle
from mriinv.validation import Case, case_of

BATCH_PIXELS = 2**20  # in one evaluation; a network with 64 channels takes 256 MiB per layer for them

Range = tuple[float, float]


@dataclass(frozen=True)
class Landscape:
    """Energy over the plane x + α_z z + α_s s through an image x, and where it is lowest.

    Attributes
    ----------
    gaussian, structural : float64 ``(points,)``, the values of α_z and of α_s
    values : float64 ``(α_z, α_s)``, the energy, or the cost
    minimiser : (α_z*, α_s*)
    image : complex ``(y, x)`` at the minimiser
    noise, structure : complex ``(y, x)``, z and s
    """

    gaussian: Float[Tensor, " points"]
    structural: Float[Tensor, " points"]
    values: Float[Tensor, "points points"]
    minimiser: tuple[float, float]
    image: ImageSlice
    noise: ImageSlice
    structure: ImageSlice

    @property
    def at_border(self) -> bool:
        """Whether the minimiser lies at the border of the grid, so that a lower value may lie beyond."""
        limits = zip(self.minimiser, (self.gaussian, self.structural), strict=True)
        return any(alpha in (float(grid[0]), float(grid[-1])) for alpha, grid in limits)


def scan_case(config: RunConfig) -> Case:
    """Read one fully sampled slice, or simulate one, and hide what ``config.mask`` leaves out.

    The slice is the middle one of those that ``config.slices`` names; `config` needs a mask. Its reference is what all
    samples show through the operator: one of the scan's own has another phase than the SENSE image, in general.

    Raises
    ------
    InputError : a scan that cannot be read or is not fully sampled, more than one scan
    """
    config = settle(config)
    job, *others = find_jobs(config)
    if others:
        raise InputError(config.input[0], "", f"{1 + len(others)} scans", "one scan")
    (full,) = full_slices(config, [job], lambda job: [job.middle])
    assert config.mask is not None
    return case_of(full, config.mask, config).against_truth()


def case_landscape(prior: Prior, case: Case, *, seed: int, data: bool, **grid: Any) -> Landscape:
    """Evaluate the energy, or with `data` the cost (eq. 6), around the reference of a case, at the noise of its data.

    The data term is that of the paper, ½‖Ax − b‖², also for solvers that use `InverseProblem.robust` instead.

    Images are in units of the scale of the problem; z has the `seed`. The prior is on the device of the case, and
    `grid` goes on to `landscape`: ``gaussian``, ``structural``, ``points``.
    """
    problem = case.problem.normalised()
    reference, sense = case.reference[0] / case.problem.scale, problem.sense()[0]
    grid |= {"generator": torch.Generator(reference.device).manual_seed(seed)}
    if data:
        return landscape(prior, reference, sense, problem=problem, **grid)
    if problem.noise_std is not None:
        prior = prior.at_noise(problem.noise_std)
    return landscape(prior, reference, sense, **grid)


def landscape(
    prior: Prior,
    reference: ImageSlice,
    sense: ImageSlice,
    *,
    generator: torch.Generator,
    gaussian: Range = (-0.1, 0.1),
    structural: Range = (-1.0, 1.0),
    points: int = 21,
    problem: InverseProblem | None = None,
) -> Landscape:
    """Evaluate E(x + α_z z + α_s s) on a grid of α_z and α_s (paper, sec. III-C and Fig. 2).

    z is white noise with standard deviation 1 per real component, so that α_z is the standard deviation that is added;
    s is what `sense` differs by, so that α_s = 1 is the SENSE image. The minimiser is that of the grid, moved by one
    Newton step on its 3 × 3 neighbourhood, which is exact for a quadratic energy; not at the border of the grid, nor
    where the step is longer than the grid's.

    Parameters
    ----------
    prior : any whose `energy` is known, on the device of the images
    reference, sense : x and the SENSE image, complex ``(y, x)`` at reference scale 1
    generator : of z, on the device of the images
    gaussian, structural : lowest and highest α_z and α_s
    points : values of either
    problem : the normalised problem behind `sense`: what is evaluated is then the cost ½‖A x − b‖² + E(x), with the
        prior at the noise of the data, as a solver takes it

    Raises
    ------
    CompatibilityError : the prior has no energy
    InputError : shapes that differ, ranges that do not rise, fewer than 3 points, a problem of another scale or of
        more than one image, energies that are not finite
    """
    _check(reference, sense, gaussian, structural, points, problem)
    noise = complex_noise(reference.shape, 1.0, generator, reference.dtype)
    directions = torch.stack([noise, sense - reference])
    alpha_z, alpha_s = (
        torch.linspace(*limits, points, dtype=torch.float64, device=reference.device)
        for limits in (gaussian, structural)
    )
    weights = torch.cartesian_prod(alpha_z, alpha_s)
    if problem is not None and problem.noise_std is not None:
        prior = prior.at_noise(problem.noise_std)
    with torch.no_grad():
        values = torch.cat(
            [
                prior.energy(_images(reference, directions, some))
                for some in weights.split(max(1, BATCH_PIXELS // reference.numel()))
            ]
        )
        if problem is not None:
            values = values + _data_terms(problem, reference, directions, weights)
    if not torch.isfinite(values).all():
        raise InputError(f"landscape of {prior.name}", "energy", "NaN or infinity", "finite values")
    values = values.view(points, points)
    best = _minimiser(values, alpha_z, alpha_s)
    (image,) = _images(reference, directions, best[None])
    return Landscape(alpha_z, alpha_s, values, (float(best[0]), float(best[1])), image, *directions)


def _check(
    reference: Tensor, sense: Tensor, gaussian: Range, structural: Range, points: int, problem: InverseProblem | None
) -> None:
    shapes = f"shapes {tuple(reference.shape)} and {tuple(sense.shape)}"
    require(
        "landscape",
        ("images", shapes, reference.ndim == 2 and reference.shape == sense.shape, "one shape (y, x)"),
        ("points", points, points >= 3, "at least 3"),
    )
    for name, limits in (("gaussian", gaussian), ("structural", structural)):
        rises = all(map(math.isfinite, limits)) and limits[0] < limits[1]
        require("landscape", (name, limits, rises, "a finite lowest and a higher highest value"))
    if problem is not None and not (problem.batch == 1 and float(problem.scale) == 1):
        found = f"scale {problem.scale.tolist()}"
        raise InputError("landscape", "problem", found, "one image, of scale 1: normalised()")


def _images(reference: Tensor, directions: Tensor, weights: Tensor) -> Tensor:
    return reference + torch.tensordot(weights.to(directions.dtype), directions, 1)


def _data_terms(problem: InverseProblem, reference: Tensor, directions: Tensor, weights: Tensor) -> Tensor:
    """Return ½‖A(x + α_z z + α_s s) − b‖² for every row of `weights` from three applications of A, not one per row."""
    forward = problem.operator.forward
    residuals = [forward(reference[None]) - problem.data, *(forward(direction[None]) for direction in directions)]
    rows = torch.stack([torch.view_as_real(r).double().flatten() for r in residuals])
    factors = torch.cat([torch.ones_like(weights[:, :1]), weights], dim=1)
    return 0.5 * torch.einsum("ni,ij,nj->n", factors, rows @ rows.T, factors)


def _minimiser(values: Tensor, alpha_z: Tensor, alpha_s: Tensor) -> Tensor:
    row, column = divmod(int(values.argmin()), len(alpha_s))
    best = torch.stack([alpha_z[row], alpha_s[column]])
    if not (0 < row < len(alpha_z) - 1 and 0 < column < len(alpha_s) - 1):
        return best
    near = values[row - 1 : row + 2, column - 1 : column + 2]
    gradient = 0.5 * torch.stack([near[2, 1] - near[0, 1], near[1, 2] - near[1, 0]])
    mixed = 0.25 * (near[2, 2] - near[2, 0] - near[0, 2] + near[0, 0])
    curvature = torch.stack([near[2, 1] + near[0, 1], near[1, 2] + near[1, 0]]) - 2 * near[1, 1]
    hessian = torch.diag(curvature) + mixed * torch.eye(2, dtype=mixed.dtype, device=mixed.device).flip(0)
    factor, info = torch.linalg.cholesky_ex(hessian)
    if info:
        return best
    step = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
    spacing = torch.stack([alpha_z[1] - alpha_z[0], alpha_s[1] - alpha_s[0]])
    return best + step * spacing if bool((step.abs() <= 1).all()) else best
