"""Persistent chains: true images, their measurements, and the fake images that go on from update to update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mriinv import Image, InverseProblem, ProblemSource


@dataclass
class ChainGroup:
    """One group of chains.

    Attributes
    ----------
    true, fake : images ``(batch, y, x)``
    drawn : state of the generator from which the measurements of `true` were drawn
    problem : these measurements; None after an interruption, until `measured` draws them again
    """

    true: Image
    fake: Image
    drawn: Tensor
    problem: InverseProblem | None = None

    def measured(self, source: ProblemSource, device: torch.device) -> InverseProblem:
        """Return the measurements, which need not be stored: `source` makes the same ones from the same state."""
        if self.problem is None:
            self.true, self.fake = self.true.to(device), self.fake.to(device)
            generator = torch.Generator(device)
            generator.set_state(self.drawn)
            self.problem = source.problem(self.true, generator)
        return self.problem


def groups_state(chains: Mapping[int, ChainGroup]) -> dict[str, Tensor]:
    """Return real tensors from which `restored_groups` makes the same chains."""
    state: dict[str, Tensor] = {}
    for index, chain in chains.items():
        images = {"true": torch.view_as_real(chain.true), "fake": torch.view_as_real(chain.fake)}
        state |= {f"{name}.{index}": value for name, value in {**images, "drawn": chain.drawn}.items()}
    return state


def restored_groups(state: Mapping[str, Tensor]) -> dict[int, ChainGroup]:
    """Return the chains of `groups_state`; other entries are left alone."""
    chains = {}
    for name in state:
        if name.startswith("drawn."):
            index = name.removeprefix("drawn.")
            true, fake = (torch.view_as_complex(state[f"{part}.{index}"]) for part in ("true", "fake"))
            chains[int(index)] = ChainGroup(true, fake, state[name])
    return chains
