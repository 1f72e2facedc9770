"""CG-SENSE: regularised least squares by conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, InverseProblem, Monitor, Prior, Solution, Solver, setting
from mriinv_classical.weighting import follow_noise

FACTOR, EXPONENT = 3.8, 1.2  # of the noise, in the rule for λ
DEFAULT_REGULARISATION = 0.01  # λ where nobody measured the noise, the usual choice


class CGSense(Solver):
    """Solve (AᴴA + λI) x = Aᴴb (Pruessmann 2001). Needs no prior; λ follows the noise unless it is set."""

    name = "cg-sense"

    class Settings(ComponentSettings):
        regularisation: float | None = setting(
            None, "λ, relative to ‖A‖²; none: from the noise level", ge=0, tune=(1e-4, 1e-1)
        )
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
        regularisation: float | Tensor = DEFAULT_REGULARISATION if s.regularisation is None else s.regularisation
        if s.regularisation is None and problem.noise_std is not None:
            regularisation = follow_noise(problem.noise_std, FACTOR, EXPONENT)
        result = problem.operator.solve_normal(
            problem.back_projection(),
            regularisation * problem.operator.norm_bound**2,
            initial=initial,
            tolerance=s.tolerance,
            max_iterations=s.max_iterations,
        )
        if monitor is not None:
            monitor(int(result.iterations.max()), {"residual": float(result.relative_residual.max())})
        converged = (result.iterations < s.max_iterations) | (result.relative_residual <= s.tolerance)
        return Solution(result.solution, converged, result.iterations, {"residual": result.history})
