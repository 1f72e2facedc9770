"""One named array from a file of arrays that is no scan."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mriinv.data.readers.base import DAMAGE
from mriinv.data.readers.hdf5 import stored
from mriinv.data.readers.npz import NpzScan, npz_entry, npz_names
from mriinv.errors import InputError


@contextmanager
def stored_array(path: Path, field: str, *, what: str, axes: str, formats: str) -> Iterator[Any]:
    """Give the array of an npy, or the entry `field` of an npz or HDF5 file, and turn damage into an `InputError`.

    An npy is not read before it is indexed, nor is a dataset of HDF5; an entry of an npz is, when its header says that
    it is not too large.

    Parameters
    ----------
    what, axes, formats : what the array is, its axes, and the files that may hold it, for the errors
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(path, "", "no regular file", formats)
        with path.open("rb") as stream:
            head = stream.read(4)
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                _require(path, field, axes, list(file))
                yield stored(file, field)
        elif NpzScan.recognises(path, head):
            with zipfile.ZipFile(path) as archive:
                _require(path, field, axes, npz_names(archive))
                yield npz_entry(archive, field)
        else:
            yield np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        # of a TypeError `stored` says what is there instead; NumPy's advice on pickled objects helps nobody
        why = str(error) if isinstance(error, TypeError) else getattr(error, "strerror", None)
        found = f"no readable {what}" + (f" ({why})" if why else "")
        raise InputError(path, "", found, f"{formats}; no pickled objects") from None


def _require(path: Path, field: str, axes: str, names: list[str]) -> None:
    if field not in names:
        raise InputError(path, field, f"entries {', '.join(names) or 'none'}", f"an entry '{field}' {axes}")
