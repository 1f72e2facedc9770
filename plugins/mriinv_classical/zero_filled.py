"""The zero-filled image."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import InverseProblem, Monitor, Prior, Solution, Solver


class ZeroFilled(Solver):
    """Return Aᴴb, over Σ|c|² of coil maps c: what was not sampled is zero. Needs no prior, ignores where to start."""

    name = "zero-filled"

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        image = problem.zero_filled()
        stopped = torch.ones(problem.batch, dtype=torch.bool, device=image.device)
        return Solution(image, stopped, torch.zeros_like(stopped, dtype=torch.int64))
