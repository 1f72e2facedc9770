"""One slice as it leaves a reader: k-space, what was sampled, and what came with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from mriinv.core.types import CoilMaps, Image, KSpace, Mask
from mriinv.errors import InputError


@dataclass(frozen=True)
class Acquisition:
    """Multi-coil Cartesian k-space of one or more slices of equal size.

    Attributes
    ----------
    kspace : complex ``(batch, coil, y, x)``, centred, orthonormal FFT, zero where nothing was sampled
    mask : bool ``(batch|1, y|1, x)``, True where sampled; ``y == 1`` means whole columns
    coil_maps : complex ``(batch|1, coil, y, x)`` when the file brings maps or the simulation knows them
    reference : complex ``(batch, y, x)`` image to compare with, when one exists
    noise_std : standard deviation of the noise per real component of a k-space sample, in the units of `kspace`
    source : file and slice, for messages and file names
    """

    kspace: KSpace
    mask: Mask
    coil_maps: CoilMaps | None = None
    reference: Image | None = None
    noise_std: float | None = None
    source: str = "array"
    header: dict[str, str] = field(default_factory=dict)

    @property
    def fully_sampled(self) -> bool:
        """Whether every k-space location was acquired."""
        return bool(self.mask.all())

    @property
    def gapless(self) -> bool:
        """Whether the samples fill a rectangle: every location, or all but zero padding around them."""
        sampled = self.mask.any(0)
        rows, columns = sampled.any(1), sampled.any(0)
        ends = [int((line[1:] != line[:-1]).sum() + line[0].int() + line[-1].int()) for line in (rows, columns)]
        return max(ends) <= 2 and torch.equal(sampled, rows[:, None] & columns)

    @property
    def acceleration(self) -> float:
        """Locations in the grid over locations sampled, calibration centre included."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    def undersampled(self, mask: Mask) -> Acquisition:
        """Keep only the samples in `mask`: retrospective undersampling of a fully sampled acquisition.

        Zero padding around the samples, common in fastMRI brain data, is allowed and stays outside the mask.
        """
        y, x = self.kspace.shape[-2:]
        if mask.ndim != 3 or mask.shape[-1] != x or mask.shape[-2] not in (1, y):
            raise InputError(self.source, "mask", f"shape {tuple(mask.shape)}", f"(1, {y}, {x}) or (1, 1, {x})")
        if not self.gapless:
            raise InputError(
                self.source,
                "kspace",
                f"already undersampled data (acceleration {self.acceleration:.2f})",
                "fully sampled data for a retrospective mask; leave the mask out to reconstruct what was acquired",
            )
        mask = mask.to(self.mask.device) & self.mask
        if not mask.any():
            raise InputError(self.source, "mask", "no sampled location", "at least one")
        kspace = torch.where(mask.to(self.kspace.device)[:, None], self.kspace, 0)
        return replace(self, kspace=kspace, mask=mask)

    def to(self, device: torch.device | str) -> Acquisition:
        """Return this acquisition on `device`."""
        moved = {
            name: value.to(device)
            for name in ("kspace", "mask", "coil_maps", "reference")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)
