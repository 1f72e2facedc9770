"""How the parameters of a prior are learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mriinv.core.component import Component
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.core.types import Image


class ProblemSource(ABC):
    """Where trainers get images and measurements from."""

    @abstractmethod
    def images(self, count: int, generator: torch.Generator) -> Image:
        """Return clean images, complex64 ``(count, y, x)``, whose declared scale (99th percentile) is 1."""

    @abstractmethod
    def problem(self, images: Image, generator: torch.Generator) -> InverseProblem:
        """Return a random measurement of each image, the same one from the same state of `generator`.

        All scales of the problem are 1.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed training needs to go on with the same stream."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise and what to log beside it."""

    value: Tensor
    log: Mapping[str, float]


class Trainer(Component, ABC):
    """Turns training problems into a loss; the loop around it (optimiser, averaging, checkpoints) is the core's.

    `requires` is as for a solver: alternatives of capabilities of the prior.
    """

    kind = "trainer"
    requires: tuple[frozenset[str], ...] = ()

    def __init__(self, **settings: Any) -> None:
        self.settings = self.parse_settings(settings)

    @property
    def steps(self) -> int:
        """Number of updates in a whole training; the setting of this name unless a subclass says otherwise."""
        return int(self.settings.steps)

    @abstractmethod
    def parameter_groups(self, prior: Prior) -> list[dict[str, Any]]:
        """Return Adam's parameter groups, each with its base ``lr``."""

    @abstractmethod
    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on the base learning rates at update `step`."""

    @abstractmethod
    def loss(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        """Return the loss of update `step`, with a graph to the parameters of `prior` and to nothing else."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what must survive an interruption besides parameters and random state (persistent chains).

        Called before every update: without copies, of tensors that are replaced and never changed in place.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"trainer '{self.name}' keeps no state, found {sorted(state)}")
