"""CG-SENSE: regularised least squares by conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, InverseProblem, Monitor, Prior, Solution, Solver, setting


class CGSense(Solver):
    """Solve (AᴴA + λI) x = Aᴴb (Pruessmann 2001). Needs no prior."""

    name = "cg-sense"

    class Settings(ComponentSettings):
        regularisation: float = setting(0.01, "λ, relative to ‖A‖²", ge=0)
        tolerance: float = setting(1e-6, "stop at this residual relative to ‖Aᴴb‖", gt=0)
        max_iterations: int = setting(100, "largest number of conjugate-gradient iterations", ge=1)

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        s = self.settings
        result = problem.operator.solve_normal(
            problem.back_projection(),
            s.regularisation * problem.operator.norm_bound**2,
            initial=initial,
            tolerance=s.tolerance,
            max_iterations=s.max_iterations,
        )
        if monitor is not None:
            monitor(int(result.iterations.max()), {"residual": float(result.relative_residual.max())})
        converged = (result.iterations < s.max_iterations) | (result.relative_residual <= s.tolerance)
        return Solution(result.solution, converged, result.iterations, {"residual": result.history})
