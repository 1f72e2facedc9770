"""The one Fourier convention: centred and orthonormal, right for odd sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AXES = (-2, -1)


def fftc(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the centred orthonormal Fourier transform along `axes`; white noise stays white."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image, axes), dim=axes, norm="ortho"), axes)


def ifftc(kspace: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the inverse of `fftc`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes)


def fft2c(image: Tensor) -> Tensor:
    """Return the centred orthonormal 2D Fourier transform over the last two axes."""
    return fftc(image, AXES)


def ifft2c(kspace: Tensor) -> Tensor:
    """Return the inverse of `fft2c`."""
    return ifftc(kspace, AXES)


def centring_phases(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return complex Q and P with fft2c(x) = P · fft2(Q · x) / √(y·x), which needs no shift.

    With h = ⌊N/2⌋ along each axis, exp(−2πi (n−h)(k−h)/N) = exp(2πi h(k−h)/N) · exp(−2πi nk/N) · exp(2πi hn/N).

    Parameters
    ----------
    shape : (y, x)
    dtype : complex type of the result; the phases are formed in double precision
    """
    q, p = torch.ones(1, 1, dtype=torch.complex128), torch.ones(1, 1, dtype=torch.complex128)
    for axis, size in enumerate(shape):
        index, half = torch.arange(size), size // 2
        column = (-1, 1) if axis == 0 else (1, -1)
        q, p = (
            phase * torch.exp(2j * math.pi / size * (turns % size).to(q.dtype)).reshape(column)  # reduced, so exact
            for phase, turns in ((q, half * index), (p, half * (index - half)))
        )
    return q.to(dtype), p.to(dtype)
