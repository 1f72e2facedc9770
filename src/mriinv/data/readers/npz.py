"""NumPy archives."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from mriinv.data.readers.arrays import Array, ArrayScan
from mriinv.data.readers.base import MAX_ELEMENTS
from mriinv.errors import InputError

CHUNK = 2**24  # bytes


class NpzScan(ArrayScan):
    """npz with ``ksp`` (or ``kspace``) (coil, y, x) or (slices, coil, y, x).

    Optional: ``mask`` (y, x) or (x,), ``coil_maps`` (slices, coil, y, x) or (coil, y, x), ``noise_cov`` (coil, coil),
    ``reference`` (slices, y, x) or (y, x).
    Nothing is unpickled: types and shapes are checked in the headers, before memory is taken for any array.
    """

    format = "npz file"
    kspace_names = ("ksp", "kspace")
    single_slice = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))

    def _open_file(self) -> None:
        self._archive, self._intact = zipfile.ZipFile(self.path), set[str]()

    def close(self) -> None:
        if hasattr(self, "_archive"):
            self._archive.close()

    def _list(self) -> list[str]:
        return npz_names(self._archive)

    def _array(self, name: str) -> Array:
        with self._archive.open(f"{name}.npy") as member:
            shape, _, dtype = _read_header(member)
            return Array(shape, dtype)

    def _load(self, name: str, index: int | None) -> np.ndarray:
        if index is not None and name not in self._intact:
            with self._archive.open(f"{name}.npy") as member:  # checksums are compared at the end only
                while member.read(CHUNK):
                    pass
            self._intact.add(name)
        return npz_entry(self._archive, name, index)


def npz_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an npz."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def npz_entry(archive: zipfile.ZipFile, name: str, index: int | None = None) -> np.ndarray:
    """Read an array of an npz, or its entry `index` along the first axis; size and type are checked before."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        shape, fortran, dtype = _read_header(member)
        if info.file_size != member.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"size does not fit the shape {shape}")
        if index is not None:
            if fortran:
                expected = "C order, which allows reading one slice"
                raise InputError(archive.filename, name, "Fortran order", expected)
            shape = shape[1:]
        count = math.prod(shape)
        if count > MAX_ELEMENTS:
            raise ValueError(f"{count} elements, more than {MAX_ELEMENTS}")
        member.seek((index or 0) * count * dtype.itemsize, 1)
        data = member.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type of a ``.npy`` stream; leaves the stream at the data."""
    version = npy.read_magic(member)
    if version != (1, 0):  # later versions allow headers of 4 GiB, which no array of numbers needs
        raise ValueError(f"npy format version {version}")
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(member)
    except Exception:  # the header is a Python literal, and nonsense makes the parser raise almost anything
        raise ValueError("no valid npy header") from None
    return shape, fortran, dtype
