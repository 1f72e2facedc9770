"""What every reader offers, and what the readers of this package share: checks, and how a slice is handed out."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from mriinv.data.acquisition import Acquisition, map_covariance
from mriinv.data.geometry import Geometry
from mriinv.errors import InputError
from mriinv.files import reason

MAX_ELEMENTS = 2**28  # of one array read at once: 2 GiB of complex64, far above any slice of multi-coil k-space
MAX_COILS, MAX_SLICES = 1024, 2**20
DAMAGE = (
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    AttributeError,  # h5py, of an entry of another kind
    SyntaxError,  # NumPy, whose headers are Python literals
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class Scan(ABC):
    """An open k-space file: ``len(scan)`` slices of equal size, each an `Acquisition` of batch 1.

    The constructor checks everything that does not need the k-space values and raises `InputError`.
    """

    format: ClassVar[str]
    path: Path

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """Say whether the file is of this reader's format; `head` holds its first bytes."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of slices."""

    @abstractmethod
    def read(self, index: int) -> Acquisition:
        """Read slice `index`, and only that, from disk (`InputError` when it is damaged or not finite).

        The acquisition has `index` as its own, by which maps of several slices are told apart.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what is known without reading k-space: format, mask, noise, geometry …

        Needed are ``slices`` and ``coils``, numbers, and ``matrix``, the size (y, x) of k-space.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Content(NamedTuple):
    """One slice as a file has it: k-space and maps ``(coil, y, x)``, reference ``(y, x)``, all complex."""

    kspace: np.ndarray
    coil_maps: np.ndarray | None = None
    reference: np.ndarray | None = None
    geometry: Geometry | None = None


class FileScan(Scan):
    """A scan whose reader says what the file holds; the checks and the `Acquisition` are made here.

    K-space is centred with an orthonormal FFT and is handed out as complex64. A location that is exactly zero in
    every coil counts as not sampled: scanner noise makes that rule safe, and it finds zero padding that stored masks
    often count as sampled.

    Attributes set by `_open`
    -------------------------
    shape : slices, coils, y, x (`_set_shape`)
    kspace_name : what the file calls its k-space, for messages
    header : strings that are handed out with each slice and described
    remarks : what is true of every slice
    covariance : E[n nᴴ] between coils of a k-space sample
    mask : bool ``(1|y, x)`` when the file says what was sampled
    fields : names of what the file holds
    """

    kspace_name = "kspace"
    mask_origin: ClassVar[str] = "derived from zeros in the k-space"  # where no mask is stored
    shape: tuple[int, int, int, int]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, str] = {"format": self.format}
        self.remarks: list[str] = []
        self.covariance: np.ndarray | None = None
        self.mask: np.ndarray | None = None
        self.fields: list[str] = []
        self._map_covariance: torch.Tensor | None = None  # of the middle slice, which is read for it once
        self._maps_known = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Open the file and check what does not need the k-space values."""

    @abstractmethod
    def _content(self, index: int) -> Content:
        """Read one slice."""

    def _details(self) -> dict[str, Any]:
        """Return what this format knows of the keys of `describe`."""
        return {}

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: int) -> Acquisition:
        if not 0 <= index < len(self):
            raise InputError(self.path, "slice", str(index), f"0 to {len(self) - 1}")
        with np.errstate(all="ignore"):  # what is not finite, or too large for complex64, is reported by name
            content = self._content(index)
            kspace = self._finite(self.kspace_name, content.kspace, index)
            arrays = {
                name: torch.from_numpy(self._finite(name, value, index))[None]
                for name in ("coil_maps", "reference")
                if (value := getattr(content, name)) is not None
            }
        if "coil_maps" in arrays and not self._maps_known:
            middle = content if len(self) == 1 else self._content(len(self) // 2)
            self._map_covariance = None if middle.coil_maps is None else map_covariance(middle.coil_maps)
            self._maps_known = True
        mask, origin, remarks = self._sampled(kspace, index)
        noise = self.covariance
        return Acquisition(
            kspace=torch.from_numpy(kspace)[None],
            mask=torch.from_numpy(mask)[None],
            noise_std=_deviation(noise),
            noise_covariance=None if noise is None else torch.from_numpy(noise.astype(np.complex64)),
            map_covariance=self._map_covariance,
            geometry=content.geometry,
            source=f"{self.path.name}[{index}]",
            index=index,
            header={**self.header, "mask": origin},
            remarks=(*self.remarks, *remarks),
            **arrays,
        )

    def describe(self) -> dict[str, Any]:
        slices, coils, y, x = self.shape
        mask = None if self.mask is None else ("lines" if len(self.mask) == 1 else "2D")
        return {
            "path": str(self.path),
            "format": self.format,
            "slices": slices,
            "coils": coils,
            "matrix": [y, x],
            "dtype": "complex64",
            "mask": mask,
            "acceleration": None if self.mask is None else self.mask.size / int(self.mask.sum()),
            "coil_maps": False,
            "noise": None if self.covariance is None else "covariance of the coils",
            "noise_std": _deviation(self.covariance),
            "geometry": None,
            "fields": self.fields,
            "remarks": list(self.remarks),
            **{key: value for key, value in self.header.items() if key != "ismrmrd_header"},
            **self._details(),
        }

    def _set_shape(self, name: str, slices: int, coils: int, y: int, x: int) -> None:
        """Store the shape, or refuse one that would take more memory than any scan needs."""
        if math.prod((coils, y, x)) > MAX_ELEMENTS or coils > MAX_COILS or slices > MAX_SLICES:
            limit = f"at most {MAX_ELEMENTS} samples in a slice, {MAX_COILS} coils and {MAX_SLICES} slices"
            raise InputError(self.path, name, f"{slices} slices of {coils} coils of {y} × {x} samples", limit)
        self.kspace_name, self.shape = name, (slices, coils, y, x)

    def _finite(self, name: str, values: np.ndarray, index: int) -> np.ndarray:
        """Return values of slice `index` as writeable complex64, checked to be finite."""
        values = np.ascontiguousarray(values, dtype=np.complex64)
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            found = f"{bad} values that are NaN or infinite in slice {index}"
            raise InputError(self.path, name, found, "finite values")
        return values if values.flags.writeable else values.copy()

    def _sampled(self, kspace: np.ndarray, index: int) -> tuple[np.ndarray, str, list[str]]:
        """Return bool ``(1|y, x)``, where it is from, and what had to be put right.

        Samples outside a stored mask are set to zero in `kspace`.
        """
        remarks = []
        acquired = np.any(kspace != 0, axis=0)
        sampled = acquired
        if self.mask is not None:
            stored = np.broadcast_to(self.mask, acquired.shape)
            sampled = acquired & stored
            if outside := int((acquired & ~stored).sum()):
                kspace *= stored
                remarks.append(f"{outside} locations with data outside the mask were set to zero")
            if padding := int((stored & ~acquired).sum()):
                remarks.append(f"{padding} locations of the mask hold zeros in every coil: not sampled")
        if not sampled.any():
            found = f"no sample in slice {index}"
            raise InputError(self.path, self.kspace_name, found, "at least one that is not zero")
        origin = self.mask_origin if self.mask is None else "stored in the file"
        lines = (sampled == sampled[:1]).all()
        return sampled[:1].copy() if lines else sampled, "fully sampled" if sampled.all() else origin, remarks

    def _checked_covariance(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return a matrix ``(coil, coil)`` as a covariance, made exactly Hermitian."""
        values = values.astype(np.complex128)
        largest = np.abs(values).max()
        if not 0 < largest < math.inf:
            raise InputError(self.path, name, f"values up to {largest:g}", "finite values that are not all zero")
        if (skew := np.abs(values - values.conj().T).max()) > 1e-3 * largest:
            raise InputError(
                self.path, name, f"entries that differ from their mirror by {skew:g}", "a Hermitian matrix"
            )
        values = (values + values.conj().T) / 2
        alive = values.any(0)  # coils that are dead in the data as well are left out in the preparation
        if (lowest := float(np.linalg.eigvalsh(values[alive][:, alive])[0])) < 1e-6 * largest:  # single precision
            expected = "a positive definite matrix; leave out coils without noise of their own, or the matrix"
            raise InputError(self.path, name, f"the eigenvalue {lowest:g}", expected)
        return values

    def _readable(self, field: str) -> AbstractContextManager[None]:
        return readable(self.path, field, self.format)


@contextmanager
def readable(path: Path, field: str, format: str) -> Iterator[None]:
    """Turn what libraries raise on damaged files into an `InputError`."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(path, field, f"damaged or unreadable data ({reason(error)})", f"an intact {format}") from None


def partition_weights(size: int, index: int) -> np.ndarray:
    """Return row `index` of the centred orthonormal inverse DFT of `size` points, complex64."""
    half = size // 2
    turns = (index - half) * (np.arange(size) - half) % size  # reduced, so exact
    return (np.exp(2j * np.pi / size * turns) / math.sqrt(size)).astype(np.complex64)


def in_words(geometry: Geometry | None) -> str | None:
    """Return a geometry as short text."""
    if geometry is None:
        return None
    y, x = geometry.pixel
    return f"{y:.3g} × {x:.3g} mm pixels, {geometry.spacing:.3g} mm slices"


def _deviation(covariance: np.ndarray | None) -> float | None:
    """Return the noise standard deviation per real component, the root mean square over coils."""
    return None if covariance is None else math.sqrt(np.diag(covariance).real.mean() / 2)
