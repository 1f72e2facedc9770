"""Images of real scans as a source of training slices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mriinv.core.problem import reference_scale
from mriinv.core.types import Image, ImageSlice
from mriinv.data.acquisition import Acquisition
from mriinv.data.heads import ImageSource
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import open_scan
from mriinv.errors import InputError
from mriinv.numerics.images import centre_crop

CACHE_BYTES = 2**30  # of combined images: some 600 slices of 640 × 320 pixels

Combine = Callable[[Acquisition], Image]


class ScanImages(ImageSource):
    """Coil-combined complex images of fully sampled scans; the anatomy is real, and so are phase and noise.

    An image is made when it is first drawn and kept in a cache of limited size. Each slice is seen in its middle:
    cropped, or extended by zeros, to the matrix that is asked for.

    Parameters
    ----------
    paths : scans in any format that can be read, fully sampled
    slices : of each scan, those nearest to its middle; None for all
    combine : returns the image ``(1, y, x)`` that a fully sampled slice shows

    Raises
    ------
    InputError : no scan, or one that cannot be read
    """

    def __init__(self, paths: Sequence[Path], slices: int | None, combine: Combine) -> None:
        if not paths:
            raise InputError("ScanImages", "paths", "no scan", "at least one")
        self._paths, self._most, self._combine = tuple(paths), slices, combine
        self._chosen = [middle_slices(_length(path), slices) for path in self._paths]
        self._cache: OrderedDict[tuple[int, int], ImageSlice] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the paths to worker processes, which read the scans themselves."""
        return type(self), (self._paths, self._most, self._combine)

    def image(self, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
        scan = int(torch.randint(len(self._paths), (1,), generator=generator))
        chosen = self._chosen[scan]
        index = chosen[int(torch.randint(len(chosen), (1,), generator=generator))]
        image = _fitted(self._image(scan, index), shape)
        return image / reference_scale(image[None])

    def _image(self, scan: int, index: int) -> ImageSlice:
        key = (scan, index)
        if key not in self._cache:
            self._cache[key] = self._combined(self._paths[scan], index)
            self._bytes += self._cache[key].nbytes
            while self._bytes > CACHE_BYTES and len(self._cache) > 1:
                self._bytes -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(key)
        return self._cache[key]

    def _combined(self, path: Path, index: int) -> ImageSlice:
        with open_scan(path) as scan:
            full = prepare_acquisition(scan.read(index))
        if not full.gapless:
            raise InputError(full.source, "kspace", "undersampled data", "a fully sampled scan to train on")
        return self._combine(full)[0]


def middle_slices(total: int, count: int | None) -> list[int]:
    """Return `count` neighbouring slices around the middle of `total`; all of them for None."""
    count = total if count is None else min(count, total)
    first = (total - count) // 2
    return list(range(first, first + count))


def _length(path: Path) -> int:
    with open_scan(path) as scan:
        return len(scan)


def _fitted(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the middle of an image, extended by zeros where it is too small; the centre pixel stays the centre."""
    image = centre_crop(image, shape)
    before = [wanted // 2 - size // 2 for wanted, size in zip(shape, image.shape, strict=True)]
    after = [wanted - size - low for wanted, size, low in zip(shape, image.shape, before, strict=True)]
    return pad(image, (before[1], after[1], before[0], after[0]))
