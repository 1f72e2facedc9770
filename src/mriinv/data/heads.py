"""Sources of random head slices: from label maps of real heads, or from formulas alone."""

from __future__ import annotations

import math
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mriinv.core.types import ImageSlice
from mriinv.data.anatomy import procedural_tissues
from mriinv.data.rendering import OVERSAMPLING, render
from mriinv.data.texture import smooth_field, uniform
from mriinv.data.tissue import classify_labels
from mriinv.errors import InputError

# Axes of a RAS volume along rows and columns of the image (rows from anterior or superior), and across the slice.
_PLANES = {"axial": (1, 0, 2), "coronal": (2, 0, 1), "sagittal": (2, 1, 0)}
# Where slices are taken: fractions of the volume across the slice; axial: of the head's height, from the vertex down.
_RANGE = {"axial": (0.14, 0.5), "coronal": (0.15, 0.85), "sagittal": (0.2, 0.8)}
_HEIGHT = 215.0  # mm; volumes reach down the neck by different lengths


class HeadSource(ABC):
    """Draws head slices. A source keeps no random state: what it returns depends on the generator alone."""

    @abstractmethod
    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        """Return one random slice.

        Parameters
        ----------
        shape : matrix size (y, x)
        generator : on the CPU

        Returns
        -------
        complex64 ``(y, x)`` without noise, 99th percentile of the magnitude 1
        """


class ProceduralHeads(HeadSource):
    """Heads from formulas: axial slices out of noise-deformed contours. Needs no file."""

    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        """Return one random slice; see `HeadSource.image`."""
        grid = (OVERSAMPLING * shape[0], OVERSAMPLING * shape[1])
        return render(procedural_tissues(grid, generator), shape, generator)


class LabelMapHeads(HeadSource):
    """Slices through 3D label maps of real heads with random pose, deformation and contrast.

    Parameters
    ----------
    folder : holds ``*.npz`` files whose array ``labels`` is an integer volume ``(x, y, z)``, RAS, 1 mm, with FreeSurfer
        labels for the brain and SynthSeg's 5xx labels around it

    Raises
    ------
    InputError : no such file, no ``labels`` in it, or not an integer volume

    References
    ----------
    Billot et al., SynthSeg, Med. Image Anal. 86:102789 (2023): random contrasts from label maps.
    """

    def __init__(self, folder: Path | str) -> None:
        paths = sorted(Path(folder).glob("*.npz"))
        if not paths:
            raise InputError(folder, "", "no label maps", "a folder with *.npz files")
        self._volumes = [_load(path) for path in paths]

    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        """Return one random slice; see `HeadSource.image`."""
        for _ in range(10):
            volume = self._volumes[int(torch.randint(len(self._volumes), (1,), generator=generator))]
            coordinates, across = _sampling_grid(volume, shape, generator)
            thickness = uniform(0.5, 3.5, generator)  # mm; two planes stand for it
            planes = [_gather(volume, coordinates + step * across) for step in (-thickness / 4, thickness / 4)]
            if (planes[0] > 0).float().mean() > 0.1:
                break
        # receivers lose the neck before the field of view ends, or the volume
        z = coordinates[2]
        top, bottom = float(z[0].mean()), float(z[-1].mean())
        end = max(0.0, bottom) if top - bottom > _HEIGHT / 2 else 0.0
        reach = (z - end - uniform(5, 25, generator)) / uniform(4, 10, generator)
        return render(torch.stack([_smooth_tissues(plane) for plane in planes]), shape, generator, reach.sigmoid())


