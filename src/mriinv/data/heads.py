"""Sources of random head slices: from label maps of real heads, or from formulas alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mriinv.core.problem import reference_scale
from mriinv.core.types import Image, ImageSlice
from mriinv.data.anatomy import HALF_WIDTH, procedural_tissues
from mriinv.data.labels import LabelVolume, label_files, read_labels
from mriinv.data.rendering import OVERSAMPLING, render
from mriinv.data.texture import smooth_field, uniform
from mriinv.data.tissue import CONTRASTS, TISSUE, random_contrast
from mriinv.errors import InputError, require

# Axes of a RAS volume along rows and columns of the image (rows from anterior or superior), and across the slice.
PLANES = {"axial": (1, 0, 2), "coronal": (2, 0, 1), "sagittal": (2, 1, 0)}
# Where slices are taken: fractions of the volume across the slice; axial: of the head's height, from the vertex down.
_RANGE = {"axial": (0.14, 0.68), "coronal": (0.15, 0.85), "sagittal": (0.2, 0.8)}
_HEIGHT = 215.0  # mm; volumes reach down the neck by different lengths
_SEEDS = 2**31


@dataclass(frozen=True)
class Protocol:
    """What the scan of a head asks for; None leaves a choice to chance.

    Attributes
    ----------
    plane : axial, coronal or sagittal
    pixel : size of a pixel in mm along both axes
    thickness : of a slice, in mm
    gap : between slices, in mm
    contrast : t1, t2, pd or flair
    lesions : whether the white matter has some

    Raises
    ------
    InputError : an unknown plane or contrast, or a size that is out of range
    """

    plane: str | None = None
    pixel: float | None = None
    thickness: float | None = None
    gap: float = 0.0
    contrast: str | None = None
    lesions: bool = False

    def __post_init__(self) -> None:
        require(
            "Protocol",
            ("plane", repr(self.plane), self.plane in (None, *PLANES), " or ".join(PLANES)),
            ("contrast", repr(self.contrast), self.contrast in (None, *CONTRASTS), " or ".join(CONTRASTS)),
            ("pixel", self.pixel, self.pixel is None or 0.1 <= self.pixel <= 20, "0.1 to 20 mm"),
            ("thickness", self.thickness, self.thickness is None or 0.1 <= self.thickness <= 50, "0.1 to 50 mm"),
            ("gap", self.gap, 0 <= self.gap <= 100, "0 to 100 mm"),
        )


class HeadSlices(NamedTuple):
    """Neighbouring slices of one head without noise; the 99th percentile of the magnitude over all of them is 1.

    `image` is complex64 ``(slices, y, x)``; `pixel` and the distance of their centres `spacing` are in mm; `contrast`
    says the sequence in words.
    """

    image: Image
    pixel: float
    spacing: float
    plane: str
    contrast: str


class ImageSource(ABC):
    """Draws images. A source keeps no random state: what it returns depends on the generator alone."""

    @abstractmethod
    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        """Return one random image, whose 99th percentile of the magnitude is 1.

        Parameters
        ----------
        shape : matrix size (y, x)
        generator : on the CPU
        """


class HeadSource(ImageSource):
    """Draws head slices."""

    def __init__(self, protocol: Protocol | None = None) -> None:
        self.protocol = protocol or Protocol()

    @abstractmethod
    def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
        """Return neighbouring parallel slices of one random head, seen by one sequence.

        Parameters
        ----------
        shape : matrix size (y, x)
        count : number of slices
        generator : on the CPU
        """

    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        return self.draw(shape, 1, generator).image[0]


class ProceduralHeads(HeadSource):
    """Heads from formulas: axial slices out of noise-deformed contours. Needs no file.

    Raises
    ------
    InputError : a protocol with another plane than axial
    """

    def __init__(self, protocol: Protocol | None = None) -> None:
        super().__init__(protocol)
        if self.protocol.plane not in (None, "axial"):
            expected = "axial, or label maps, from which heads of any plane are made"
            raise InputError("ProceduralHeads", "plane", str(self.protocol.plane), expected)

    def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
        """Return axial slices from the lowest to the highest; see `HeadSource.draw`."""
        p, grid = self.protocol, (OVERSAMPLING * shape[0], OVERSAMPLING * shape[1])
        contrast = random_contrast(generator, p.contrast)
        seed, level = _seed(generator), uniform(0, 1, generator)
        half_width = None if p.pixel is None else OVERSAMPLING * HALF_WIDTH / p.pixel
        spacing = (p.thickness or uniform(2, 5, generator)) + p.gap
        slices = []
        for height in ((index - (count - 1) / 2) * spacing for index in range(count)):
            tissues, half = procedural_tissues(grid, seed, level, height, half_width, lesions=p.lesions)
            slices.append(render(tissues, shape, contrast.signal, seed, generator))
        pixel = OVERSAMPLING * HALF_WIDTH / half
        return HeadSlices(_normalised(slices), pixel, spacing, "axial", contrast.description)


class LabelMapHeads(HeadSource):
    """Slices through 3D label maps of real heads with random pose, deformation and contrast.

    Parameters
    ----------
    path : a label volume, or a folder of them: NIfTI or npz, see `read_labels`

    Raises
    ------
    InputError : no such file, or not a label volume

    References
    ----------
    Billot et al., SynthSeg, Med. Image Anal. 86:102789 (2023): images of random contrast from label maps.
    """

    def __init__(self, path: Path | str, protocol: Protocol | None = None) -> None:
        super().__init__(protocol)
        self._path = Path(path)
        self._volumes = [read_labels(file) for file in label_files(self._path)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the path to worker processes, which read the volumes themselves."""
        return type(self), (self._path, self.protocol)

    def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
        """Return slices from inferior to superior, posterior to anterior or left to right; see `HeadSource.draw`."""
        p = self.protocol
        thickness = p.thickness or uniform(0.5, 4, generator)
        spacing = thickness + p.gap
        for _ in range(10):
            volume = self._volumes[int(torch.randint(len(self._volumes), (1,), generator=generator))]
            plane, pixel, coordinates, across = _sampling_grid(volume, shape, p, (count - 1) * spacing, generator)
            tissue = partial(_gather, volume)
            if (tissue(coordinates[:, ::4, ::4]) > 0).float().mean() > 0.1:
                break
        if p.lesions:
            tissue = partial(_with_lesions, volume, _lesions(volume, generator))
        contrast, seed = random_contrast(generator, p.contrast), _seed(generator)
        reach = uniform(5, 25, generator), uniform(4, 10, generator)
        slices = []
        for index in range(count):
            middle = coordinates + (index - (count - 1) / 2) * spacing * across
            planes = [tissue(middle + step * across) for step in (-thickness / 4, thickness / 4)]  # two stand for it
            tissues = torch.stack([_smooth_tissues(one) for one in planes])
            slices.append(render(tissues, shape, contrast.signal, seed, generator, _reach(middle[2], *reach)))
        return HeadSlices(_normalised(slices), pixel, spacing, plane, contrast.description)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(_SEEDS, (1,), generator=generator))


