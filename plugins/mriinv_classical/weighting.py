"""How strongly a classical prior acts, from the noise of the measurements."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from mriinv import Prior, per_image

UNKNOWN_NOISE = 0.01  # where nobody measured it
LOWEST_NOISE = 0.002  # of the fits; below it errors of the model take over, and the weight stays


def follow_noise(noise_std: Tensor, factor: float, exponent: float) -> Tensor:
    """Return a weight `factor`·η^`exponent` for noise η per real component at reference scale 1, η at least 0.002.

    Factors and exponents were fitted to simulated scans only, so that the weight costs the least PSNR on average:
    label-map heads of 176 × 144 pixels, 8 coils, η from 0.002 to 0.04, Poisson discs of 4× and 6×, random lines of 2×
    and 4×. The best weights scatter around the rule by a factor of 1.5 (λ of priors) to 1.9 (CG-SENSE): Poisson discs
    of 4× ask for more, random lines of 4× for less.
    """
    return factor * noise_std.clamp_min(LOWEST_NOISE) ** exponent


class WeightedPrior(Prior):
    """A prior E(x) = λ R(x) whose weight follows the noise of the measurements, unless the setting `weight` is given.

    Where the noise is unknown, λ is that of η = 0.01. The rule assumes coil maps with unit sum of squares.
    """

    factor: ClassVar[float]
    exponent: ClassVar[float]

    _noise_std: Tensor = torch.tensor(UNKNOWN_NOISE)

    def at_noise(self, noise_std: Tensor) -> WeightedPrior:
        """Return this prior with the weight for measurements with noise η."""
        other = copy.copy(self)
        other._noise_std = noise_std
        return other

    @property
    def weight(self) -> float | Tensor:
        """λ, one number or one per image."""
        if self.settings.weight is not None:
            return float(self.settings.weight)
        return follow_noise(self._noise_std, self.factor, self.exponent)

    def threshold(self, image: Tensor, step: float | Tensor) -> Tensor:
        """Return λ·step in the real type of `image`, ``(batch|1, 1, 1)``."""
        return per_image(self.weight * step, image)
