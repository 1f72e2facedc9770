"""A simulated scan whose true image is known."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from mriinv.data.acquisition import Acquisition
from mriinv.data.coils import AXIAL, Axes, CoilArray
from mriinv.data.geometry import Geometry
from mriinv.data.heads import HeadSlices, HeadSource, ProceduralHeads
from mriinv.data.readers.base import Scan
from mriinv.errors import is_size, require, shown
from mriinv.numerics.fft import fft2c
from mriinv.numerics.noise import coloured_noise, complex_noise, seeded

SHAPE, COILS, NOISE = (192, 160), 8, 0.005  # unless told otherwise
_CORONAL: Axes = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
_SAGITTAL: Axes = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))
AXES = {"axial": AXIAL, "coronal": _CORONAL, "sagittal": _SAGITTAL}  # rows, columns and across the slices, in LPS
_PREFIX = {"axial": "AX", "coronal": "COR", "sagittal": "SAG"}  # as fastMRI calls its series: AXT2


def simulate_acquisition(
    *,
    heads: HeadSource | None = None,
    shape: tuple[int, int] = SHAPE,
    coils: int = COILS,
    noise_std: float = NOISE,
    seed: int = 0,
    slices: int = 1,
    coloured: bool = False,
    coil_maps: bool = False,
) -> Acquisition:
    """Return fully sampled k-space b = F C x + n of parallel slices x through one random head.

    Parameters
    ----------
    heads : where x comes from; `ProceduralHeads` when None
    shape : matrix size (y, x)
    coils : number of receivers
    noise_std : standard deviation of n per real component; the 99th percentile of |x| is 1
    seed : determines image, coils and noise
    slices : number of slices, the batch axis
    coloured : whether the noise is correlated between receivers, as by a head in a `CoilArray`, and of different
        strength; otherwise it is white
    coil_maps : whether to hand over the maps C (unit sum of squares); without them, calibration really happens

    Returns
    -------
    Acquisition with ``reference`` = x, complex64 ``(slices, y, x)``

    Raises
    ------
    InputError : a matrix below 16 × 16, no coil, no slice, a noise that is negative, infinite or, when coloured, zero,
        a negative seed
    """
    require(
        "simulate_acquisition",
        ("shape", shown(shape), is_size(shape, 16), "two sizes (y, x) from 16 on"),
        ("coils", coils, isinstance(coils, Integral) and coils >= 1, "an integer from 1 on"),
        ("slices", slices, isinstance(slices, Integral) and slices >= 1, "an integer from 1 on"),
        ("noise_std", noise_std, math.isfinite(noise_std) and noise_std >= 0, "a finite number from 0 on"),
        ("noise_std", noise_std, noise_std > 0 or not coloured, "a positive number for coloured noise"),
    )
    generator = seeded("simulate_acquisition", seed)
    heads = ProceduralHeads() if heads is None else heads
    head = heads.draw(shape, slices, generator)
    geometry = _geometry(head)
    array = CoilArray.draw(shape, coils, generator, AXES[head.plane])
    half_field = max(size * pixel for size, pixel in zip(shape, geometry.pixel, strict=True)) / 2
    maps = array.maps(tuple((index - (slices - 1) / 2) * head.spacing / half_field for index in range(slices)))
    kspace = fft2c(maps * head.image[:, None])
    covariance = array.noise_covariance(noise_std, generator).to(kspace.dtype) if coloured else None
    if covariance is None:
        kspace = kspace + complex_noise(kspace.shape, noise_std, generator)
    else:
        kspace = kspace + coloured_noise(kspace.shape, covariance, generator)
    return Acquisition(
        kspace=kspace.to(torch.complex64),  # as the rest, whatever the default type of torch
        mask=torch.ones(1, *shape, dtype=torch.bool),
        coil_maps=maps.to(torch.complex64) if coil_maps else None,
        reference=head.image.to(torch.complex64),
        noise_std=noise_std,
        noise_covariance=covariance,
        geometry=geometry,
        source=f"simulated scan (seed {seed})",
        header={
            "simulated": "yes",
            "seed": str(seed),
            "heads": type(heads).__name__,
            "acquisition": _PREFIX[head.plane] + head.contrast.split()[0],
            "sequence": head.contrast,
        },
    )


class SimulatedSlices(Scan):
    """Simulated slices in the place of a file, each of a head of its own: slice i is the scan of seed `seed` + i.

    The remaining parameters are those of `simulate_acquisition`.
    """

    format = "simulated"
    path = Path("simulated")

    def __init__(
        self, seed: int, count: int = 1, *, shape: tuple[int, int] = SHAPE, coils: int = COILS, noise_std: float = NOISE
    ) -> None:
        self.seed, self.count = seed, count
        self.options: dict[str, Any] = {"shape": shape, "coils": coils, "noise_std": noise_std}

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return False

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Acquisition:
        return replace(simulate_acquisition(seed=self.seed + index, **self.options), index=index)

    def describe(self) -> dict[str, Any]:
        return {"slices": self.count, "coils": self.options["coils"], "matrix": self.options["shape"]}

    def close(self) -> None:
        """There is no file."""


def _geometry(head: HeadSlices) -> Geometry:
    """Return size and place of the first slice; the centre of the stack is the origin of the patient's axes."""
    axes = AXES[head.plane]
    offset = -(len(head.image) - 1) / 2 * head.spacing
    x, y, z = (offset * part for part in axes[2])
    return Geometry((head.pixel, head.pixel), head.spacing, (x, y, z), axes)
