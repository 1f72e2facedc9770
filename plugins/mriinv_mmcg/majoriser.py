"""The step of the paper: minimise the quadratic majoriser of the cost (eq. 14 and 15)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mriinv import CGResult, inner_product, relative_norm
from mriinv_mmcg.state import State, StepTaken, relative

GROWTH = 1.6  # of L after a refused step
MAX_REFUSALS = 40  # L grows 1e8-fold: the step is then below rounding

Solve = Callable[[Tensor, Tensor], CGResult]  # (right-hand side, L) -> (AᴴA + LI)⁻¹ of it


def majorise(state: State, solve: Solve, tolerance: float, *, decay: float) -> StepTaken:
    """Take one step for every image that still moves, raising L until its majoriser holds.

    A step is accepted where E(x + d) ≤ E(x) + Re⟨∇E(x), d⟩ + ½L‖d‖² and the cost does not rise; then L falls, by the
    factor `decay`.
    """
    pending = state.iterations.moving
    before, cost_before, used = state.image, state.cost, state.curvature
    promise = None
    for _ in range(MAX_REFUSALS):
        cg = solve(state.descent, state.curvature)
        step, candidate = cg.solution, state.image + cg.solution
        if promise is None:
            promise = relative(0.5 * inner_product(state.descent, step), state.cost)
        cost, energy, gradient = state.evaluate(candidate)
        bound = state.energy + inner_product(state.gradient, step) + 0.5 * state.curvature * inner_product(step, step)
        accepted = pending & (energy <= bound) & (cost <= state.cost)
        used = torch.where(pending, state.curvature, used)
        state.accept(accepted, candidate, cost, energy, gradient)
        pending &= ~accepted
        state.curvature = state.curvature * torch.where(pending, GROWTH, torch.where(accepted, decay, 1.0))
        if not pending.any():
            break
    assert promise is not None
    state.refresh_descent()
    change = relative(cost_before - state.cost, cost_before)
    return StepTaken(promise, change, pending, relative_norm(state.image - before, before), used, cg.iterations)
