"""Batched conjugate gradients for Hermitian positive definite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CGResult:
    """Solution ``(batch, …)``, iterations per image, and residuals relative to the right-hand side.

    ``history`` holds the residuals after 0, 1, … iterations, ``(iterations + 1, batch)``; its last row is
    ``relative_residual``.
    """

    solution: Tensor
    iterations: Tensor
    history: Tensor

    @property
    def relative_residual(self) -> Tensor:
        """The final residual per image."""
        return self.history[-1]


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    initial: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 50,
) -> CGResult:
    """Solve M x = rhs for each image of the batch (Hestenes and Stiefel 1952). Not differentiable.

    Parameters
    ----------
    apply : x ↦ M x, Hermitian positive definite, returning a tensor of its own
    rhs : real or complex ``(batch, …)``
    initial : starting point; zero when None, and where the right-hand side is, whose solution is zero
    tolerance : an image stops when ‖rhs − M x‖ ≤ tolerance·‖rhs‖; it keeps its value while others go on
    max_iterations : after which an image is left as it is, and not converged
    """

    # the scalars of CG are real, and real arithmetic on the parts is half the work of complex arithmetic
    def parts(a: Tensor) -> Tensor:
        return torch.view_as_real(a) if a.is_complex() else a

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vecdot(parts(a).flatten(1), parts(b).flatten(1)).view(-1, *[1] * (parts(rhs).ndim - 1))

    # in units of a power of two near the largest value, so that no square over- or underflows, to the same bits
    rhs = rhs.resolve_conj()
    exponent = torch.frexp(parts(rhs).abs().flatten(1).amax(1)).exponent.clamp(-100, 100)
    unit = torch.ldexp(torch.ones_like(exponent, dtype=rhs.real.dtype), exponent).view(-1, *[1] * (rhs.ndim - 1))
    rhs = rhs / unit
    rhs_norm = inner(rhs, rhs)
    if initial is None:
        x, r = torch.zeros_like(rhs), rhs.clone()
    else:
        initial = initial / unit
        x = torch.where(rhs_norm.view(-1, *[1] * (rhs.ndim - 1)) > 0, initial, 0)
        x, r = x.resolve_conj(), rhs - apply(x)
    p = r.clone()
    rr = inner(r, r)
    goal = max(tolerance, torch.finfo(rhs_norm.dtype).eps ** 2) ** 2 * rhs_norm  # further down squares underflow
    squares = [rr]
    iterations = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    for _ in range(max_iterations):
        active = rr > goal
        if not active.any():
            break
        q = apply(p).resolve_conj()
        curvature = inner(p, q)
        # zero steps keep finished images where they are
        alpha = torch.where(active & (curvature > 0), rr / curvature, 0)
        parts(x).addcmul_(parts(p), alpha)
        parts(r).addcmul_(parts(q), -alpha)
        rr_next = torch.where(active, inner(r, r), rr)
        torch.addcmul(parts(r), parts(p), torch.where(active, rr_next / rr, 0), out=parts(p))
        rr = rr_next
        squares.append(rr)
        iterations += active.flatten()
    tiny = torch.finfo(rr.dtype).tiny
    return CGResult(x * unit, iterations, (torch.stack(squares) / rhs_norm.clamp_min(tiny)).sqrt().flatten(1))
