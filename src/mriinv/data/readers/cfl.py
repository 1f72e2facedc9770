"""BART's pairs of ``.cfl`` (values) and ``.hdr`` (dimensions)."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from mriinv.data.readers.base import MAX_ELEMENTS, Content, FileScan, partition_weights
from mriinv.errors import InputError

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


class CflScan(FileScan):
    """A Cartesian k-space of BART: dimensions READ, PHS1, PHS2, COIL and one of SLICE, TIME, BATCH.

    - Two of READ, PHS1, PHS2 are larger than 1: in this order they are y and x.
    - All three are: READ must be fully sampled. An inverse FFT along it gives slices, with y = PHS1 and x = PHS2. To
      read one passes over the whole file, but holds nothing else in memory.
    - SLICE, TIME or BATCH: each entry is an image of its own.

    Any other dimension larger than 1 is refused. BART's k-space is centred; the values are in column-major order.
    The pair may be named by either file or, as BART does, without suffix.
    """

    format = "BART pair (.cfl and .hdr)"

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return path.suffix in (".cfl", ".hdr")

    def _open(self) -> None:
        header, self.path = self.path.with_suffix(".hdr"), self.path.with_suffix(".cfl")
        for file in (header, self.path):
            if not file.is_file():
                raise InputError(file, "", "no such file", "a pair of .cfl and .hdr")
        sizes = self._sizes(header)
        self._map(sizes)
        self.fields = [f"{name} {size}" for name, size in zip(NAMES, sizes, strict=True) if size > 1]
        grid = [number for number in (READ, PHS1, PHS2) if sizes[number] > 1]
        images = [number for number in IMAGES if sizes[number] > 1]
        allowed = {*grid, COIL, *(images[:1] if len(grid) < 3 else ())}
        for number, size in enumerate(sizes):
            if number not in allowed and size > 1:
                found = f"{size} entries along {NAMES[number]} (dimension {number})"
                raise InputError(self.path, "", found, CURES.get(number, SELECT).format(number))
        if len(grid) < 2:
            held = ", ".join(self.fields) or "one value"
            raise InputError(self.path, "", held, "two of READ, PHS1 and PHS2 larger than 1")
        self._volume = len(grid) == 3
        self._axis = READ if self._volume else (images or [SLICE])[0]
        y, x = (sizes[number] for number in grid[-2:])
        self._set_shape("kspace", sizes[self._axis], sizes[COIL], y, x)
        if self._volume:
            if sizes[READ] * sizes[COIL] * y > MAX_ELEMENTS:
                found = f"{sizes[COIL]} coils of {sizes[READ]} × {y} samples in a plane of PHS2"
                raise InputError(self.path, "kspace", found, f"at most {MAX_ELEMENTS} samples")
            self.remarks.append("the slices of this 3D scan lie across READ, after an inverse FFT along it")
        elif self._axis != SLICE:
            self.remarks.append(f"each entry along {NAMES[self._axis]} is an image of its own")

    def close(self) -> None:
        vars(self).pop("_values", None)

    def _sizes(self, header: Path) -> list[int]:
        """Return the sizes of all 16 dimensions."""
        with self._readable(""), header.open("rb") as file:
            text = file.read(MAX_TEXT).decode("ascii", errors="replace")
        expected = "a line '# Dimensions' and below it up to 16 positive integers"
        found = re.search(r"^# Dimensions[ \t]*\r?\n([^\r\n]*)", text, re.MULTILINE)
        if found is None:
            raise InputError(header, "", "no line '# Dimensions'", expected)
        entries = found[1].split()
        if not 1 <= len(entries) <= 16 or not all(re.fullmatch("0*[1-9][0-9]{0,8}", entry) for entry in entries):
            raise InputError(header, "# Dimensions", repr(found[1][:80]), expected)
        return [int(entry) for entry in entries] + [1] * (16 - len(entries))

    def _map(self, sizes: list[int]) -> None:
        """Map the values into memory, of which nothing is read yet."""
        size = 8 * math.prod(sizes)
        with self._readable(""):
            if (found := self.path.stat().st_size) != size:
                raise InputError(self.path, "", f"{found} bytes", f"{size}, for the dimensions in {self.path.stem}.hdr")
            self._values = np.memmap(self.path, "<c8", "r", shape=tuple(sizes), order="F")

    def _content(self, index: int) -> Content:
        slices, coils, y, x = self.shape
        if not self._volume:
            chosen = np.moveaxis(self._values, self._axis, 0)[index]
            return Content(chosen.reshape(y, x, coils, order="F").transpose(2, 0, 1))
        volume = self._values.reshape(slices, y, x, coils, order="F")
        kspace = np.empty((coils, y, x), np.complex64)
        for plane in range(x):
            lines = np.array(volume[:, :, plane])
            measured = lines.any(-1).sum(0)
            if not np.isin(measured, (0, slices)).all():
                found = f"lines along READ with {measured[measured > 0].min()} of {slices} samples"
                raise InputError(self.path, "kspace", found, "a 3D scan that is fully sampled along READ")
            kspace[:, :, plane] = np.tensordot(partition_weights(slices, index), lines, 1).T
        return Content(kspace)
