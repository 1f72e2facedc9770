"""From a map of tissues to a complex image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from mriinv.core.problem import reference_scale
from mriinv.core.types import ImageSlice
from mriinv.data.texture import band_limit, bias_field, image_phase, power_law_fields, uniform, vessels
from mriinv.data.tissue import TEXTURE_STRENGTH, TISSUE, random_contrast

OVERSAMPLING = 2  # tissue maps have this many samples per pixel and axis


def render(
    tissues: Tensor, shape: tuple[int, int], generator: torch.Generator, shading: Tensor | None = None
) -> ImageSlice:
    """Render an oversampled tissue map with a random contrast.

    Parameters
    ----------
    tissues : uint8 ``(depth, 2 y, 2 x)``, indices into `TISSUES`; the signals of the planes are averaged, which
        models the thickness of the slice
    shape : size (y, x) of the image
    shading : real ``(y, x)`` factor on the signal, such as the end of the receivers' reach

    Returns
    -------
    complex64 ``(y, x)``, 99th percentile of the magnitude 1, no noise
    """
    grid = (tissues.shape[-2], tissues.shape[-1])
    magnitude = _signal(tissues, generator)
    empty = avg_pool2d((magnitude < 0.12).float()[None], 2 * OVERSAMPLING)[0]
    magnitude = magnitude * bias_field(grid, generator)
    if shading is not None:
        magnitude = magnitude * interpolate(shading[None, None], size=grid, mode="bilinear")[0, 0]
    phase = interpolate(image_phase(empty, generator)[None, None], size=grid, mode="bicubic")[0, 0]
    image = band_limit(torch.polar(magnitude, phase), shape, generator)
    return image / reference_scale(image[None])[:, None]


def _signal(tissues: Tensor, generator: torch.Generator) -> Tensor:
    """Return the positive signal ``(2 y, 2 x)`` of textured tissue with blurred borders and vessels."""
    grid = (tissues.shape[-2], tissues.shape[-1])
    contrast, indices = random_contrast(generator), tissues.long()
    signal, strength = contrast[indices], TEXTURE_STRENGTH[indices]
    texture, slow = power_law_fields(grid, uniform(0.7, 1.3, generator), generator)
    fibres, blend = power_law_fields(grid, uniform(1.3, 1.8, generator), generator, stretch=uniform(1, 3, generator))

    fat = _fat_fraction(tissues, 2 * fibres + uniform(-1.5, 0.5, generator))
    signal = (signal + fat * (contrast[TISSUE["fat"]] - signal)).mean(0)
    # tissues pass into each other over different widths, as where a border crosses the slice obliquely
    blurred = avg_pool2d(signal[None], 3, stride=1, padding=1)[0]
    signal = signal + torch.sigmoid(2 * blend - 0.5) * (blurred - signal)

    fine = torch.randn(grid, generator=generator)
    roughness = uniform(0.015, 0.06, generator)
    signal = signal * (1 + roughness * strength.mean(0) * (texture + 0.7 * slow + 0.8 * fine)).clamp(min=0)
    inside = tissues[0] != TISSUE["air"]
    lines = vessels(inside, int(uniform(20, 300, generator)), generator)
    return (signal * (1 + uniform(0.2, 0.8, generator) * lines) + uniform(0, 0.2, generator) * lines).clamp(min=0)


def _fat_fraction(tissues: Tensor, patches: Tensor) -> Tensor:
    """Return the fraction of fat in soft tissue, more near the skin: label maps do not tell fat from muscle."""
    skin = (tissues[:1] == TISSUE["skin"]).float()
    near_skin = interpolate(avg_pool2d(skin[None], 9, 4, padding=4), size=tissues.shape[-2:], mode="bilinear")[0]
    return torch.sigmoid(3 * (patches + 12 * near_skin)) * (tissues == TISSUE["muscle"])