def _normalised(slices: list[Tensor]) -> Tensor:
    image = torch.stack(slices)
    return image / reference_scale(image.flatten(0, 1)[None])


def _reach(z: Tensor, fade: float, width: float) -> Tensor:
    """Return the factor ``(y, x)`` by which receivers lose the neck before the field of view ends, or the volume."""
    top, bottom = float(z[0].mean()), float(z[-1].mean())
    end = max(0.0, bottom) if top - bottom > _HEIGHT / 2 else 0.0
    return ((z - end - fade) / width).sigmoid()


def _sampling_grid(
    volume: LabelVolume, shape: tuple[int, int], protocol: Protocol, stack: float, generator: torch.Generator
) -> tuple[str, float, Tensor, Tensor]:
    """Return the plane, the pixel size, positions ``(3, y, x)`` of the middle slice and its unit normal ``(3, 1, 1)``.

    Positions are in mm from the corner of the volume, posed and deformed; `stack` is the length of all slices together.
    """
    plane, directions = _pose(protocol.plane, generator)
    rows, columns, normal = PLANES[plane]
    size = torch.tensor(volume.tissues.shape) * volume.voxel
    centre, height = size / 2, min(float(size[2]), _HEIGHT)
    low, high = _RANGE[plane]
    whole = height if plane == "axial" else float(size[normal])
    margin = min(stack / whole, high - low) / 2  # a stack stays inside as far as it can
    along = whole * uniform(low + margin, high - margin, generator)
    centre[2] = size[2] - height / 2
    centre[normal] = size[2] - along if plane == "axial" else along

    extent = [min(float(size[axis]), _HEIGHT) for axis in (rows, columns)]
    fitting = max(length / pixels for length, pixels in zip(extent, shape, strict=True))
    pixel = min(max(uniform(0.8, 1.3, generator), uniform(1.0, 1.12, generator) * fitting), 1.5 * fitting)
    pixel = protocol.pixel or pixel
    y, x = (pixel * (torch.arange(n) - n // 2 + uniform(-0.04, 0.04, generator) * n) for n in shape)
    amplitude = uniform(0, 4, generator)  # mm
    v = y[:, None] + amplitude * smooth_field(shape, 6, generator)
    u = x[None] + amplitude * smooth_field(shape, 6, generator)
    down, right, across = directions[:, :, None, None]
    return plane, pixel, centre[:, None, None] + v * down + u * right, across


def _pose(plane: str | None, generator: torch.Generator) -> tuple[str, Tensor]:
    """Draw a plane; return the volume's directions along image rows, columns and across ``(3, 3)``, tilted a little."""
    choice = uniform(0, 1, generator)
    plane = plane or ("axial" if choice < 0.6 else "coronal" if choice < 0.8 else "sagittal")
    rows, columns, normal = PLANES[plane]
    base = torch.zeros(3, 3)
    base[0, rows] = base[1, columns] = -1.0
    base[2, normal] = 1.0
    if uniform(0, 1, generator) < 0.5:
        base[:, 0] *= -1  # the mirror image of a head is one too
    rotation = torch.eye(3)
    angles = 0.1 * torch.randn(3, generator=generator, dtype=torch.float32)
    for (i, j), angle in zip(((0, 1), (0, 2), (1, 2)), angles.tolist(), strict=True):
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = math.sin(angle), -math.sin(angle)
        rotation = turn @ rotation
    return plane, rotation @ base


def _gather(volume: LabelVolume, positions: Tensor) -> Tensor:
    """Return the tissue of the nearest voxel, air outside; below the volume its lowest plane goes on (the neck)."""
    index = (positions / volume.voxel[:, None, None] - 0.5).round().long()
    index[2].clamp_(min=0)
    size = torch.tensor(volume.tissues.shape)[:, None, None]
    inside = ((index >= 0) & (index < size)).all(0)
    i, j, k = index.clamp(min=0).minimum(size - 1)
    return torch.where(inside, volume.tissues[i, j, k], 0)


def _lesions(volume: LabelVolume, generator: torch.Generator) -> Tensor:
    """Return centres and radii in mm ``(lesion, 4)`` of spots in the white matter, most of them small."""
    white = (volume.tissues == TISSUE["white"]).flatten().nonzero()[:, 0]
    if len(white) == 0:
        return torch.zeros(0, 4)
    count = int(uniform(8, 60, generator))
    chosen = white[torch.randint(len(white), (count,), generator=generator)]
    places = torch.stack(torch.unravel_index(chosen, volume.tissues.shape), dim=1)
    radii = 1.5 + 7 * torch.rand(count, 1, generator=generator, dtype=torch.float32) ** 3
    return torch.cat([(places + 0.5) * volume.voxel, radii], dim=1)


def _with_lesions(volume: LabelVolume, lesions: Tensor, positions: Tensor) -> Tensor:
    """Return the tissue of the nearest voxel, lesions where the white matter has some."""
    tissues = _gather(volume, positions)
    for lesion in lesions:
        near = (positions - lesion[:3, None, None]).square().sum(0) < lesion[3] ** 2
        tissues[near & (tissues == TISSUE["white"])] = TISSUE["lesion"]
    return tissues


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
