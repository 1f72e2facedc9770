"""Losses that several trainers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mriinv.core.prior import Prior
from mriinv.core.types import Image
from mriinv.numerics.images import per_image
from mriinv.numerics.noise import complex_noise


def log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return `count` noise levels whose logarithm is uniform in [log low, log high], 0 < low, in the unit of these."""
    return (
        torch.empty(count, device=generator.device).uniform_(math.log(low), math.log(high), generator=generator).exp()
    )


def denoising_score_matching(
    prior: Prior,
    images: Image,
    levels: Tensor,
    generator: torch.Generator,
    *,
    relative: bool = True,
    data_std: float | None = None,
) -> Tensor:
    """Return the mean of |D_σ(x + σz) − x|²/(2σ²) per pixel (Vincent 2011): 1 for a denoiser that does nothing.

    Parameters
    ----------
    levels : σ per image, standard deviation per real component
    relative : whether to divide by σ², so that every level counts the same; half the bare square error otherwise
    data_std : σ_d: the factor 1/σ² becomes 1/σ² + 1/σ_d², so that levels at which the noise hides the image, and where
        1/σ² of the error says little, count as well (Karras 2022, arXiv:2206.00364)
    """
    sigma = per_image(levels, images)
    noisy = images + sigma * complex_noise(images.shape, 1.0, generator, images.dtype)
    residual = prior.denoise(noisy, levels, create_graph=True) - images
    floor = 0.0 if data_std is None else data_std**-2
    weights = 0.5 * (sigma**-2 + floor) if relative else torch.tensor(0.5)
    return (weights * residual.abs().square()).mean()
