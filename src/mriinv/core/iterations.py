"""What iterative solvers keep of every image of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv.core.problem import Solution
from mriinv.core.solver import Monitor
from mriinv.core.types import Image, PerImage


class Iterations:
    """Which images of a batch still move, how many iterations each took, and the history of all.

    ``while iterations:`` goes on until no image moves or `most` iterations are recorded. An image stops where the
    solver sets `converged`, its stopping rule, or `failed`, anything else; `record` the iteration before.

    Attributes
    ----------
    converged, failed : bool ``(batch,)``
    count : int ``(batch,)``, recorded while the image moved

    Parameters
    ----------
    image : the start, for the size of the batch and the device
    most : largest number of iterations
    monitor : told, at each iteration, the mean over the batch of what is `shown`
    """

    def __init__(self, image: Image, most: int, monitor: Monitor | None = None) -> None:
        self.count = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        self.converged = torch.zeros_like(self.count, dtype=torch.bool)
        self.failed = self.converged.clone()
        self._most, self._monitor = most, monitor
        self._rows: list[dict[str, PerImage]] = []

    @property
    def moving(self) -> Tensor:
        """Bool ``(batch,)``: neither converged nor failed."""
        return ~(self.converged | self.failed)

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return len(self) < self._most and bool(self.moving.any())

    def record(self, shown: str, **row: PerImage) -> None:
        """Count an iteration of the images that move, and keep a row of the history, with what is `shown` in it."""
        self.count += self.moving
        self._rows.append(row)
        if self._monitor is not None:
            self._monitor(len(self), {shown: float(row[shown].mean())})

    def solution(self, image: Image, notes: tuple[str, ...] = ()) -> Solution:
        """Return `image` as the result of the iterations recorded, of which there is at least one."""
        history = {name: torch.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        return Solution(image, self.converged, self.count, history, notes)
