"""Complex images as real ones of two channels, which networks and deepinv take."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv.errors import InputError


def to_channels(values: Tensor) -> Tensor:
    """Return complex ``(batch, …)`` as real ``(batch, 2, …)``: real part, imaginary part."""
    return torch.view_as_real(values.resolve_conj()).movedim(-1, 1).contiguous()


def from_channels(channels: Tensor) -> Tensor:
    """Return real ``(batch, 2, …)`` as complex ``(batch, …)``."""
    if channels.ndim < 2 or channels.shape[1] != 2:
        raise InputError("from_channels", "channels", f"shape {tuple(channels.shape)}", "(batch, 2, …)")
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())
