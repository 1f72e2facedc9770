"""Priors that stand between a caller and another prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem, Solution
from mriinv.core.solver import Monitor
from mriinv.core.types import Image, PerImage


class Delegate(Prior, ABC):
    """Has another prior evaluate what it is asked for, in a way that subclasses define.

    Learned reconstructions and the penalties of end-to-end training are left to the other prior alone.
    """

    def __init__(self, prior: Prior) -> None:
        nn.Module.__init__(self)
        self.prior, self.settings = prior, prior.settings
        self.provides, self.noise_range = prior.provides, prior.noise_range
        self.name = prior.name  # type: ignore[misc]

    def temperature(self, noise_std: PerImage) -> PerImage:
        return self.prior.temperature(noise_std)

    def excess_noise(self, noise_std: PerImage) -> PerImage:
        return self.prior.excess_noise(noise_std)

    def noise_remark(self, noise_std: PerImage) -> str | None:
        return self.prior.noise_remark(noise_std)

    def level_range(
        self, highest: float | None, lowest: float | None, open_std: PerImage
    ) -> tuple[float, PerImage] | None:
        return self.prior.level_range(highest, lowest, open_std)

    @abstractmethod
    def evaluate(self, method: Callable[..., Any], image: Image, noise_level: Any, **options: Any) -> Any:
        """Return ``method(image, noise_level, **options)``, a method of the other prior."""

    def energy(self, image: Image, noise_level: float | Tensor | None = None) -> PerImage:
        return self.evaluate(self.prior.energy, image, noise_level)

    def gradient(self, image: Image, noise_level: float | Tensor | None = None) -> Image:
        return self.evaluate(self.prior.gradient, image, noise_level)

    def energy_and_gradient(
        self, image: Image, noise_level: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[PerImage, Image]:
        return self.evaluate(self.prior.energy_and_gradient, image, noise_level, create_graph=create_graph)

    def denoise(self, image: Image, noise_level: float | Tensor, *, create_graph: bool = False) -> Image:
        return self.evaluate(self.prior.denoise, image, noise_level, create_graph=create_graph)

    def score(self, image: Image, noise_level: float | Tensor | None) -> Image:
        return self.evaluate(self.prior.score, image, noise_level)

    def proximal(self, image: Image, step: float | PerImage, memory: dict[str, Tensor] | None = None) -> Image:
        return self.prior.proximal(image, step, memory)

    def reconstruct(
        self, problem: InverseProblem, *, initial: Image | None = None, monitor: Monitor | None = None
    ) -> Solution:
        return self.prior.reconstruct(problem, initial=initial, monitor=monitor)

    def penalty(self, image: Image, generator: torch.Generator) -> Tensor:
        return self.prior.penalty(image, generator)


class Watched(Delegate):
    """Shows `note` every image at which the other prior is evaluated: the iterates of a solver, in its units."""

    def __init__(self, prior: Prior, note: Callable[[Image], None]) -> None:
        super().__init__(prior)
        self._note = note

    def at_noise(self, noise_std: PerImage) -> Watched:
        return Watched(self.prior.at_noise(noise_std), self._note)

    def in_posterior(self, noise_std: PerImage) -> Prior:
        return Watched(self.prior.in_posterior(noise_std), self._note)

    def one_view(self) -> Watched:
        return Watched(self.prior.one_view(), self._note)

    def evaluate(self, method: Callable[..., Any], image: Image, noise_level: Any, **options: Any) -> Any:
        self._note(image)
        return method(image, noise_level, **options)

    def proximal(self, image: Image, step: float | PerImage, memory: dict[str, Tensor] | None = None) -> Image:
        self._note(image)
        return self.prior.proximal(image, step, memory)
