"""BART's pairs of ``.cfl`` (values) and ``.hdr`` (dimensions)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mriinv.data.readers.base import MAX_ELEMENTS, Content, FileScan, partition_weights, readable
from mriinv.errors import InputError

FORMAT = "BART pair (.cfl and .hdr)"
NAMES = (
    *("READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2"),
    *("ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH"),
)
READ, PHS1, PHS2, COIL, MAPS, COEFF, COEFF2, TIME, SLICE, AVG, BATCH = 0, 1, 2, 3, 4, 6, 7, 10, 13, 14, 15
IMAGES = (SLICE, TIME, BATCH)
SELECT = "one entry, as `bart slice {} 0 in out` makes it"
CURES = {
    MAPS: "k-space; coil maps are estimated from it",
    COEFF: "k-space, not coefficients of a basis",
    COEFF2: "k-space, not coefficients of a basis",
    AVG: "one entry, as `bart avg -w 16384 in out` makes it",
}
MAX_TEXT = 2**16  # bytes of a .hdr


def pair_of(path: Path) -> Path:
    """Return the file of values of the pair that its header or, as BART's do, a name without suffix stands for; else
    `path`."""
    if not path.name:  # a root, or the working directory
        return path
    header = path.suffix == ".hdr"
    pair = path.with_suffix(".cfl") if header else path.with_name(f"{path.name}.cfl")
    return pair if os.path.isfile(pair) and (header or not os.path.exists(path)) else path  # names may be too long


class CflScan(FileScan):
    """A Cartesian k-space of BART: dimensions READ, PHS1, PHS2, COIL and one of SLICE, TIME, BATCH.

    - Two of READ, PHS1, PHS2 are larger than 1: in this order they are y and x.
    - All three are: READ must be fully sampled. An inverse FFT along it gives slices, with y = PHS1 and x = PHS2. To
      read one passes over the whole file, but holds nothing else in memory.
    - SLICE, TIME or BATCH: each entry is an image of its own.

    Any other dimension larger than 1 is refused. BART's k-space is centred; the values are in column-major order.
    The pair may be named by either file or, as BART does, without suffix.
    """

    format = FORMAT

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return path.suffix in (".cfl", ".hdr")

    def _open(self) -> None:
        self.path = self.path.with_suffix(".cfl")
        pair = open_pair(self.path)
        self.fields = [f"{name} {size}" for name, size in zip(NAMES, pair.shape, strict=True) if size > 1]
        self._values, axis = stacked(self.path, pair, CURES)
        slices, coils, y, x = self._values.shape
        self._set_shape("kspace", slices, coils, y, x)
        self._volume = axis == READ
        if self._volume:
            if slices * coils * y > MAX_ELEMENTS:
                found = f"{coils} coils of {slices} × {y} samples in a plane of PHS2"
                raise InputError(self.path, "kspace", found, f"at most {MAX_ELEMENTS} samples")
            self.remarks.append("the slices of this 3D scan lie across READ, after an inverse FFT along it")
        elif axis != SLICE:
            self.remarks.append(f"each entry along {NAMES[axis]} is an image of its own")

    def close(self) -> None:
        vars(self).pop("_values", None)

    def _content(self, index: int) -> Content:
        slices, coils, y, x = self.shape
        if not self._volume:
            return Content(self._values[index])
        kspace = np.empty((coils, y, x), np.complex64)
        for plane in range(x):
            lines = np.array(self._values[..., plane])
            measured = lines.any(1).sum(0)
            if not np.isin(measured, (0, slices)).all():
                found = f"lines along READ with {measured[measured > 0].min()} of {slices} samples"
                raise InputError(self.path, "kspace", found, "a 3D scan that is fully sampled along READ")
            kspace[:, :, plane] = np.tensordot(partition_weights(slices, index), lines, 1)
        return Content(kspace)


def open_pair(path: Path) -> np.ndarray:
    """Map the values of a pair, complex of 16 dimensions, into memory; nothing of them is read yet."""
    header, path = path.with_suffix(".hdr"), path.with_suffix(".cfl")
    for file in (header, path):
        if not file.is_file():
            raise InputError(file, "", "no such file", "a pair of .cfl and .hdr")
    with readable(path, "", FORMAT):
        sizes = _sizes(header)
        size = 8 * math.prod(sizes)
        if (found := path.stat().st_size) != size:
            raise InputError(path, "", f"{found} bytes", f"{size}, for the dimensions in {header.name}")
        return np.memmap(path, "<c8", "r", shape=tuple(sizes), order="F")


def _sizes(header: Path) -> list[int]:
    """Return the sizes of all 16 dimensions."""
    with header.open("rb") as file:
        text = file.read(MAX_TEXT).decode("ascii", errors="replace")
    expected = "a line '# Dimensions' and below it up to 16 positive integers"
    found = re.search(r"^# Dimensions[ \t]*\r?\n([^\r\n]*)", text, re.MULTILINE)
    if found is None:
        raise InputError(header, "", "no line '# Dimensions'", expected)
    entries = found[1].split()
    if not 1 <= len(entries) <= 16 or not all(re.fullmatch("0*[1-9][0-9]{0,8}", entry) for entry in entries):
        raise InputError(header, "# Dimensions", repr(found[1][:80]), expected)
    return [int(entry) for entry in entries] + [1] * (16 - len(entries))


def stacked(path: Path, pair: np.ndarray, cures: Mapping[int, str]) -> tuple[np.ndarray, int]:
    """View a pair as ``(slice, coil, y, x)``, and say which dimension the slices lie along.

    Parameters
    ----------
    cures : what is right instead of several entries along a dimension, by its number; `SELECT` for others
    """
    grid = [number for number in (READ, PHS1, PHS2) if pair.shape[number] > 1]
    images = [number for number in IMAGES if pair.shape[number] > 1]
    allowed = {*grid, COIL, *(images[:1] if len(grid) < 3 else ())}
    for number, size in enumerate(pair.shape):
        if number not in allowed and size > 1:
            found = f"{size} entries along {NAMES[number]} (dimension {number})"
            raise InputError(path, "", found, cures.get(number, SELECT).format(number))
    if len(grid) < 2:
        held = ", ".join(f"{name} {size}" for name, size in zip(NAMES, pair.shape, strict=True) if size > 1)
        raise InputError(path, "", held or "one value", "two of READ, PHS1 and PHS2 larger than 1")
    axis = READ if len(grid) == 3 else (images or [SLICE])[0]
    return np.moveaxis(pair, (axis, COIL, *grid[-2:]), range(4)).squeeze(tuple(range(4, 16))), axis
