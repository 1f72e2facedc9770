"""Weights of k-space samples that their noise does not explain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mriinv import KSpace, Mask, PerImage

NEIGHBOURHOOD = 3  # samples along each axis over which residuals are averaged, as over the coils


def huber_weights(residual: KSpace, mask: Mask, noise_std: PerImage) -> Tensor:
    """Return min(1, η/ρ), the weights of Huber's loss with the noise η as its threshold, real ``(batch, y, x)``.

    ρ is the rms of the residual per real component, over the coils and the sampled neighbours in k-space, periodic.

    Parameters
    ----------
    residual : Ax − b, zero where nothing was sampled
    noise_std : η per image, per real component
    """
    sampled = mask.to(residual.real.dtype).expand(-1, *residual.shape[-2:])
    variance = _neighbours(0.5 * residual.abs().square().mean(1)) / _neighbours(sampled).clamp_min(1)
    threshold = noise_std.to(variance).view(-1, 1, 1)
    return threshold / torch.maximum(variance.sqrt(), threshold)


def _neighbours(samples: Tensor) -> Tensor:
    """Return the sum over the neighbourhood of each sample ``(batch, y, x)``."""
    reach = NEIGHBOURHOOD // 2
    padded = functional.pad(samples[:, None], (reach,) * 4, mode="circular")
    return NEIGHBOURHOOD**2 * functional.avg_pool2d(padded, NEIGHBOURHOOD, stride=1)[:, 0]
