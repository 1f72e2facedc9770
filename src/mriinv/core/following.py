"""Learned priors whose strength follows the noise of the data."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor

from mriinv.core.component import ComponentSettings, setting
from mriinv.core.prior import Prior
from mriinv.core.problem import LEAST_NOISE
from mriinv.core.types import PerImage
from mriinv.numerics.images import per_image

F = TypeVar("F", bound="FollowsNoise")
TRAINING_NOISE = 0.007  # of measurements in training, per real component, image scale 1
FAR = 4.0  # times the noise of the training: TV is better there than most learned priors, at 8 times and 2D than all


class NoiseSettings(ComponentSettings):
    """The noise of the training, for the settings of a prior to inherit."""

    data_noise_std: float | None = setting(
        TRAINING_NOISE,
        "noise η₀ of the measurements in training; none: do not follow the noise of the data",
        gt=0,
        unit="std per real component, image scale 1",
    )


class FollowsNoise(Prior):
    """A prior that is γ = max((η/η₀)^p, κ(η/η₀)²) times as strong as it was learned, for data of noise η per real
    component.

    A subclass multiplies by `noise_factor` where its strength against the data is decided.

    Attributes
    ----------
    trained_noise : η₀, the noise of the measurements that the prior is right for; None: γ = 1 whatever the noise
    noise_exponent : p. Eq. 6 absorbs the variance of the noise, which would make it 2 for an exact prior; the error of
        one that is not exact does not shrink with the noise
    variance_share : κ, of what an exact prior would have: the least γ is κ(η/η₀)². Above the noise of the training a
        prior that grows more slowly than the variance loses to the noise
    noise_factor : γ of the data at hand
    """

    trained_noise: float | None
    noise_exponent: float = 1.0
    variance_share: float = 0.0
    noise_factor: float | Tensor = 1.0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.trained_noise = getattr(self.settings, "data_noise_std", None)

    @classmethod
    def settings_for_noise(cls, noise_std: float) -> dict[str, Any]:
        return {"data_noise_std": noise_std} if noise_std and issubclass(cls.Settings, NoiseSettings) else {}

    def at_noise(self, noise_std: PerImage) -> FollowsNoise:
        """Return the prior with the γ of η ≥ `LEAST_NOISE` (the parameters are shared)."""
        return self._as_strong(noise_std, self.variance_share)

    def _as_strong(self: F, noise_std: PerImage, share: float) -> F:
        """Return the prior with the γ of these η where κ is `share`."""
        if self.trained_noise is None:
            return self
        other, ratio = copy.copy(self), self.noise_ratio(noise_std)
        other.noise_factor = (ratio**self.noise_exponent).maximum(share * ratio**2)
        return other

    def noise_remark(self, noise_std: PerImage) -> str | None:
        """Say where the noise is more than `FAR` times that of the training."""
        if self.trained_noise is None or (ratio := float(self.noise_ratio(noise_std).max())) <= FAR:
            return None
        return (
            f"the noise is {ratio:.1f} times that of the training of prior '{self.name}': compare with a classical "
            "one, such as tv"
        )

    def excess_noise(self, noise_std: PerImage) -> PerImage:
        return (noise_std.square() - (self.trained_noise or 0.0) ** 2).clamp_min(0).sqrt()

    def noise_ratio(self, noise_std: PerImage) -> Tensor:
        """Return η/η₀ in float64; only where η₀ is known."""
        assert self.trained_noise is not None
        return noise_std.double().clamp_min(LEAST_NOISE) / self.trained_noise

    def strength(self, values: Tensor) -> Tensor:
        """Return γ, ``(1 or batch, 1, …)``, to be multiplied with `values` ``(batch, …)``, in their precision."""
        return per_image(self.noise_factor, values)
