"""AᴴA and its regularised inverse inside networks: differentiable, whatever the operator computes in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mriinv.core.operator import Operator
from mriinv.core.types import Image
from mriinv.numerics.images import inner_product


def normal_map(operator: Operator, image: Image) -> Image:
    """Return AᴴA x with a graph to x. The map is its own adjoint, so nothing is stored for the backward pass."""
    return _NormalMap.apply(image, operator)


def regularised_inverse(
    operator: Operator,
    rhs: Image,
    shift: float | Tensor,
    *,
    initial: Image | None = None,
    tolerance: float = 1e-6,
) -> Image:
    """Return x = (AᴴA + s)⁻¹ r with a graph to r and s, by conjugate gradients; so is the backward pass.

    Parameters
    ----------
    rhs : r
    shift : s, one positive real number, or one per image
    initial : where conjugate gradients start; has no gradient, since the solution does not depend on it
    tolerance : of each solve, relative to its right-hand side
    """
    start = None if initial is None else initial.detach()
    shift = torch.as_tensor(shift, device=rhs.device)
    return _RegularisedInverse.apply(rhs, shift, operator, start, tolerance)


class _NormalMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return operator.gram(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _NormalMap.apply(gradient.resolve_conj(), ctx.operator), None


class _RegularisedInverse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rhs: Tensor, shift: Tensor, operator: Operator, initial: Tensor | None, tolerance: float
    ) -> Tensor:
        def solve(right: Tensor, start: Tensor | None) -> Tensor:
            shifts = shift.detach().to(right.real.dtype).expand(len(right))
            return operator.solve_normal(right, shifts, initial=start, tolerance=tolerance).solution

        ctx.solve, ctx.shift, ctx.adjoint = solve, shift.detach(), None
        solution = solve(rhs, initial)
        ctx.save_for_backward(solution)
        return solution

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (solution,) = ctx.saved_tensors
        # an implicit gradient comes here again and again, with a gradient that changes little
        toward_rhs = ctx.adjoint = ctx.solve(gradient.resolve_conj(), ctx.adjoint)
        toward_shift = None
        if ctx.needs_input_grad[1]:  # dx = -(AᴴA + s)⁻¹ x ds
            toward_shift = -inner_product(toward_rhs, solution).sum_to_size(ctx.shift.shape).to(ctx.shift.dtype)
        return toward_rhs, toward_shift, None, None, None
