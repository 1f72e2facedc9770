"""fastMRI multi-coil HDF5."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from mriinv.data.geometry import Geometry
from mriinv.data.readers.arrays import Array, ArrayScan
from mriinv.data.readers.mrd_header import MAX_HEADER, parse_header, pixel_size, without_persons


class Hdf5Scan(ArrayScan):
    """HDF5 with ``kspace`` (slices, coil, y, x), y along the readout: fastMRI train, validation and test files.

    Files of one coil, (slices, y, x), are read where they are fastMRI's: with ``reconstruction_esc``, or with
    ``ismrmrd_header`` and the attribute ``acquisition``.

    Optional: ``mask`` (x,) or (y, x), ``coil_maps`` (slices, coil, y, x) or (coil, y, x), ``noise_cov`` (coil, coil),
    ``reference`` (slices, y, x), and ``ismrmrd_header``, which gives the size of a pixel and without which, or with a
    bad one, the file is read as well; the attribute ``geometry`` of simulated scans tells the place of the slices too.
    ``reconstruction_rss`` is not used: it is cropped, and the coil-combined
    reference is made from the k-space.
    """

    format = "HDF5 file (fastMRI)"

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return bool(h5py.is_hdf5(path))  # the signature may follow a user block

    def _open_file(self) -> None:
        self._file = h5py.File(self.path, "r")

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _list(self) -> list[str]:
        return [name for name in self._file if isinstance(name, str)]  # bytes: not valid UTF-8

    def _array(self, name: str) -> Array:
        dataset = stored(self._file, name)
        return Array(dataset.shape, dataset.dtype)

    def _load(self, name: str, index: int | None) -> np.ndarray:
        return np.asarray(stored(self._file, name)[() if index is None else index])

    def _has_one_coil(self) -> bool:
        headed = "ismrmrd_header" in self.fields and "acquisition" in self._file.attrs
        return headed or "reconstruction_esc" in self.fields

    def _read_header(self) -> None:
        acquisition = self._file.attrs.get("acquisition")
        if isinstance(acquisition, str):
            self.header["acquisition"] = acquisition[:80]
        if "ismrmrd_header" in self.fields:
            self._read_ismrmrd_header()
        place = self._file.attrs.get("geometry")
        if isinstance(place, str) and len(place) < MAX_HEADER:
            with suppress(ValueError):
                self.geometry = Geometry.from_json(place)

    def _read_ismrmrd_header(self) -> None:
        y, x = self.shape[2:]
        try:
            if text := header_text(stored(self._file, "ismrmrd_header")):
                self.header["ismrmrd_header"] = text
            encoding = parse_header(text).encodings[0]
            self.header["encoded_matrix"] = "x".join(map(str, encoding.encoded.matrix))
            self.header["recon_matrix"] = "x".join(map(str, encoding.recon.matrix))
            for space in (encoding.recon, encoding.encoded):  # k-space cut to the image, or as measured
                if space.matrix[:2] == (y, x):
                    self.geometry = pixel_size(space) or self.geometry
        except (TypeError, ValueError, IndexError):
            pass  # the remark says it
        if self.geometry is None:
            self.remarks.append(f"the header tells no size for pixels of a {y} × {x} matrix")


def stored(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset with values of this very file (`TypeError` otherwise)."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TypeError("a link instead of data")  # it could lead to any file, or to a pipe that blocks
    entry = group[name]
    if not isinstance(entry, h5py.Dataset) or entry.shape is None:
        raise TypeError("not a dataset with values")
    if entry.is_virtual or entry.external:
        raise TypeError("data that lie in other files")
    return entry


def header_text(dataset: h5py.Dataset) -> str:
    """Return a stored ISMRMRD header, unparsed and without what identifies a person; "" when there is none."""
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or dataset.size != 1 or (kind.length or 0) > MAX_HEADER:
        return ""
    raw = np.asarray(dataset[()]).reshape(-1)[0]
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw)
    return without_persons(text) if len(text) <= MAX_HEADER else ""
