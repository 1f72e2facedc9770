"""Spectral norms by power iteration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int = 100, tolerance: float = 1e-6
) -> Tensor:
    """Return per image the largest eigenvalue of a Hermitian positive semi-definite map, ``(batch,)``.

    Power iteration v ← M v / ‖M v‖; the value is ‖M v‖, which grows monotonically towards λ_max and never exceeds it.

    Parameters
    ----------
    apply : x ↦ M x
    start : real or complex ``(batch, …)``, not orthogonal to the leading eigenvector (a random one will do)
    tolerance : stop when no image's value changes by more than this, relatively
    """
    vector, value = start, torch.zeros(start.shape[0], dtype=start.real.dtype, device=start.device)
    for _ in range(iterations):
        norm = torch.linalg.vector_norm(vector.flatten(1), dim=1).clamp_min(torch.finfo(value.dtype).tiny)
        vector = apply(vector / norm.view(-1, *[1] * (start.ndim - 1)))
        previous, value = value, torch.linalg.vector_norm(vector.flatten(1), dim=1)
        if ((value - previous).abs() <= tolerance * value).all():
            break
    return value


def scaled_gram(rows: Tensor) -> Tensor:
    """Return R Rᴴ up to a factor for complex ``(…, row, other)``, on the CPU in complex128.

    R is divided by a power of two near its largest magnitude, so that no square over- or underflows.
    """
    exponent = torch.frexp(rows.abs().max()).exponent.clamp(-126, 126)
    scaled = rows * torch.exp2(-exponent.to(rows.real.dtype))
    return (scaled @ scaled.mH).to("cpu", torch.complex128)
