"""Hybrid space: image along the axes that are fully sampled, k-space along the others."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv.core.types import KSpace, Mask


def fully_sampled_axes(mask: Mask) -> tuple[int, ...]:
    """Return which of the axes −2 (y) and −1 (x) the mask does not vary along, so that they can be transformed alone.

    Zero padding counts as variation: what lies beyond the samples was not measured.
    """
    return tuple(axis for axis in (-2, -1) if bool((mask == mask.narrow(axis, 0, 1)).all()))


def to_image(kspace: KSpace, axes: tuple[int, ...]) -> KSpace:
    """Return the centred orthonormal inverse Fourier transform along `axes`; white noise stays white."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes)


def to_kspace(hybrid: KSpace, axes: tuple[int, ...]) -> KSpace:
    """Return the inverse of `to_image`."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(hybrid, axes), dim=axes, norm="ortho"), axes)


def centre_crop(tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the centre ``(..., y, x)`` of the last two axes; an axis that is already smaller stays as it is.

    Pixel ⌊n/2⌋, the origin of the centred Fourier transform, becomes pixel ⌊n'/2⌋.
    """
    for axis, wanted in zip((-2, -1), shape, strict=True):
        size = tensor.shape[axis]
        kept = min(size, wanted)
        tensor = tensor.narrow(axis, size // 2 - kept // 2, kept)
    return tensor
