"""Files of named arrays: which arrays there may be, and what their shapes and types must be."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mriinv.data.geometry import Geometry
from mriinv.data.readers.base import Content, FileScan, in_words
from mriinv.errors import InputError, NoScanError

AXES = "(slices, coil, y, x)"
PER_SLICE = ("coil_maps", "reference")


class Array(NamedTuple):
    """Shape and type of a stored array, known before any of it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ArrayScan(FileScan):
    """A file of named arrays: k-space, and optionally ``mask``, ``coil_maps``, ``reference`` and ``noise_cov``.

    A subclass says how to open the file, which names it has, and how to load one array or one slice of it.
    """

    kspace_names: ClassVar[tuple[str, ...]] = ("kspace",)
    single_slice: ClassVar[bool] = False  # whether k-space may lack the slice axis

    @abstractmethod
    def _open_file(self) -> None: ...

    @abstractmethod
    def _list(self) -> list[str]:
        """Return the names of what the file holds."""

    @abstractmethod
    def _array(self, name: str) -> Array: ...

    @abstractmethod
    def _load(self, name: str, index: int | None) -> np.ndarray:
        """Read the array `name`, or its entry `index` along the first axis, and nothing else."""

    def _read_header(self) -> None:
        """Add to `header` and `geometry` what the format knows besides arrays."""

    def _open(self) -> None:
        self.geometry: Geometry | None = None
        with self._readable(""):
            self._open_file()
            self.fields = sorted(self._list())
        self._check_kspace()
        if "mask" in self.fields:
            self.mask = self._read_mask()
        if "noise_cov" in self.fields:
            self.covariance = self._read_covariance()
        for name in PER_SLICE:
            if name in self.fields:
                self._check_per_slice(name)
        with self._readable(""):
            self._read_header()

    def _content(self, index: int) -> Content:
        return Content(
            kspace=self._slice(self.kspace_name, index),
            coil_maps=self._slice("coil_maps", index) if "coil_maps" in self.fields else None,
            reference=self._slice("reference", index) if "reference" in self.fields else None,
            geometry=self.geometry and self.geometry.neighbour(index),
        )

    def _details(self) -> dict[str, Any]:
        return {
            "dtype": str(self._array(self.kspace_name).dtype),
            "coil_maps": "coil_maps" in self.fields,
            "geometry": in_words(self.geometry),
        }

    def _has_one_coil(self) -> bool:
        """Whether k-space of three axes is that of one coil, (slices, y, x)."""
        return False

    def _check_kspace(self) -> None:
        name = next((name for name in self.kspace_names if name in self.fields), None)
        axes = AXES + (" or (coil, y, x)" if self.single_slice else "")
        if name is None:
            held = ", ".join(self.fields) or "nothing"
            raise NoScanError(self.path, "", f"no '{self.kspace_names[0]}' (it holds: {held})", f"k-space {axes}")
        shape, dtype = self._known(name)
        if dtype.kind != "c":
            raise InputError(self.path, name, f"dtype {dtype}", "complex values")
        self._one_coil = len(shape) == 3 and self._has_one_coil()
        if self._one_coil:
            shape = (shape[0], 1, *shape[1:])
        if len(shape) != 4 and not (self.single_slice and len(shape) == 3):
            expected = f"{axes}, with axes for a single slice and a single coil too"
            raise InputError(self.path, name, f"shape {shape}", expected)
        if min(shape) < 1:
            raise InputError(self.path, name, f"shape {shape}", f"at least one of each of {axes}")
        coils, y, x = shape[-3:]
        self._set_shape(name, shape[0] if len(shape) == 4 else 1, coils, y, x)

    def _read_mask(self) -> np.ndarray:
        """Return the stored mask as bool ``(1|y, x)``."""
        shape, dtype = self._known("mask")
        y, x = self.shape[2:]
        if dtype.kind not in "biuf":
            raise InputError(self.path, "mask", f"dtype {dtype}", "0 and 1")
        if shape not in ((x,), (1, x), (y, x)):
            raise InputError(self.path, "mask", f"shape {shape}", f"({x},) or ({y}, {x}), as the k-space has it")
        with self._readable("mask"):
            values = self._load("mask", None)
        if not np.isin(values, (0, 1)).all():
            raise InputError(self.path, "mask", "values other than 0 and 1", "0 and 1")
        if not values.any():
            raise InputError(self.path, "mask", "no sampled location", "at least one")
        return values.astype(bool).reshape(-1, x)

    def _read_covariance(self) -> np.ndarray:
        shape, dtype = self._known("noise_cov")
        coils = self.shape[1]
        if shape != (coils, coils) or dtype.kind not in "fc":
            found = f"shape {shape}, dtype {dtype}"
            raise InputError(self.path, "noise_cov", found, f"({coils}, {coils}), numbers")
        with self._readable("noise_cov"):
            values = self._load("noise_cov", None)
        return self._checked_covariance("noise_cov", values)

    def _check_per_slice(self, name: str) -> None:
        """Check type and shape of an array that has one entry per slice, or one for all."""
        shape, dtype = self._known(name)
        slices, *grid = self.shape
        one = tuple(grid) if name == "coil_maps" else tuple(grid[1:])
        if dtype.kind not in ("cf" if name == "reference" else "c"):  # magnitudes are what is compared
            raise InputError(self.path, name, f"dtype {dtype}", "complex values")
        if shape != (slices, *one) and (shape != one or (name == "reference" and slices > 1)):
            raise InputError(self.path, name, f"shape {shape}", f"{one} or {(slices, *one)}")

    def _slice(self, name: str, index: int) -> np.ndarray:
        one_coil = name == self.kspace_name and self._one_coil
        per_slice = len(self._array(name).shape) == (3 if name == "reference" or one_coil else 4)
        with self._readable(name):
            values = self._load(name, index if per_slice else None)
        return values[None] if one_coil else values

    def _known(self, name: str) -> Array:
        with self._readable(name):
            return self._array(name)