def _load(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "labels" not in file:
                raise InputError(path, "labels", f"the arrays {', '.join(file.files) or 'none'}", "an array 'labels'")
            labels = file["labels"]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(path, "", f"no readable npz file ({error})", "an npz file without pickled objects") from None
    if labels.ndim != 3 or labels.dtype.kind not in "iu" or labels.size == 0:
        raise InputError(path, "labels", f"{labels.dtype} {labels.shape}", "an integer volume (x, y, z)")
    if labels.min() < 0 or not labels.any():
        raise InputError(
            path, "labels", f"labels {labels.min()} to {labels.max()}", "0 for air, larger ones for tissue"
        )
    return torch.from_numpy(np.ascontiguousarray(classify_labels(labels)))


def _sampling_grid(volume: Tensor, shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return voxel coordinates ``(3, y, x)`` of a posed and deformed slice, and its unit normal ``(3, 1, 1)``."""
    plane, directions = _pose(generator)
    rows, columns, normal = _PLANES[plane]
    size = torch.tensor(volume.shape, dtype=torch.float32)
    centre, height = size / 2, min(float(size[2]), _HEIGHT)
    centre[normal] = size[normal] * uniform(*_RANGE[plane], generator)
    if plane == "axial":
        centre[2] = size[2] - height * uniform(*_RANGE[plane], generator)
    else:
        centre[2] = size[2] - height / 2

    extent = [min(float(size[axis]), _HEIGHT) for axis in (rows, columns)]
    fitting = max(length / pixels for length, pixels in zip(extent, shape, strict=True))
    pixel = min(max(uniform(0.8, 1.3, generator), uniform(1.0, 1.12, generator) * fitting), 1.5 * fitting)
    y, x = (pixel * (torch.arange(n) - n // 2 + uniform(-0.04, 0.04, generator) * n) for n in shape)
    amplitude = uniform(0, 4, generator)  # mm
    v = y[:, None] + amplitude * smooth_field(shape, 6, generator)
    u = x[None] + amplitude * smooth_field(shape, 6, generator)
    down, right, across = directions[:, :, None, None]
    return centre[:, None, None] + v * down + u * right, across


def _pose(generator: torch.Generator) -> tuple[str, Tensor]:
    """Draw a plane; return the volume's directions along image rows, columns and across ``(3, 3)``, tilted a little."""
    choice = uniform(0, 1, generator)
    plane = "axial" if choice < 0.6 else "coronal" if choice < 0.8 else "sagittal"
    rows, columns, normal = _PLANES[plane]
    base = torch.zeros(3, 3)
    base[0, rows], base[2, normal] = -1.0, 1.0
    base[1, columns] = 1.0 if uniform(0, 1, generator) < 0.5 else -1.0
    rotation = torch.eye(3)
    angles = 0.1 * torch.randn(3, generator=generator)
    for (i, j), angle in zip(((0, 1), (0, 2), (1, 2)), angles.tolist(), strict=True):
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = math.sin(angle), -math.sin(angle)
        rotation = turn @ rotation
    return plane, rotation @ base


def _gather(volume: Tensor, coordinates: Tensor) -> Tensor:
    """Return the tissue of the nearest voxel, air outside; below the volume its lowest plane goes on (the neck)."""
    index = coordinates.round().long()
    index[2].clamp_(min=0)
    size = torch.tensor(volume.shape)[:, None, None]
    inside = ((index >= 0) & (index < size)).all(0)
    i, j, k = index.clamp(min=0).minimum(size - 1)
    return torch.where(inside, volume[i, j, k], 0)


def _smooth_tissues(tissues: Tensor) -> Tensor:
    """Return the tissue map ``(y, x)`` at `OVERSAMPLING` times the resolution without the staircases of voxels.

    The indicators of tissues are low-passed a little (more would erase thin sulci) and interpolated; the largest wins.
    """
    present, compact = tissues.long().unique(return_inverse=True)
    indicators = pad((compact == torch.arange(len(present))[:, None, None]).float(), (1, 1, 1, 1))
    rows = indicators[:, :-2] + 4 * indicators[:, 1:-1] + indicators[:, 2:]
    blurred = rows[..., :-2] + 4 * rows[..., 1:-1] + rows[..., 2:]
    fractions = interpolate(blurred[None], scale_factor=OVERSAMPLING, mode="bilinear")[0]
    best, smooth = fractions[0], torch.full(fractions.shape[1:], int(present[0]), dtype=torch.uint8)
    for fraction, tissue in zip(fractions[1:], present[1:].tolist(), strict=True):
        smooth.masked_fill_(fraction > best, tissue)
        best = torch.maximum(best, fraction)
    return smooth
