"""The one place that draws complex Gaussian noise, and makes what draws it from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from mriinv.core.types import CoilCovariance
from mriinv.errors import InputError, require, shown

SEED_LIMIT = 2**63  # what random generators take


def seeded(where: str, seed: int, device: torch.device | str = "cpu", salt: int = 0) -> torch.Generator:
    """Return a generator on a device; another `salt` gives other numbers from the same seed.

    Raises
    ------
    InputError : a seed that is no integer from 0 to 2^63 - 1
    """
    valid = isinstance(seed, Integral) and 0 <= seed < SEED_LIMIT
    require(where, ("seed", shown(seed), valid, "an integer from 0 to 2^63 - 1"))
    return torch.Generator(device).manual_seed(int(seed) ^ salt)


def complex_noise(
    shape: Sequence[int], std: float, generator: torch.Generator, dtype: torch.dtype = torch.complex64
) -> Tensor:
    """Return white complex Gaussian noise with standard deviation `std` per real component (E|n|² = 2 std²).

    ``torch.randn`` of a complex dtype has half of that variance per component; hence one helper, used everywhere.
    """
    real = torch.empty((), dtype=dtype).real.dtype
    parts = torch.randn(*shape, 2, generator=generator, device=generator.device, dtype=real)
    return torch.view_as_complex(parts).mul_(std)


def coloured_noise(
    shape: Sequence[int],
    covariance: CoilCovariance,
    generator: torch.Generator,
    dtype: torch.dtype = torch.complex64,
) -> Tensor:
    """Return complex Gaussian noise ``(…, coil, y, x)`` that is white in k-space and correlated between coils.

    n = L w with L Lᴴ = `covariance` (Cholesky) and white w, E[w wᴴ] = I.

    Parameters
    ----------
    shape : ``(…, coil, y, x)``
    covariance : E[n nᴴ], Hermitian and positive definite

    Raises
    ------
    InputError : a covariance of another size, or that is none
    """
    if covariance.shape != (shape[-3], shape[-3]):
        raise InputError("noise", "covariance", f"shape {tuple(covariance.shape)}", f"({shape[-3]}, {shape[-3]})")
    covariance = covariance.to(generator.device, torch.complex128)
    skew = (covariance - covariance.mH).abs().max()
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not skew <= 1e-5 * covariance.abs().max() or failed:  # also when a value is NaN
        raise InputError("noise", "covariance", "a matrix that is not one", "a Hermitian positive definite matrix")
    white = complex_noise(shape, 0.5**0.5, generator, dtype)
    return torch.einsum("jk,...kyx->...jyx", factor.to(dtype), white)
