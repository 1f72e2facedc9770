"""fastMRI multi-coil HDF5."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np

from mriinv.data.readers.arrays import Array, ArrayScan

MAX_HEADER = 2**20  # characters
PERSONAL = ("subjectInformation", "studyInformation")
MATRIX = re.compile(r"<matrixSize>\s*<x>(\d{1,6})</x>\s*<y>(\d{1,6})</y>\s*<z>(\d{1,6})</z>")


class Hdf5Scan(ArrayScan):
    """HDF5 with ``kspace`` (slices, coil, y, x): fastMRI train, validation and test files.

    Optional: ``mask`` (x,) or (y, x), ``coil_maps`` (slices, coil, y, x) or (coil, y, x), ``noise_cov`` (coil, coil).
    ``reconstruction_rss`` is not used: it is cropped, and the coil-combined reference is made from the k-space.
    """

    format = "HDF5 file (fastMRI)"

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return bool(h5py.is_hdf5(path))  # the signature may follow a user block

    def _open(self) -> None:
        self._file = h5py.File(self.path, "r")

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _list(self) -> list[str]:
        return [name for name in self._file if isinstance(name, str)]  # bytes: not valid UTF-8

    def _dataset(self, name: str) -> h5py.Dataset:
        entry = self._file[name]
        if not isinstance(entry, h5py.Dataset) or entry.shape is None:
            raise TypeError("not a dataset with values")
        return entry

    def _array(self, name: str) -> Array:
        dataset = self._dataset(name)
        return Array(dataset.shape, dataset.dtype)

    def _load(self, name: str, index: int | None) -> np.ndarray:
        return np.asarray(self._dataset(name)[() if index is None else index])

    def _read_header(self) -> None:
        acquisition = self._file.attrs.get("acquisition")
        if isinstance(acquisition, str):
            self.header["acquisition"] = acquisition[:80]
        text = self._text("ismrmrd_header")
        if text:
            self.header["ismrmrd_header"] = text
            if found := MATRIX.search(text):
                self.header["encoded_matrix"] = "x".join(found.groups())

    def _text(self, name: str) -> str:
        """Return a scalar string, unparsed and without what identifies a person; "" when there is none."""
        if name not in self._names:
            return ""
        dataset = self._dataset(name)
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind is None or dataset.size != 1 or (kind.length or 0) > MAX_HEADER:
            return ""
        raw = np.asarray(dataset[()]).reshape(-1)[0]
        text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw)
        if len(text) > MAX_HEADER:
            return ""
        for element in PERSONAL:
            text = _without(text, element)
        return text


def _without(text: str, element: str) -> str:
    """Cut every `element` out of XML text; one that does not end takes the rest with it."""
    opening = re.compile(rf"<(?:\w{{1,20}}:)?{element}\b")
    closing = re.compile(rf"</(?:\w{{1,20}}:)?{element}\s*>")
    kept, position = [], 0
    while start := opening.search(text, position):
        kept.append(text[position : start.start()])
        end = closing.search(text, start.end())
        position = end.end() if end else len(text)
    return "".join([*kept, text[position:]])
