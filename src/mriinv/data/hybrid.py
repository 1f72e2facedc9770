"""Hybrid space: image along the axes that are fully sampled, k-space along the others."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from mriinv.core.types import Mask


def fully_sampled_axes(mask: Mask) -> tuple[int, ...]:
    """Return which of the axes −2 (y) and −1 (x) the mask does not vary along, so that they can be transformed alone.

    Zero padding counts as variation: what lies beyond the samples was not measured.
    """
    return tuple(axis for axis in (-2, -1) if bool((mask == mask.narrow(axis, 0, 1)).all()))


@overload
def centre_crop(tensor: Tensor, shape: tuple[int, int] | None) -> Tensor: ...


@overload
def centre_crop(tensor: Tensor | None, shape: tuple[int, int] | None) -> Tensor | None: ...


def centre_crop(tensor: Tensor | None, shape: tuple[int, int] | None) -> Tensor | None:
    """Return the centre ``(..., y, x)`` of the last two axes; an axis that is already smaller stays as it is.

    No tensor stays None, and without a shape everything stays. Pixel ⌊n/2⌋, the origin of the centred
    Fourier transform, becomes pixel ⌊n'/2⌋.
    """
    if tensor is None or shape is None:
        return tensor
    for axis, wanted in zip((-2, -1), shape, strict=True):
        size = tensor.shape[axis]
        kept = min(size, wanted)
        tensor = tensor.narrow(axis, size // 2 - kept // 2, kept)
    return tensor
