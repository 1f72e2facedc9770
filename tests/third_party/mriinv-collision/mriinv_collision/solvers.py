"""Solvers that return the zero-filled image, so that a test can tell who answered."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import InverseProblem, Monitor, Prior, Solution, Solver


class OtherMMCG(Solver):
    """Return Aᴴb."""

    name = "mm-cg"

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        done = torch.zeros(problem.batch)
        return Solution(problem.back_projection(), done == 0, done.int())


class OtherDescent(OtherMMCG):
    """Return Aᴴb, too."""

    name = "gradient-descent"
    requires = (frozenset({"gradient"}),)
