"""What files of named arrays have in common: the checks, and how a slice becomes an `Acquisition`."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from mriinv.data.acquisition import Acquisition
from mriinv.data.readers.base import Scan
from mriinv.errors import InputError

MAX_ELEMENTS = 2**28  # of one array read at once: 2 GiB of complex64, far above any slice of multi-coil k-space
DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
MAX_COILS = 1024
AXES = "(slices, coil, y, x)"


class Array(NamedTuple):
    """Shape and type of a stored array, known before any of it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ArrayScan(Scan):
    """A file of named arrays: k-space, and optionally ``mask``, ``coil_maps`` and ``noise_cov``.

    A subclass says how to open the file, which names it has, and how to load one array or one slice of it.
    K-space is centred with an orthonormal FFT and is handed out as complex64.
    """

    kspace_names: ClassVar[tuple[str, ...]] = ("kspace",)
    single_slice: ClassVar[bool] = False  # whether k-space may lack the slice axis

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, str] = {"format": self.format}
        try:
            with self._readable(""):
                self._open()
                self._names = self._list()
            self._check_kspace()
            self._mask = self._read_mask() if "mask" in self._names else None
            self.noise_std = self._read_noise() if "noise_cov" in self._names else None
            if "coil_maps" in self._names:
                self._check_maps()
            with self._readable(""):
                self._read_header()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _list(self) -> list[str]:
        """Return the names of what the file holds."""

    @abstractmethod
    def _array(self, name: str) -> Array: ...

    @abstractmethod
    def _load(self, name: str, index: int | None) -> np.ndarray:
        """Read the array `name`, or its entry `index` along the first axis, and nothing else."""

    def _read_header(self) -> None:
        """Add to `header` what the format knows besides arrays."""

    def __len__(self) -> int:
        return self._slices

    def read(self, index: int) -> Acquisition:
        if not 0 <= index < len(self):
            raise InputError(self.path, "slice", str(index), f"0 to {len(self) - 1}")
        kspace = self._complex(self._kspace_name, index)
        mask, origin, remarks = self._sampled(kspace, index)
        return Acquisition(
            kspace=torch.from_numpy(kspace)[None],
            mask=torch.from_numpy(mask)[None],
            coil_maps=torch.from_numpy(self._complex("coil_maps", index))[None] if self._has_maps else None,
            noise_std=self.noise_std,
            source=f"{self.path.name}[{index}]",
            header={**self.header, "mask": origin},
            remarks=tuple(remarks),
        )

    def describe(self) -> dict[str, Any]:
        coils, y, x = self._grid
        mask = None if self._mask is None else ("lines" if len(self._mask) == 1 else "2D")
        return {
            "path": str(self.path),
            "format": self.format,
            "slices": len(self),
            "coils": coils,
            "matrix": [y, x],
            "dtype": str(self._array(self._kspace_name).dtype),
            "mask": mask,
            "acceleration": None if self._mask is None else self._mask.size / int(self._mask.sum()),
            "coil_maps": self._has_maps,
            "noise_std": self.noise_std,
            "fields": sorted(self._names),
            **{key: value for key, value in self.header.items() if key != "ismrmrd_header"},
        }

    def _check_kspace(self) -> None:
        names = self._names
        name = next((name for name in self.kspace_names if name in names), None)
        axes = AXES + (" or (coil, y, x)" if self.single_slice else "")
        if name is None:
            held = ", ".join(sorted(names)) or "nothing"
            raise InputError(self.path, "", f"no '{self.kspace_names[0]}' (it holds: {held})", f"k-space {axes}")
        shape, dtype = self._known(name)
        if dtype.kind != "c":
            raise InputError(self.path, name, f"dtype {dtype}", "complex values")
        if len(shape) != 4 and not (self.single_slice and len(shape) == 3):
            raise InputError(self.path, name, f"shape {shape}", axes)
        if min(shape) < 1:
            raise InputError(self.path, name, f"shape {shape}", f"at least one of each of {axes}")
        if math.prod(shape[-3:]) > MAX_ELEMENTS or shape[-3] > MAX_COILS:
            limit = f"at most {MAX_ELEMENTS} samples in a slice and {MAX_COILS} coils"
            raise InputError(self.path, name, f"shape {shape}", limit)
        self._kspace_name, self._has_maps = name, False
        self._slices = shape[0] if len(shape) == 4 else 1
        self._grid = shape[-3:]

    def _read_mask(self) -> np.ndarray:
        """Return the stored mask as bool ``(1|y, x)``."""
        shape, dtype = self._known("mask")
        y, x = self._grid[1:]
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

    def _read_noise(self) -> float:
        """Return the noise standard deviation per real component from the coil noise covariance E[n nᴴ]."""
        shape, dtype = self._known("noise_cov")
        coils = self._grid[0]
        if shape != (coils, coils) or dtype.kind not in "fc":
            raise InputError(self.path, "noise_cov", f"shape {shape}, dtype {dtype}", f"({coils}, {coils}), numbers")
        with self._readable("noise_cov"):
            variance = float(np.diag(self._load("noise_cov", None)).real.astype(float).mean())
        if not 0 < variance < math.inf:
            raise InputError(self.path, "noise_cov", f"mean variance {variance:g}", "a positive finite number")
        return math.sqrt(variance / 2)

    def _check_maps(self) -> None:
        shape, dtype = self._known("coil_maps")
        if dtype.kind != "c":
            raise InputError(self.path, "coil_maps", f"dtype {dtype}", "complex values")
        if shape not in (self._grid, (self._slices, *self._grid)):
            raise InputError(self.path, "coil_maps", f"shape {shape}", f"{self._grid} or {(self._slices, *self._grid)}")
        self._has_maps = True

    def _complex(self, name: str, index: int) -> np.ndarray:
        """Read one slice as complex64 ``(coil, y, x)`` and check that it is finite."""
        per_slice = len(self._array(name).shape) == 4
        with self._readable(name), np.errstate(over="ignore"):  # what overflows complex64 is reported as infinity
            values = np.ascontiguousarray(self._load(name, index if per_slice else None), dtype=np.complex64)
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            raise InputError(
                self.path, name, f"{bad} values that are NaN or infinite in slice {index}", "finite values"
            )
        return values if values.flags.writeable else values.copy()

    def _sampled(self, kspace: np.ndarray, index: int) -> tuple[np.ndarray, str, list[str]]:
        """Return bool ``(1|y, x)``, where it is from, and what had to be put right.

        A location that is exactly zero in every coil was not acquired: scanner noise makes that rule safe, and it
        finds zero padding that stored masks often count as sampled. Samples outside a stored mask are set to zero in
        `kspace`.
        """
        remarks = []
        acquired = np.any(kspace != 0, axis=0)
        sampled = acquired
        if self._mask is not None:
            stored = np.broadcast_to(self._mask, acquired.shape)
            sampled = acquired & stored
            if outside := int((acquired & ~stored).sum()):
                kspace *= stored
                remarks.append(f"{outside} locations with data outside the mask were set to zero")
            if padding := int((stored & ~acquired).sum()):
                remarks.append(f"{padding} locations of the mask hold zeros in every coil: not sampled")
        if not sampled.any():
            raise InputError(
                self.path, self._kspace_name, f"no sample in slice {index}", "at least one that is not zero"
            )
        origin = "derived from zeros in the k-space" if self._mask is None else "stored in the file"
        lines = (sampled == sampled[:1]).all()
        return sampled[:1].copy() if lines else sampled, "fully sampled" if sampled.all() else origin, remarks

    def _known(self, name: str) -> Array:
        with self._readable(name):
            return self._array(name)

    @contextmanager
    def _readable(self, field: str) -> Iterator[None]:
        """Turn what libraries raise on damaged files into an `InputError`."""
        try:
            yield
        except DAMAGE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                self.path, field, f"damaged or unreadable data ({reason})", f"an intact {self.format}"
            ) from None
