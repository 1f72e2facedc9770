"""One named array from a file of arrays that is no scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mriinv.errors import InputError


@contextmanager
def stored_array(path: Path, field: str, *, what: str, axes: str, formats: str) -> Iterator[Any]:
    """Give the array of an npy, or the entry `field` of an npz or HDF5 file, and turn damage into an `InputError`.

    An npy is not read before it is indexed, nor is a dataset of HDF5; an entry of an npz is.

    Parameters
    ----------
    what, axes, formats : what the array is, its axes, and the files that may hold it, for the errors
    """
    try:
        if path.is_file() and h5py.is_hdf5(path):
            with h5py.File(path) as file:
                yield _entry(path, field, axes, file)
            return
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield loaded
            return
        with loaded as archive:
            yield _entry(path, field, axes, archive)
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None)  # NumPy's advice on pickled objects helps nobody
        found = f"no readable {what}" + (f" ({why})" if why else "")
        raise InputError(path, "", found, f"{formats}; no pickled objects") from None


def _entry(path: Path, field: str, axes: str, archive: h5py.File | np.lib.npyio.NpzFile) -> Any:
    if field not in archive:
        raise InputError(path, field, f"entries {', '.join(archive) or 'none'}", f"an entry '{field}' {axes}")
    entry = archive[field]
    if isinstance(entry, h5py.Group):
        raise InputError(path, field, "a group", "a dataset")
    return entry
