"""The solver of priors that bring their own reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import InverseProblem, Monitor, Prior, Solution, Solver


class EndToEnd(Solver):
    """Runs the reconstruction that a prior has learned together with the operator; its settings are the prior's."""

    name = "end-to-end"
    requires = (frozenset({"reconstruction"}),)

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        assert prior is not None
        return prior.reconstruct(problem, initial=initial, monitor=monitor)
