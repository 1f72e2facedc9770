"""Arithmetic on batches of images."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from torch import Tensor

DISPLAY_PERCENTILE = 99.5


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """Return Re⟨first, second⟩ per image of two complex ``(batch, …)``, summed in float64."""
    one, other = (torch.view_as_real(image.resolve_conj()).double() for image in (first, second))
    return (one * other).flatten(1).sum(1)


def relative_norm(part: Tensor, whole: Tensor) -> Tensor:
    """Return ‖part‖/‖whole‖ per image, in float64; zero where both are."""
    smallest = torch.finfo(torch.float64).tiny
    return (inner_product(part, part) / inner_product(whole, whole).clamp_min(smallest)).sqrt()


def per_image(values: float | Tensor, like: Tensor) -> Tensor:
    """Return one number, or one per image, as ``(1 or batch, 1, …)``, to multiply `like` ``(batch, …)`` with.

    In the real type of `like`, and on its device.
    """
    return torch.as_tensor(values, dtype=like.real.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))


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


def magnitude(image: Tensor) -> np.ndarray:
    """Return |image| as a float64 array."""
    return image.detach().abs().to("cpu", torch.float64).numpy()


def display_limit(image: Tensor) -> float:
    """Return the `DISPLAY_PERCENTILE` of the finite magnitudes, the upper end of a grey window; 1 where that is 0."""
    values = magnitude(image)
    finite = values[np.isfinite(values)]
    return (float(np.percentile(finite, DISPLAY_PERCENTILE)) if finite.size else 0.0) or 1.0
