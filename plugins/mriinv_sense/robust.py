"""Weights of k-space samples that their noise does not explain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mriinv import KSpace, Mask, PerImage

NEIGHBOURHOOD = 3  # samples along each axis over which residuals are averaged, as over the coils


def huber_weights(residual: KSpace, mask: Mask, noise_std: PerImage) -> Tensor:
    """Return min(1, η/ρ), the weights of Huber's loss with the noise η as its threshold, real ``(batch, y, x)``.

    ρ is the rms of the residual per real component, over the coils and the sampled neighbours in k-space, periodic. An
    image without noise, η = 0, has no threshold: its weights are 1.

    Parameters
    ----------
    residual : Ax − b; what `mask` leaves out is ignored
    noise_std : η per image, per real component
    """
    sampled = mask.to(residual.real.dtype).expand(-1, *residual.shape[-2:])
    power = sampled * 0.5 * residual.abs().square().mean(1)
    rms = (_neighbours(power) / _neighbours(sampled).clamp_min(1)).sqrt()
    threshold = noise_std.to(rms).view(-1, 1, 1)
    return torch.where(threshold > 0, threshold / torch.maximum(rms, threshold), 1)


def _neighbours(samples: Tensor) -> Tensor:
    """Return the sum over the neighbourhood of each sample ``(batch, y, x)``."""
    reach = NEIGHBOURHOOD // 2
    padded = functional.pad(samples[:, None], (reach,) * 4, mode="circular")
    return NEIGHBOURHOOD**2 * functional.avg_pool2d(padded, NEIGHBOURHOOD, stride=1)[:, 0]
