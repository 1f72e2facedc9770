"""MM-CG: minimise C(x) = ½‖Ax − b‖² + E(x) by quadratic majorisers (paper, eq. 14-15), accelerated or as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mriinv import (
    CGResult,
    ComponentSettings,
    InverseProblem,
    Iterations,
    Monitor,
    MriinvError,
    Prior,
    Solution,
    Solver,
    largest_curvature,
    setting,
)
from mriinv_mmcg.majoriser import Solve, majorise
from mriinv_mmcg.quasi_newton import QuasiNewton
from mriinv_mmcg.state import State, StepTaken

STEPS_PER_LEVEL, PUBLISHED_STEPS_PER_LEVEL = 1, 3
# power iterations for the first L, at the first level and at later ones, and the share of what they find that L begins
# at: quasi-Newton steps correct a rough L on the way, and majorisers hold for less than the largest curvature
FIRST_L, PUBLISHED_FIRST_L = (1, 0, 1.0), (3, 1, 0.5)
Step = Callable[[State, Solve, float], StepTaken]


class MMCG(Solver):
    r"""Majorise-minimise with conjugate gradients.

    As published (``memory=0, curvature_decay=1, robust=False, levels=1``), each step minimises the majoriser of eq. 14,

    .. math:: x_{n+1} = (A^HA + L I)^{-1} (A^Hb + L x_n − ∇E(x_n)),

    by conjugate gradients on the step d = x_{n+1} − x_n, (AᴴA + LI) d = −∇C(x_n), whose tolerance is thus relative to
    the gradient that is left. L begins at an estimate of the curvature of E and is raised until the majoriser holds;
    after each step it may fall by `curvature_decay`.

    By default the steps are accelerated: the changes of ∇C along the last `memory` steps correct the inverse Hessian
    (AᴴA + LI)⁻¹ (limited-memory BFGS), and a step that does not lower the cost enough is shortened. Either way a step
    that raises the cost is not taken, L is per image, and an image that has converged is left alone.

    A noise-conditional energy is approached through a falling noise level: the first iterates minimise C with E_σ for
    σ from `highest_level` down to `lowest_level`, a few steps each; then the last level runs to convergence. Unless it
    is set, the last level is the largest of the noise of the data, 0.01 (`Prior.level_range`), and what SENSE, where it
    starts, was wrong by: the rms distance between the image and the start, less the noise of the start that is beyond
    the noise of the training (`InverseProblem.sense_noise`, `Prior.excess_noise`).

    With `robust` the data term is that of `InverseProblem.robust`: what no image explains, such as errors of the coil
    maps or a line that went wrong, does not enter it squared.

    The stopping rule is the paper's: |C(x_{n+1}) − C(x_n)| ≤ `tolerance`·C(x_n), or `max_iterations`. The history has
    one row per step: cost, data term and energy (scale 1), length of the step relative to the image, L, noise level,
    CG iterations, gradients of E evaluated so far.
    """

    name = "mm-cg"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(ComponentSettings):
        robust: bool = setting(True, "count samples that noise does not explain less (Huber); false: as published")
        tolerance: float = setting(1e-6, "relative change of the cost at which to stop", gt=0)
        max_iterations: int = setting(500, "largest number of steps, those at higher noise levels included", ge=1)
        memory: int = setting(10, "earlier steps that accelerate; 0: none, as published", ge=0)
        cg_iterations: int = setting(15, "largest number of conjugate-gradient iterations in a step", ge=1)
        cg_tolerance: float = setting(1e-3, "residual at which they stop, relative to the right-hand side", gt=0)
        initial_curvature: float | None = setting(
            None, "first L; none: the measured curvature of E, half of it without acceleration", gt=0
        )
        curvature_decay: float = setting(
            0.9, "factor of L after each step that is not accelerated; 1: L never falls, as published", gt=0, le=1
        )
        levels: int = setting(
            5, "noise levels of the continuation, the last one included; 1: none; more are safer for line masks", ge=1
        )
        steps_per_level: int | None = setting(
            None, "steps at each level but the last; none: 1, or 3 without acceleration", ge=1
        )
        highest_level: float | None = setting(
            0.1, "first noise level; none: the highest trained", gt=0, unit="std per real component, image scale 1"
        )
        lowest_level: float | None = setting(
            None,
            "last noise level; none: that of the data, or higher where the start was far off",
            gt=0,
            unit="std per real component, image scale 1",
        )

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
        s = self.settings
        start = problem.sense() if initial is None else initial
        iterations, count = Iterations(start, s.max_iterations, monitor), self._count(prior)
        noise = self._start_noise(problem, prior, generator) if initial is None else torch.zeros_like(problem.scale)
        state = State(self.posed(problem), prior, start, iterations, noise.double())
        quasi_newton = QuasiNewton(s.memory) if s.memory else None
        step: Step = quasi_newton or partial(majorise, decay=s.curvature_decay)
        first, later, share = FIRST_L if quasi_newton else PUBLISHED_FIRST_L
        for number in range(1, count + 1):
            last = number == count
            level = self._level(state, 1.0 if last else (number - 1) / (count - 1))
            self._enter(state, level, generator, first if number == 1 else later, share)
            if quasi_newton is not None:
                quasi_newton.forget()
            end = s.max_iterations if last else len(iterations) + self._steps_per_level
            while iterations and len(iterations) < end:
                self._step(state, step, last)
        return iterations.solution(state.image)

    def _start_noise(self, problem: InverseProblem, prior: Prior, generator: torch.Generator) -> Tensor:
        """Return the rms per image of the noise in the SENSE image that is beyond that of the training.

        With the noise of the training and less of it, what SENSE was wrong by is the better level, noise included.
        """
        if problem.noise_std is None or prior.noise_range is None or self.settings.lowest_level is not None:
            return torch.zeros_like(problem.scale)
        return replace(problem, noise_std=prior.excess_noise(problem.noise_std)).sense_noise(generator)

    def _count(self, prior: Prior) -> int:
        """Return the number of noise levels; at least half of `max_iterations` is left for the last one."""
        if prior.noise_range is None:
            return 1
        return min(self.settings.levels, 1 + self.settings.max_iterations // (2 * self._steps_per_level))

    def _level(self, state: State, position: float) -> Tensor | None:
        """Return the noise level of each image at a `position` from 0 (highest) to 1 (lowest); None without levels."""
        s = self.settings
        found = state.prior.level_range(s.highest_level, s.lowest_level, state.open_std())
        if found is None:
            return None
        high, low = found
        return high * (low / high) ** position

    @property
    def _steps_per_level(self) -> int:
        s = self.settings
        return s.steps_per_level or (STEPS_PER_LEVEL if s.memory else PUBLISHED_STEPS_PER_LEVEL)

    def _enter(
        self, state: State, level: Tensor | None, generator: torch.Generator, iterations: int, share: float
    ) -> None:
        """Set the noise level; L is a share of the curvature of the energy there, by so many power iterations."""
        state.enter(level)
        if not torch.isfinite(state.cost).all():
            raise MriinvError(
                f"mm-cg: the cost is {state.cost.tolist()} where it starts; the energy is not finite there"
            )
        if self.settings.initial_curvature is not None:
            state.curvature = torch.full_like(state.cost, self.settings.initial_curvature)
        elif iterations:
            curvature, state.direction = largest_curvature(
                lambda x: state.prior.gradient(x, level),
                state.image,
                generator,
                iterations=iterations,
                initial=state.descent if state.direction is None else state.direction,
                base=state.gradient,
            )
            state.gradients += iterations
            state.curvature = share * curvature.double().clamp_min(1e-4)

    def _step(self, state: State, step: Step, last: bool) -> None:
        """Take one step; at the last level, stop the images that meet the rule.

        An image whose step is refused stops as well: converged if its first trial promised a decrease of no more than
        the tolerance, so that rounding decides, and not converged otherwise.
        """
        s = self.settings

        def solve(rhs: Tensor, curvature: Tensor) -> CGResult:
            return state.problem.operator.solve_normal(
                rhs, curvature, tolerance=s.cg_tolerance, max_iterations=s.cg_iterations
            )

        taken = step(state, solve, s.tolerance)
        state.record(taken)
        if last:
            moving, decrease = state.iterations.moving, torch.where(taken.refused, taken.promise, taken.change)
            done = (decrease >= 0) & (decrease <= s.tolerance)
            state.iterations.converged |= moving & done
            state.iterations.failed |= moving & taken.refused & ~done
