"""From a map of tissues to a complex image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from mriinv.core.types import ImageSlice
from mriinv.data.texture import band_limit, bias_field, image_phase, power_law_fields, smooth_field, uniform, vessels
from mriinv.data.tissue import TEXTURE_STRENGTH, TISSUE

OVERSAMPLING = 2  # tissue maps have this many samples per pixel and axis


def render(
    tissues: Tensor,
    shape: tuple[int, int],
    contrast: Tensor,
    seed: int,
    generator: torch.Generator,
    shading: Tensor | None = None,
) -> ImageSlice:
    """Render an oversampled tissue map.

    Parameters
    ----------
    tissues : uint8 ``(depth, 2 y, 2 x)``, indices into `TISSUES`; the signals of the planes are averaged, which
        models the thickness of the slice
    shape : size (y, x) of the image
    contrast : signal of every tissue, real ``(tissue,)``
    seed : determines what the slices of a scan share: shading, phase, resolution, strength of the texture
    generator : of texture and vessels
    shading : real ``(y, x)`` factor on the signal, such as the end of the receivers' reach

    Returns
    -------
    complex64 ``(y, x)`` without noise, in the units of `contrast`
    """
    grid = (tissues.shape[-2], tissues.shape[-1])
    shared = torch.Generator().manual_seed(seed)
    magnitude = _signal(tissues, contrast, shared, generator)
    empty = avg_pool2d((magnitude < 0.12 * magnitude.max()).float()[None], 2 * OVERSAMPLING)[0]
    magnitude = magnitude * bias_field(grid, shared)
    if shading is not None:
        magnitude = magnitude * interpolate(shading[None, None], size=grid, mode="bilinear")[0, 0]
    phase = interpolate(image_phase(empty, shared)[None, None], size=grid, mode="bicubic")[0, 0]
    return band_limit(torch.polar(magnitude, phase), shape, shared)


def _signal(tissues: Tensor, contrast: Tensor, shared: torch.Generator, generator: torch.Generator) -> Tensor:
    """Return the positive signal ``(2 y, 2 x)`` of textured tissue with blurred borders and vessels."""
    grid, indices = (tissues.shape[-2], tissues.shape[-1]), tissues.long()
    signal, strength = contrast[indices], TEXTURE_STRENGTH[indices]
    texture, slow = power_law_fields(grid, uniform(0.7, 1.3, shared), generator)
    fibres, blend = power_law_fields(grid, uniform(1.3, 1.8, shared), generator, stretch=uniform(1, 3, shared))

    # fat lies between muscles: along the zero contours of a smooth field
    planes = smooth_field(grid, round(uniform(16, 32, shared)), generator).abs()
    fat = _fat_fraction(tissues, uniform(-0.5, 1.5, shared) + 0.5 * fibres - 6 * planes)
    signal = (signal + fat * (contrast[TISSUE["fat"]] - signal)).mean(0)
    # tissues pass into each other over different widths, as where a border crosses the slice obliquely
    blurred = avg_pool2d(signal[None], 3, stride=1, padding=1)[0]
    signal = signal + torch.sigmoid(2 * blend - 0.5) * (blurred - signal)

    fine = torch.randn(grid, generator=generator, dtype=torch.float32)
    roughness = uniform(0.015, 0.11, shared)
    signal = signal * (1 + roughness * strength.mean(0) * (texture + 0.7 * slow + 1.1 * fine)).clamp(min=0)
    inside = tissues[0] != TISSUE["air"]
    lines = vessels(inside, int(uniform(20, 300, shared)), generator)
    brightest = contrast.max()
    lines = (signal * uniform(0.2, 0.8, shared) + brightest * uniform(0, 0.2, shared)) * lines
    return (signal + lines).clamp(min=0)


def _fat_fraction(tissues: Tensor, patches: Tensor) -> Tensor:
    """Return the fraction of fat in soft tissue, more near the skin: label maps do not tell fat from muscle."""
    skin = (tissues[:1] == TISSUE["skin"]).float()
    near_skin = interpolate(avg_pool2d(skin[None], 9, 4, padding=4), size=tissues.shape[-2:], mode="bilinear")[0]
    return torch.sigmoid(3 * (patches + 30 * near_skin)) * (tissues == TISSUE["muscle"])
