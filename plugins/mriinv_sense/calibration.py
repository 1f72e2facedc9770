"""Coil maps by ESPIRiT on the centre of k-space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mriinv import Acquisition, InputError
from mriinv_sense.espirit import EspiritResult, espirit

FOLDED_EIGENVALUE = 0.9  # the second eigenvalue stays below this where the object does not overlap with itself
FOLDED_FRACTION = 0.03
FAINT = 0.1  # signal, relative to the largest, below which a pixel does not count as object
SPARE_SAMPLES = 2  # beyond two kernels; with fewer, eigenvalues drop inside the object and second ones rise


class Calibration(NamedTuple):
    """Maps ``(batch, coil, y, x)``, two eigenvalues ``(batch, 2, y, x)`` and remarks for the user."""

    coil_maps: Tensor
    eigenvalues: Tensor
    notes: tuple[str, ...]


def calibrate(acquisition: Acquisition, *, width: int, kernel_width: int, threshold: float, crop: float) -> Calibration:
    """Estimate maps by ESPIRiT, slice by slice.

    Parameters are those of `espirit`; `width` limits the calibration region along each axis.

    Raises
    ------
    InputError : the fully sampled centre is empty or narrower than two kernels, or no pixel passes `crop`
    """
    y, x = acquisition.kspace.shape[-2:]
    results, notes = [], []
    for index, coils in enumerate(acquisition.kspace):
        mask = acquisition.mask[index if len(acquisition.mask) > 1 else 0]
        rows, columns = calibration_region(mask.expand(y, x), width)
        region = coils[:, rows, columns]
        _require_region(acquisition.source, index, region, kernel_width, width)
        result = espirit(region, (y, x), kernel_width, threshold, crop)
        if not result.coil_maps.isfinite().all():
            found = f"a calibration region in slice {index} from which no maps follow"
            raise InputError(
                acquisition.source, "kspace", found, "samples of an object, or --maps <file with coil maps>"
            )
        if not result.coil_maps.any():
            raise InputError(
                acquisition.source,
                "kspace",
                f"no pixel of slice {index} with an ESPIRiT eigenvalue of {crop:g}",
                "an object with signal; try a lower operator.crop, or --maps <file with coil maps>",
            )
        results.append(result)
        notes += _remarks(f"slice {index}: " if len(acquisition.kspace) > 1 else "", region, kernel_width, result)
    maps, eigenvalues = (torch.stack(parts) for parts in zip(*results, strict=True))
    return Calibration(maps, eigenvalues, tuple(notes))


def _require_region(source: str, index: int, region: Tensor, kernel_width: int, width: int) -> None:
    # with fewer samples than two kernels the maps lose a fifth of the object and more
    least, silent = 2 * kernel_width, region.numel() > 0 and not region.any()
    if min(region.shape[1:]) < least or silent:
        raise InputError(
            source,
            "kspace",
            f"nothing to calibrate from in slice {index}: the fully sampled centre has {region.shape[1]}×"
            f"{region.shape[2]} samples (y×x, calibration_width {width})" + (", all zero" if silent else ""),
            f"at least {least}×{least}, twice operator.kernel_width; take a wider centre (of a mask that is drawn: "
            f"--acs {least}) or a smaller operator.kernel_width, or give --maps <file with coil maps>",
        )


def _remarks(where: str, region: Tensor, kernel_width: int, result: EspiritResult) -> list[str]:
    """Return what the user should know about the maps of one slice."""
    support = result.coil_maps.abs().sum(0) > 0
    # of the image that the calibration region shows
    energy = torch.fft.fftshift(torch.fft.ifft2(region, s=support.shape), dim=(-2, -1)).abs().square().sum(0)
    if min(region.shape[1:]) < 2 * kernel_width + SPARE_SAMPLES:
        lost = float(energy[~support].sum() / energy.sum())
        return [
            f"{where}the calibration region of {region.shape[1]}×{region.shape[2]} samples is narrow for a "
            f"kernel_width of {kernel_width}: the coil maps are uncertain and leave out {100 * lost:.0f} % of the "
            "signal energy; try a lower kernel_width"
        ]
    # beside the object the support goes on, across the border of the field of view too
    bright = support & (energy > FAINT**2 * energy.max())
    folded = float((result.eigenvalues[1][bright] > FOLDED_EIGENVALUE).float().mean())
    if folded <= FOLDED_FRACTION:
        return []
    return [
        f"{where}one set of coil maps cannot explain {100 * folded:.0f} % of the object (second ESPIRiT eigenvalue "
        f"above {FOLDED_EIGENVALUE:g}): the field of view is probably smaller than the object; expect artefacts there"
    ]


def calibration_region(mask: Tensor, width: int) -> tuple[slice, slice]:
    """Return the centred fully sampled rectangle of `mask` ``(y, x)`` with the longest short side, then area.

    No side is longer than `width`; empty slices when the centre itself was not sampled.
    """
    sampled: np.ndarray = mask.cpu().numpy()

    def centred(axis: int, length: int) -> slice:
        start = sampled.shape[axis] // 2 - length // 2
        return slice(start, start + length)

    best, best_size = (slice(0), slice(0)), (0, 0)
    for height in range(1, min(width, sampled.shape[0]) + 1):
        complete = np.all(sampled[centred(0, height)], axis=0)
        for length in range(1, min(width, sampled.shape[1]) + 1):
            size = (min(height, length), height * length)
            if size > best_size and complete[centred(1, length)].all():
                best, best_size = (centred(0, height), centred(1, length)), size
    return best
