"""The accelerated step: quasi-Newton directions that start from the majoriser instead of a multiple of the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mriinv import inner_product, per_image, relative_norm
from mriinv_mmcg.majoriser import Solve
from mriinv_mmcg.state import TINY, State, StepTaken, relative

SUFFICIENT = 1e-4  # share of the decrease promised by the slope that a step must reach (Armijo)
SHORTEST, LONGEST = 0.1, 0.5  # factors by which a refused step may shrink
MAX_TRIALS = 20
CAUTION = 1.5  # 1 and 2 need as many gradients, or a few more
LARGEST_CHANGE = 5.0  # of L from one step to the next
SMALLEST_CURVATURE = 1e-4


@dataclass
class Pair:
    """A step and the change of ∇C along it; `weight` is 1/Re⟨step, change⟩, 0 for an image that has no such pair."""

    step: Tensor
    change: Tensor
    weight: Tensor


class QuasiNewton:
    r"""Limited-memory BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) on C(x) = ½‖Ax − b‖² + E(x).

    The inverse Hessian that the pairs correct is the (AᴴA + LI)⁻¹ of MM-CG, exact for the data term; L is `CAUTION`
    times ‖y‖/‖s‖, y the change of ∇E along the last step s, which is at least the curvature along s and weighs the
    directions that curve most. A step is accepted where the cost falls by `SUFFICIENT` of what its slope
    promises and shortened otherwise, so that the cost never increases. Images of a batch are independent.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._pairs: list[Pair] = []

    def forget(self) -> None:
        """Drop the pairs: the energy is another one."""
        self._pairs.clear()

    def __call__(self, state: State, solve: Solve, tolerance: float) -> StepTaken:
        """Take one step for every image that still moves."""
        direction, cg_iterations = self._direction(state, solve)
        searching, used = state.iterations.moving, state.curvature
        refused = searching
        before, cost_before = state.image, state.cost
        gradient_before, descent_before = state.gradient, state.descent
        slope = -inner_product(state.descent, direction)
        promise = relative(-0.5 * slope, state.cost)
        fraction = torch.ones_like(slope)
        for _ in range(MAX_TRIALS):
            candidate = before + per_image(fraction, direction) * direction
            cost, energy, gradient = state.evaluate(candidate)
            accepted = searching & (cost <= cost_before + SUFFICIENT * fraction * slope)
            state.accept(accepted, candidate, cost, energy, gradient)
            refused = refused & ~accepted
            searching = refused & (promise > tolerance)  # below the tolerance, rounding decides
            if not searching.any():
                break
            parabola = -0.5 * slope * fraction**2 / (cost - cost_before - slope * fraction)  # its minimum
            shorter = torch.minimum(parabola.nan_to_num(0.0).maximum(SHORTEST * fraction), LONGEST * fraction)
            fraction = torch.where(searching, shorter, fraction)
        state.refresh_descent()
        step = state.image - before
        self._learn(state, step, descent_before - state.descent, state.gradient - gradient_before)
        change = relative(cost_before - state.cost, cost_before)
        return StepTaken(promise, change, refused, relative_norm(step, before), used, cg_iterations)

    def _direction(self, state: State, solve: Solve) -> tuple[Tensor, Tensor]:
        """Return the two-loop recursion on −∇C, and plain MM where that is no descent."""
        direction, shares = state.descent, []
        for pair in reversed(self._pairs):
            shares.append(pair.weight * inner_product(pair.step, direction))
            direction = direction - per_image(shares[-1], direction) * pair.change
        cg = solve(direction, state.curvature)
        direction = cg.solution
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            missing = share - pair.weight * inner_product(pair.change, direction)
            direction = direction + per_image(missing, direction) * pair.step
        ascent = inner_product(state.descent, direction) <= 0
        if (ascent & state.iterations.moving).any():
            cg = solve(state.descent, state.curvature)
            direction = torch.where(ascent.view(-1, 1, 1), cg.solution, direction)
            for pair in self._pairs:
                pair.weight = torch.where(ascent, 0.0, pair.weight)
        return direction, cg.iterations

    def _learn(self, state: State, step: Tensor, change: Tensor, energy_change: Tensor) -> None:
        """Keep the pair where C curves upwards along it, and follow the curvature of E."""
        squared, product = inner_product(step, step), inner_product(step, change)
        weight = torch.where(product > 1e-8 * squared, 1 / product, 0.0)
        self._pairs = [*self._pairs, Pair(step, change, weight)][-self.memory :]
        measured = CAUTION * (inner_product(energy_change, energy_change) / squared.clamp_min(TINY)).sqrt()
        followed = measured.maximum(state.curvature / LARGEST_CHANGE).minimum(state.curvature * LARGEST_CHANGE)
        state.curvature = torch.where(squared > 0, followed.clamp_min(SMALLEST_CURVATURE), state.curvature)
