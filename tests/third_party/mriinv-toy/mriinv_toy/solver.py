"""Steepest descent."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, InverseProblem, Monitor, Prior, Solution, Solver, setting


class GradientDescent(Solver):
    """x ← x − step·(Aᴴ(Ax − b) + ∇E(x)), a fixed number of times."""

    name = "gradient-descent"
    requires = (frozenset({"gradient"}),)

    class Settings(ComponentSettings):
        step: float = setting(1.0, "step size", gt=0)
        iterations: int = setting(60, "number of steps", ge=1)

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
        back_projection = problem.back_projection()
        image = back_projection if initial is None else initial
        for iteration in range(self.settings.iterations):
            gradient = problem.data_gradient(image, back_projection) + prior.gradient(image)
            image = image - self.settings.step * gradient
            if monitor is not None:
                monitor(iteration + 1, {"gradient": float(gradient.abs().max())})
        done = torch.full((problem.batch,), self.settings.iterations)
        return Solution(image, torch.ones_like(done, dtype=torch.bool), done)
