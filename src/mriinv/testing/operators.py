"""Checks that every linear operator must pass; each raises AssertionError with the numbers that do not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv.core.operator import Operator
from mriinv.core.types import Image
from mriinv.numerics.spectral import largest_eigenvalue


def check_adjoint(operator: Operator, image: Image, data: Tensor, *, tolerance: float | None = None) -> None:
    """Check ⟨A x, y⟩ = ⟨x, Aᴴ y⟩ as complex numbers, relative to ‖A x‖‖y‖ + ‖x‖‖Aᴴ y‖.

    Parameters
    ----------
    image, data : random x and y; double precision makes the check sharp
    tolerance : 1000 machine epsilons of `image` when None
    """
    forward, adjoint = operator.forward(image), operator.adjoint(data)
    _check_shape("forward", forward, data)
    _check_shape("adjoint", adjoint, image)
    left, right = _inner(forward, data), _inner(image, adjoint)
    error = abs(left - right) / _scale(_norm(forward) * _norm(data) + _norm(image) * _norm(adjoint))
    limit = _limit(image, tolerance)
    if not error <= limit:
        raise AssertionError(
            f"not adjoint: <Ax,y> = {left:.6g}, <x,A'y> = {right:.6g}, error {error:.2e} > {limit:.0e}"
        )


def check_gram(operator: Operator, image: Image, *, tolerance: float | None = None) -> None:
    """Check that `gram` is Aᴴ∘A, relative to the norm of the result (`tolerance` as in `check_adjoint`)."""
    expected, found = operator.adjoint(operator.forward(image)), operator.gram(image)
    _check_shape("gram", found, image)
    error = _norm(found - expected) / _scale(_norm(expected))
    limit = _limit(image, tolerance)
    if not error <= limit:
        raise AssertionError(f"gram is not adjoint after forward: relative difference {error:.2e} > {limit:.0e}")


def check_norm_bound(operator: Operator, image: Image, *, iterations: int = 200) -> None:
    """Check ‖A‖ ≤ `norm_bound` by power iteration on AᴴA from the random `image`."""
    norm = float(largest_eigenvalue(operator.gram, image, iterations=iterations).max()) ** 0.5
    if not norm <= operator.norm_bound * (1 + _limit(image, None)):
        raise AssertionError(f"spectral norm {norm:.8g} exceeds norm_bound {operator.norm_bound:.8g}")


def _limit(image: Tensor, tolerance: float | None) -> float:
    return 1000 * torch.finfo(image.dtype).eps if tolerance is None else tolerance


def _inner(a: Tensor, b: Tensor) -> complex:
    return complex(torch.vdot(a.flatten(), b.flatten()))


def _norm(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a))


def _scale(value: float) -> float:
    return value if value > 0 else 1.0


def _check_shape(method: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise AssertionError(
            f"{method} returned {tuple(found.shape)} {found.dtype}; expected {tuple(expected.shape)} {expected.dtype}"
        )
