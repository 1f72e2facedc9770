"""A simulated scan whose true image is known."""

from __future__ import annotations

import math

import torch

from mriinv.data.acquisition import Acquisition
from mriinv.data.coils import simulate_coil_maps
from mriinv.data.heads import HeadSource, ProceduralHeads
from mriinv.data.noise import complex_noise
from mriinv.errors import InputError
from mriinv.numerics.fft import fft2c


def simulate_acquisition(
    *,
    heads: HeadSource | None = None,
    shape: tuple[int, int] = (192, 160),
    coils: int = 8,
    noise_std: float = 0.005,
    seed: int = 0,
) -> Acquisition:
    """Return fully sampled k-space b = F C x + n of one random head slice x.

    The coil maps C (unit sum of squares) are not handed over, so that calibration really happens.

    Parameters
    ----------
    heads : where x comes from; `ProceduralHeads` when None
    shape : matrix size (y, x)
    coils : number of receivers
    noise_std : standard deviation of n per real component; the 99th percentile of |x| is 1
    seed : determines image, coils and noise

    Returns
    -------
    Acquisition of one slice with ``reference`` = x, complex64 ``(1, y, x)``

    Raises
    ------
    InputError : a matrix below 16 × 16, no coil, a negative or infinite noise, a negative seed
    """
    for name, found, valid, expected in (
        ("shape", tuple(shape), len(shape) == 2 and min(shape) >= 16, "two sizes (y, x) from 16 on"),
        ("coils", coils, coils >= 1, "at least 1"),
        ("noise_std", noise_std, math.isfinite(noise_std) and noise_std >= 0, "a finite number from 0 on"),
        ("seed", seed, seed >= 0, "a number from 0 on"),
    ):
        if not valid:
            raise InputError("simulate_acquisition", name, str(found), expected)
    generator = torch.Generator().manual_seed(seed)
    heads = ProceduralHeads() if heads is None else heads
    image = heads.image(shape, generator)
    maps = simulate_coil_maps(shape, coils, generator)
    kspace = fft2c(maps * image)
    kspace = kspace + complex_noise(kspace.shape, noise_std, generator)
    return Acquisition(
        kspace=kspace[None],
        mask=torch.ones(1, *shape, dtype=torch.bool),
        reference=image[None],
        noise_std=noise_std,
        source=f"simulated scan (seed {seed})",
        header={"simulated": "yes", "seed": str(seed), "heads": type(heads).__name__},
    )
