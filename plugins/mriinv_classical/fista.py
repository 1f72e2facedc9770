"""FISTA: accelerated proximal gradients, for any prior with a proximal map."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import (
    ComponentSettings,
    InverseProblem,
    Iterations,
    Monitor,
    Prior,
    Solution,
    Solver,
    inner_product,
    per_image,
    relative_norm,
    setting,
)

LARGEST_MOMENTUM = 0.9  # without a limit, the error of an inexact proximal map is amplified more and more


class FISTA(Solver):
    r"""Minimise C(x) = ½‖Ax − b‖² + E(x) by proximal gradients with momentum (Beck and Teboulle 2009),

    .. math:: x_{k+1} = \mathrm{prox}_{αE}(y_k − αA^H(Ay_k − b)), \qquad y_{k+1} = x_{k+1} + β_k(x_{k+1} − x_k),

    with α = 1/‖A‖², from x₀ = Aᴴb. The momentum starts anew whenever Re⟨y_k − x_{k+1}, x_{k+1} − x_k⟩ > 0
    (O'Donoghue and Candès 2015, gradient scheme), and β_k is limited. Stops at
    ‖x_{k+1} − x_k‖ ≤ `tolerance`·‖x_{k+1}‖, image by image.

    AᴴA is linear, so that one application per iteration serves the gradient and the data term. The history has the
    change and the data term, the latter to rounding relative to ½‖b‖². E itself is never asked for: a proximal map may
    have none that can be computed.
    """

    name = "fista"
    requires = (frozenset({"proximal"}),)

    class Settings(ComponentSettings):
        tolerance: float = setting(2e-4, "relative change of the image at which to stop", gt=0)
        max_iterations: int = setting(300, "largest number of iterations", ge=1)

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
        s, gram, projected = self.settings, problem.operator.gram, problem.back_projection()
        step = problem.operator.norm_bound**-2
        constant = 0.5 * problem.data.abs().double().square().flatten(1).sum(1)
        x = projected if initial is None else initial
        gram_x = gram(x)
        y, gram_y = x, gram_x
        time = torch.ones_like(constant)
        memory: dict[str, Tensor] = {}
        iterations = Iterations(x, s.max_iterations, monitor)
        while iterations:
            target = prior.proximal(y - step * (gram_y - projected), step, memory)
            moved = torch.where(iterations.moving.view(-1, 1, 1), target - x, 0)
            restart = inner_product(y - target, moved) > 0
            time, previous = torch.where(restart, 1.0, 0.5 * (1 + (1 + 4 * time.square()).sqrt())), time
            momentum = torch.where(restart, 0, (previous - 1) / time).clamp_max(LARGEST_MOMENTUM)
            momentum = per_image(momentum, x)
            x = x + moved
            gram_x, gram_before = gram(x), gram_x
            y, gram_y = x + momentum * moved, gram_x + momentum * (gram_x - gram_before)

            change = relative_norm(moved, x)
            iterations.record("change", change=change, data=constant + inner_product(x, 0.5 * gram_x - projected))
            iterations.converged |= change <= s.tolerance
        return iterations.solution(x)
