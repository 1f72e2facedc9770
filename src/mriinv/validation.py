"""Fully sampled slices, undersampled in retrospect, on which priors, solvers and settings are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mriinv.compose import Reconstruction, make_problem
from mriinv.core.problem import InverseProblem
from mriinv.core.types import Image, Mask
from mriinv.data.acquisition import Acquisition
from mriinv.data.hybrid import centre_crop
from mriinv.errors import InputError, SettingsError
from mriinv.manifest import Choice
from mriinv.metrics import psnr
from mriinv.registry import registry


@dataclass(frozen=True)
class Case:
    """An undersampled slice, and the image that its reconstruction is compared with."""

    name: str
    problem: InverseProblem
    reference: Image
    crop: tuple[int, int] | None = None

    def psnr(self, reconstruct: Reconstruction, seed: int = 0) -> float:
        """Reconstruct, and return the PSNR in dB over the support of the operator, in the centre `crop` (y, x)."""
        images: list[Any] = [reconstruct(self.problem, seed=seed).image, self.reference, self.problem.operator.support]
        if self.crop is not None:
            images = [image if image is None else centre_crop(image, self.crop) for image in images]
        return float(psnr(*images))


def retrospective_case(
    name: str, full: Acquisition, mask: Mask, operator: Choice, crop: tuple[int, int] | None = None
) -> Case:
    """Hide what `mask` leaves out of one fully sampled slice, and calibrate the operator on the rest.

    The reference is that of the acquisition, else what all its samples show through the operator.

    Raises
    ------
    InputError : the slice is not fully sampled (zero padding around the samples is allowed)
    SettingsError : there is no reference
    """
    if registry().load("operator", operator.name).measures_images:
        raise SettingsError(f"operator '{operator.name}' measures images: no mask of k-space applies to compare under")
    if not full.gapless:
        raise InputError(full.source, "kspace", "undersampled data", "a fully sampled scan to validate on")
    problem = make_problem(full.undersampled(mask), operator.name, **operator.settings)
    reference = full.reference
    if reference is None:
        reference = problem.operator.fully_sampled_image(full.kspace)
    if reference is None:
        raise SettingsError(f"operator '{operator.name}' shows no reference to validate against")
    return Case(name, problem, reference, crop)
