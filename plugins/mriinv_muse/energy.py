"""The MuSE energy: half the square of what a denoising network removes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mriinv import ImageNetwork, NetworkSettings, Prior, per_image, setting

INPUT_SCALE = 0.1  # brings noise of the trained levels to the size that networks work at
REFERENCE_NOISE = 0.007  # of the measurements for which `weight` is meant, per real component
LEAST_NOISE = 5e-4  # that the energy follows; data without any noise need a prior as well


class MuseEnergy(Prior):
    r"""Multi-scale energy of an image (paper, eq. 17; Chand and Jacob 2024),

    .. math:: E(x) = w\,\frac{η}{η_0}\,\tfrac12 ‖x − ψ_θ(x)‖^2, \qquad ψ_θ(x) = x − σ_0 f_θ(x/σ_0),

    with f the network and σ₀ = 0.1. Training by `denoising` lets ∇(½‖x − ψ(x)‖²) predict white noise of any level up
    to 0.1, without being told the level. Such a gradient is σ² times a score, and no single weight is right for all
    levels: w, which also holds the η² that eq. 6 absorbs, was tuned on two simulated heads at noise η₀ = 0.007 and 4×
    Poisson discs (0.06 for `mm-cg`, 0.09 for `muse-mm`), and follows the noise of the measurements linearly.
    """

    name = "muse"
    provides = frozenset({"energy", "gradient", "denoiser"})
    adjustable = frozenset({"weight"})

    class Settings(NetworkSettings):
        weight: float = setting(0.06, "w, the factor on the energy at noise 0.007", gt=0, tune=(0.01, 10.0))

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.noise_factor: float | Tensor = 1.0
        self.network = ImageNetwork(self.settings)

    def at_noise(self, noise_std: Tensor) -> MuseEnergy:
        """Return the energy for measurements with noise η ≥ `LEAST_NOISE` (the parameters are shared)."""
        other = copy.copy(self)
        other.noise_factor = noise_std.double().clamp_min(LEAST_NOISE) / REFERENCE_NOISE
        return other

    def temperature(self, noise_std: Tensor) -> Tensor:
        """Return ηη₀, where E/T is the same energy at every noise; the likelihood is then that of noise √(ηη₀)."""
        return REFERENCE_NOISE**2 * torch.ones_like(noise_std) * self.noise_factor

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        return self._factor(image) * self.network.half_square(image, INPUT_SCALE)

    def energy_and_gradient(
        self, image: Tensor, noise_level: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        if create_graph:
            return super().energy_and_gradient(image, noise_level, create_graph=True)
        value, gradient = self.network.half_square_and_gradient(image, INPUT_SCALE)
        factor = self._factor(image)
        return factor * value, per_image(factor, image) * gradient

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return x − ∇(½‖x − ψ(x)‖²); the level is not asked for."""
        if not create_graph:
            return image - INPUT_SCALE**2 * self.network.half_square_and_gradient(image, INPUT_SCALE)[1]
        with torch.enable_grad():
            leaf = image if image.requires_grad else image.detach().requires_grad_()
            potential = INPUT_SCALE**2 * self.network.half_square(leaf, INPUT_SCALE).sum()
            (gradient,) = torch.autograd.grad(potential, leaf, create_graph=True)
        return image - gradient

    def _factor(self, image: Tensor) -> Tensor:
        """Return the factor on ½‖f(x/σ₀)‖² per image."""
        return torch.as_tensor(
            INPUT_SCALE**2 * self.settings.weight * self.noise_factor, dtype=torch.float64, device=image.device
        ).expand(len(image))
