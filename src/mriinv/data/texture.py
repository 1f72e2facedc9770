"""What makes a rendered slice look measured: texture, vessels, shading, phase and a limited bandwidth."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mriinv.numerics.fft import fft2c, ifft2c


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Return one number uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float32))


def frequencies(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the centred spatial frequencies along y ``(y, 1)`` and x ``(1, x)`` in cycles per pixel."""
    ky, kx = (torch.fft.fftshift(torch.fft.fftfreq(size)) for size in shape)
    return ky[:, None], kx[None]


def smooth_field(shape: tuple[int, int], knots: int, generator: torch.Generator) -> Tensor:
    """Return a smooth random field ``(y, x)`` of unit variance at its knots: a coarse grid, interpolated."""
    coarse = torch.randn(knots, knots, generator=generator, dtype=torch.float32)  # whatever the default is
    return _interpolation(shape[0], knots) @ coarse @ _interpolation(shape[1], knots).T


@lru_cache(maxsize=64)
def _interpolation(size: int, knots: int) -> Tensor:
    """Return the matrix ``(size, knots)`` of cubic interpolation, several times faster than interpolating in 2D."""
    identity = torch.eye(knots, dtype=torch.float32)[None, None]
    return interpolate(identity, size=(size, knots), mode="bicubic", align_corners=True)[0, 0]


def power_law_fields(
    shape: tuple[int, int], exponent: float, generator: torch.Generator, stretch: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return two independent fields ``(y, x)`` of unit variance whose amplitude spectrum falls as 1/|k|^exponent.

    `stretch` is the ratio of the fields' correlation lengths along and across a random direction.
    """
    ky, kx = frequencies(shape)
    if stretch != 1:
        angle, root = uniform(0, math.pi, generator), math.sqrt(stretch)
        along, across = (ky * math.sin(angle) + kx * math.cos(angle)), (ky * math.cos(angle) - kx * math.sin(angle))
        ky, kx = along * root, across / root
    amplitude = (ky**2 + kx**2 + (1.0 / 64) ** 2).pow(-exponent / 2)
    amplitude = amplitude / amplitude.square().mean().sqrt()
    noise = torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=torch.float32))
    field = torch.fft.ifft2(torch.fft.ifftshift(amplitude) * noise, norm="ortho")
    return field.real, field.imag


def vessels(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return thin meandering lines and dots inside `mask` ``(y, x)`` with values in [-1, 1], zero elsewhere."""
    inside = mask.flatten().nonzero()[:, 0]
    if len(inside) == 0 or count == 0:
        return torch.zeros(mask.shape)
    steps = 60
    start = inside[torch.randint(len(inside), (count,), generator=generator)]
    y, x = (start // mask.shape[1]).float(), (start % mask.shape[1]).float()
    turn = 0.15 * torch.randn(count, steps, generator=generator, dtype=torch.float32)
    angle = 2 * math.pi * torch.rand(count, 1, generator=generator, dtype=torch.float32) + turn.cumsum(1)
    # most are dots (vessels through the plane), the lengths of the others are spread
    length = (steps * torch.rand(count, 1, generator=generator, dtype=torch.float32) ** 3).clamp(min=2)
    rows = (y[:, None] + 0.7 * angle.sin().cumsum(1)).round().long()
    columns = (x[:, None] + 0.7 * angle.cos().cumsum(1)).round().long()
    keep = (torch.arange(steps)[None] < length) & (rows >= 0) & (columns >= 0)
    keep &= (rows < mask.shape[0]) & (columns < mask.shape[1])
    strength = (2 * torch.rand(count, 1, generator=generator, dtype=torch.float32) - 1).pow(3).expand(-1, steps)
    lines = torch.zeros(mask.shape)
    # lines cross: NumPy lets the last value win, torch the thread that comes last
    lines.numpy()[rows[keep].numpy(), columns[keep].numpy()] = strength[keep].numpy()
    return torch.where(mask, lines, 0)


def bias_field(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return the positive smooth shading ``(y, x)`` left by the receivers, mostly brighter near the surface."""
    v, u = torch.linspace(-1, 1, shape[0])[:, None], torch.linspace(-1, 1, shape[1])[None]
    strength, surface = uniform(0.02, 0.2, generator), uniform(-0.2, 0.7, generator)
    smooth = strength * smooth_field(shape, 3, generator) + 0.03 * smooth_field(shape, 6, generator)
    return torch.exp(smooth + surface * (v**2 + u**2))


def image_phase(air: Tensor, generator: torch.Generator) -> Tensor:
    """Return a phase ``(y, x)`` in radians: second-order shim, smooth remainder, and the field of air and bone.

    The last is the field of a dipole distribution in the plane (main field along a random direction), low-passed:
    as in gradient-echo images it is steepest beside sinuses.
    """
    y, x = air.shape
    v, u = torch.linspace(-1, 1, y)[:, None], torch.linspace(-1, 1, x)[None]
    c = torch.randn(5, generator=generator, dtype=torch.float32) * torch.tensor([1.5, 1.5, 0.8, 0.8, 0.8])
    phase = c[0] * v + c[1] * u + c[2] * v * v + c[3] * u * u + c[4] * u * v
    phase = phase + uniform(0, 0.4, generator) * smooth_field((y, x), 7, generator)
    amplitude = max(0.0, uniform(-4, 6, generator))
    ky, kx = frequencies((y, x))
    angle = uniform(0, math.pi, generator)
    squared = ky**2 + kx**2
    along = ky * math.cos(angle) + kx * math.sin(angle)
    dipole = (1 / 3 - along**2 / squared.clamp(min=1e-9)) * torch.exp(-squared * (2 * math.pi * 2.0) ** 2 / 2)
    return phase + amplitude * ifft2c(dipole * fft2c(air.to(torch.complex64))).real


def band_limit(image: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Crop the k-space of an oversampled complex image to `shape`, as a scan of that matrix does.

    A mild roll-off and, at times, fewer acquired lines than pixels vary resolution and ringing.
    """
    y, x = (big // 2 - small // 2 for big, small in zip(image.shape, shape, strict=True))
    kspace = fft2c(image)[y : y + shape[0], x : x + shape[1]]
    ky, kx = frequencies(shape)
    width = uniform(0.0, 0.4, generator)  # standard deviation of the point-spread function in pixels
    edge = [uniform(0.42, 0.5, generator) if uniform(0, 1, generator) < 0.3 else 0.55 for _ in range(2)]
    rolloff = uniform(0.005, 0.06, generator)
    window = torch.exp(-(ky**2 + kx**2) * (2 * math.pi * width) ** 2 / 2)
    window = window * torch.sigmoid((edge[0] - ky.abs()) / rolloff) * torch.sigmoid((edge[1] - kx.abs()) / rolloff)
    return ifft2c(kspace * window)
