"""Energies that a network makes: cost, gradient and denoiser of one potential."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from mriinv.core.following import FollowsNoise
from mriinv.core.types import Image, PerImage
from mriinv.numerics.images import per_image


class PotentialNetwork(Protocol):
    """A network that makes a potential P(x, σ) ≥ 0 of complex images ``(batch, y, x)``, and writes its gradient out."""

    def potential(self, image: Image, level: PerImage) -> PerImage:
        """Return P(x, σ) per image in float64, with a graph where gradients are enabled."""

    def potential_and_gradient(self, image: Image, level: PerImage) -> tuple[PerImage, Image]:
        """Return P(x, σ) and its gradient ∂Re + i∂Im, without a graph and without the help of autograd."""


class NetworkEnergy(FollowsNoise):
    """The energy E_σ(x) = γ·c·P(x, σ), with P from `network`, c from `scale` and γ from the noise of the data.

    Where denoising trained the network, x − σ²∇P(x, σ) is the clean image, whatever γc is. Solvers and samplers get
    the gradient that the network writes out; trainings, which need a graph to the parameters, that of autograd.

    A subclass sets `network` and overrides `scale`.

    Attributes
    ----------
    reference_level : σ where no level is asked for, and always in a prior without `noise_range`
    noise_exponent : p in γ = (η/η₀)^p (`FollowsNoise`); samplers have 2 above η₀ (`in_posterior`)
    """

    network: PotentialNetwork
    reference_level: float = 0.1

    @abstractmethod
    def scale(self) -> Tensor:
        """Return c in float64, a scalar."""

    def factor(self) -> Tensor:
        """Return γc in float64: a scalar or one per image."""
        return self.noise_factor * self.scale()

    def in_posterior(self, noise_std: PerImage) -> NetworkEnergy:
        """Return the energy with γ = max((η/η₀)^p, (η/η₀)²): no likelihood is sharper than the noise."""
        return self._as_strong(noise_std, 1.0)

    def temperature(self, noise_std: PerImage) -> PerImage:
        """Return γη₀², where E/T is the energy of the training again; the likelihood is then that of noise η₀√γ."""
        if self.trained_noise is None:
            return super().temperature(noise_std)
        return self.trained_noise**2 * torch.ones_like(noise_std) * self.noise_factor

    def potential(self, image: Image, level: PerImage) -> PerImage:
        return self.network.potential(image, level)

    def potential_and_gradient(self, image: Image, level: PerImage) -> tuple[PerImage, Image]:
        return self.network.potential_and_gradient(image, level)

    def energy(self, image: Image, noise_level: float | Tensor | None = None) -> PerImage:
        return self.factor().to(image.device) * self.potential(image, self._level(image, noise_level))

    def energy_and_gradient(
        self, image: Image, noise_level: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[PerImage, Image]:
        if create_graph:
            return super().energy_and_gradient(image, noise_level, create_graph=True)
        potential, gradient = self.potential_and_gradient(image, self._level(image, noise_level))
        factor = self.factor().detach().to(image.device)
        return factor * potential, per_image(factor, image) * gradient

    def denoise(self, image: Image, noise_level: float | Tensor, *, create_graph: bool = False) -> Image:
        """Return x − σ²∇P(x, σ), with σ held within `noise_range`."""
        if "denoiser" not in self.provides:
            raise self.missing("denoiser")
        level = self._level(image, noise_level)
        if self.noise_range is not None:
            level = level.clamp(*self.noise_range)
        if not create_graph:
            image = image.detach()
            return image - per_image(level, image).square() * self.potential_and_gradient(image, level)[1]
        with torch.enable_grad():
            leaf = image if image.requires_grad else image.detach().requires_grad_()
            potential = (level.double().square() * self.potential(leaf, level)).sum()
            (gradient,) = torch.autograd.grad(potential, leaf, create_graph=True)
        return image - gradient

    def _level(self, image: Image, noise_level: float | Tensor | None) -> PerImage:
        level = self.reference_level if noise_level is None or self.noise_range is None else noise_level
        return torch.as_tensor(level, dtype=image.real.dtype, device=image.device).expand(len(image))
