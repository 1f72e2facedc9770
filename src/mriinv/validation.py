"""Fully sampled slices, undersampled in retrospect, on which priors, solvers and settings are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mriinv.compose import Reconstruction, make_problem
from mriinv.config import RunConfig
from mriinv.core.delegate import Watched
from mriinv.core.operator import Operator
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.core.solver import Solver
from mriinv.core.types import Image, Mask, Support
from mriinv.data.acquisition import Acquisition, Sampling
from mriinv.data.mask_choice import MaskChoice
from mriinv.errors import InputError, SettingsError
from mriinv.manifest import Choice
from mriinv.metrics import psnr
from mriinv.numerics.images import centre_crop
from mriinv.registry import registry

MOST_UNLIKE_ONE = 2.0  # brightness of a reference over that of its k-space, or one over it


@dataclass(frozen=True)
class Case:
    """An undersampled slice, and the image that its reconstruction is compared with.

    `truth` is what all its samples show through the operator, in the phase of the coil maps; a reference that comes
    with a scan may have another. `sampling` is that of the mask.
    """

    name: str
    problem: InverseProblem
    reference: Image
    crop: tuple[int, int] | None = None
    truth: Image | None = None
    sampling: Sampling = "2D"

    def psnr(self, reconstruct: Reconstruction, seed: int = 0) -> float:
        """Reconstruct, and return the PSNR in dB over the support of the operator, in the centre `crop` (y, x)."""
        return self.psnr_of(reconstruct(self.problem, seed=seed).image)

    def psnr_of(self, image: Image) -> float:
        """Return the PSNR of a reconstruction, as `psnr` does."""
        return float(psnr(*self.cropped(image)))

    def cropped(self, image: Image) -> tuple[Image, Image, Support | None]:
        """Return an image, the reference, and the support of the operator, in the centre `crop`."""
        return (
            centre_crop(image, self.crop),
            centre_crop(self.reference, self.crop),
            centre_crop(self.problem.operator.support, self.crop),
        )

    def against_truth(self) -> Case:
        """Return the case with `truth` for its reference (`SettingsError` where the operator shows none)."""
        if self.truth is None:
            raise SettingsError(f"operator '{self.problem.operator.name}' shows no image of fully sampled data")
        return replace(self, reference=self.truth)

    def measured_at_convergence(self, prior: Prior, solver: Solver, device: str = "auto") -> dict[str, float]:
        """Reconstruct, and return how good the image is at which the solver ends, and whether it should end there.

        ``psnr``, in dB; ``psnr_lost``, by how much the best image that the prior was evaluated at on the way is better,
        for solvers that evaluate it at their iterates; ``truth_gap``, C(truth)/C(image) − 1 with the cost C of eq. 6 at
        the last noise level, for solvers whose history has it and its energy: how far the minimum is from the truth.
        """
        scale = self.problem.scale.view(-1, 1, 1)
        seen: list[float] = []

        def note(image: Image) -> None:
            if image.shape == self.reference.shape:  # samplers have several chains
                seen.append(self.psnr_of(scale * image))

        solution = Reconstruction(Watched(prior, note), solver, device)(self.problem)
        values = {"psnr": self.psnr_of(solution.image)}
        if seen:
            values["psnr_lost"] = max(0.0, max(seen) - values["psnr"])
        history = solution.history
        if {"cost", "energy"} <= history.keys() and self.truth is not None:
            normalised = solver.posed(self.problem.normalised())
            if normalised.noise_std is not None:
                prior = solver.prior_at(prior, normalised.noise_std)
            levels = history["noise_level"][-1] if prior.noise_range and "noise_level" in history else None
            truth = self.truth / scale
            with torch.no_grad():
                cost = normalised.data_term(truth) + prior.energy(truth, levels)
            values["truth_gap"] = float((cost / history["cost"][-1] - 1).mean())
        return values


def case_of(full: Acquisition, mask: MaskChoice, config: RunConfig) -> Case:
    """Return `retrospective_case` for a mask and a configuration, named after slice and mask."""
    name, crop = f"{full.source}, {mask.label}", config.preparation.crop
    return retrospective_case(name, full, mask.mask_for(full), config.operator, crop)


def foreign_units(operator: Operator, full: Acquisition) -> float | None:
    """Return how bright the reference of a fully sampled acquisition is beside its k-space; None where alike."""
    truth = operator.fully_sampled_image(full.kspace) if full.gapless else None
    if full.reference is None or truth is None or not truth.any():
        return None
    reference, seen = operator.reference_image(full), truth != 0
    assert reference is not None
    ratio = float(reference.abs()[seen].median() / truth.abs()[seen].median())
    return None if 1 / MOST_UNLIKE_ONE < ratio < MOST_UNLIKE_ONE else ratio


def retrospective_case(
    name: str, full: Acquisition, mask: Mask, operator: Choice, crop: tuple[int, int] | None = None
) -> Case:
    """Hide what `mask` leaves out of one fully sampled slice, and calibrate the operator on the rest.

    The reference is that of the acquisition, else what all its samples show through the operator.

    Raises
    ------
    InputError : the slice is not fully sampled (zero padding around the samples is allowed), or brings a reference in
        other units than its k-space
    SettingsError : there is no reference
    """
    if registry().load("operator", operator.name).measures_images:
        raise SettingsError(f"operator '{operator.name}' measures images: no mask of k-space applies to compare under")
    if not full.gapless:
        raise InputError(full.source, "kspace", "undersampled data", "a fully sampled scan to validate on")
    acquired = full.undersampled(mask)
    problem = make_problem(acquired, operator.name, **operator.settings)
    truth = problem.operator.fully_sampled_image(full.kspace)
    reference = truth if full.reference is None else problem.operator.reference_image(full)
    if reference is None:
        raise SettingsError(f"operator '{operator.name}' shows no reference to validate against")
    if (ratio := foreign_units(problem.operator, full)) is not None:
        found = f"{ratio:.3g} times the brightness of what the k-space shows"
        raise InputError(full.source, "reference", found, "the units of the k-space, or no reference")
    return Case(name, problem, reference, crop, truth, acquired.sampling)
