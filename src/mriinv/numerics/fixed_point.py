"""Iterations x <- f_θ(x) inside a loss: unrolled with checkpoints, or differentiated at their fixed point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mriinv.core.types import Image
from mriinv.errors import MriinvError
from mriinv.numerics.images import relative_norm

Step = Callable[[Image], Image]
WINDOW = 5  # earlier iterates that Anderson's acceleration combines
LOST = 0.5  # relative change with which an iteration that has ended is nowhere near a fixed point
RIDGE = 1e-10  # on its normal equations, relative to their trace


@dataclass(frozen=True)
class Iterated:
    """Where an iteration ended.

    Attributes
    ----------
    image : the last iterate, with a graph to the parameters where gradients are enabled
    iterations : int ``(batch,)``, steps taken
    converged : bool ``(batch,)``, whether the last relative change was within the tolerance, where there is one
    change : ‖f(x) − x‖/‖f(x)‖ at every iterate x, ``(iterations, batch)``
    """

    image: Image
    iterations: Tensor
    converged: Tensor
    change: Tensor


def unroll(
    step: Step,
    start: Image,
    iterations: int,
    parameters: Iterable[Tensor] = (),
    *,
    checkpoint: bool = True,
) -> Iterated:
    """Apply `step` a fixed number of times, which is all the rule there is; the gradient goes through each of them.

    With `checkpoint` only the iterates are stored: `step` runs without graph, and once more with one when its turn
    comes in the backward pass, so the memory is that of one step. A step may itself differentiate (the gradient of an
    energy): it builds a graph if and only if gradients are enabled.

    Parameters
    ----------
    step : a deterministic map that keeps images apart
    iterations : from 1 on
    parameters : all tensors with gradient that `step` uses besides its argument; needed with `checkpoint`
    """
    used = tuple(p for p in parameters if p.requires_grad)
    x, changes = start, []
    for _ in range(iterations):
        following = _Checkpointed.apply(step, x, *used) if checkpoint and torch.is_grad_enabled() else step(x)
        changes.append(relative_norm(following.detach() - x.detach(), following.detach()))
        x = following
    change = torch.stack(changes)
    count = torch.full((len(x),), iterations, device=x.device)
    return Iterated(x, count, torch.ones_like(count, dtype=torch.bool), change)


def equilibrium(step: Step, start: Image, *, tolerance: float = 1e-4, max_iterations: int = 500) -> Iterated:
    """Iterate to the fixed point x* = f(x*) and differentiate there (deep equilibrium; Bai 2019, arXiv:1909.01377).

    No graph runs through the iteration: by the implicit function theorem the gradient g at f's output solves
    g = Jᵀg + ∂loss/∂x*, J the Jacobian of f at x*. That is a fixed point too, and found in the same way. Memory and
    the gradient do not depend on the path to x*, so both iterations are accelerated (Anderson 1965,
    doi:10.1145/321296.321305); f has to be a contraction there.

    Parameters
    ----------
    step : a deterministic map that keeps images apart
    tolerance : relative change ‖f(x) − x‖/‖f(x)‖ at which an image stops, and keeps its value f(x); the same for g
    max_iterations : in each direction

    Raises
    ------
    MriinvError : in the backward pass, where the gradient is nowhere near a solution
    """
    with torch.no_grad():
        found = _solve(step, start, tolerance, max_iterations)
    if not torch.is_grad_enabled():
        return found
    leaf = found.image.detach().requires_grad_()
    after = step(leaf)

    def implicit(gradient: Tensor) -> Tensor:
        def carry(g: Tensor) -> Tensor:
            return gradient + torch.autograd.grad(after, leaf, g, retain_graph=True)[0]

        solved = _solve(carry, gradient.resolve_conj(), tolerance, max_iterations)
        if not (solved.converged | (solved.change[-1] < LOST)).all():
            raise MriinvError(
                f"the gradient at a fixed point was not found in {max_iterations} iterations: the map does not "
                "contract there; unroll it (gradient=unrolled), or allow more iterations"
            )
        return solved.image

    image = after.clone()  # a tensor of its own, so that `carry` does not call the hook again
    image.register_hook(implicit)
    return replace(found, image=image)


def _solve(step: Step, start: Image, tolerance: float, most: int) -> Iterated:
    """Iterate with Anderson's acceleration; an image takes a plain step where its residual has grown."""
    x = start
    changes: list[Tensor] = []
    points: list[Tensor] = []
    values: list[Tensor] = []
    moving = torch.ones(len(x), dtype=torch.bool, device=x.device)
    iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    while len(changes) < most and moving.any():
        value = torch.where(moving.view(-1, 1, 1), step(x), x)
        changes.append(relative_norm(value - x, value))
        iterations += moving
        moving = moving & (changes[-1] > tolerance)
        points, values = [*points[-WINDOW:], x], [*values[-WINDOW:], value]
        plain = ~moving if len(changes) == 1 else ~moving | (changes[-1] > changes[-2])
        x = torch.where(plain.view(-1, 1, 1), value, _extrapolate(points, values))
    finite = x.isfinite().flatten(1).all(1)  # not a number does not move either
    return Iterated(x, iterations, ~moving & finite, torch.stack(changes))


def _extrapolate(points: list[Image], values: list[Image]) -> Image:
    """Return the combination of the last values f(x_i) whose residual f(x_i) − x_i is smallest (Anderson 1965)."""
    if len(points) == 1:
        return values[-1]
    results = torch.stack([torch.view_as_real(value).flatten(1) for value in values], 1)
    residuals = results - torch.stack([torch.view_as_real(point).flatten(1) for point in points], 1)
    steps = residuals.diff(dim=1).double()
    matrix = steps @ steps.mT
    ridge = RIDGE * matrix.diagonal(dim1=1, dim2=2).sum(1).clamp_min(torch.finfo(matrix.dtype).tiny)
    matrix += ridge.view(-1, 1, 1) * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    weights = torch.linalg.solve(matrix, steps @ residuals[:, -1:].double().mT)
    moved = results[:, -1] - (results.diff(dim=1) * weights.to(results.dtype)).sum(1)
    return torch.view_as_complex(moved.view(*values[-1].shape, 2))


class _Checkpointed(torch.autograd.Function):
    """One step whose graph is built only when it is needed.

    `torch.utils.checkpoint` recomputes whenever a stored tensor is read, so also for every gradient that the step
    takes inside itself.
    """

    @staticmethod
    def forward(ctx: Any, step: Step, image: Tensor, *parameters: Tensor) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(image, *parameters)
        return step(image)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, *parameters = ctx.saved_tensors
        leaf = image.detach().requires_grad_()
        with torch.enable_grad():
            following = ctx.step(leaf)
            found = torch.autograd.grad(following, [leaf, *parameters], gradient, allow_unused=True)
        return None, *found
