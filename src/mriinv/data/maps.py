"""Coil maps that somebody else made, from a file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from mriinv.data.acquisition import Acquisition, map_covariance
from mriinv.data.array_file import stored_array
from mriinv.data.readers.cfl import open_pair, pair_of, stacked
from mriinv.data.results import attributes, read_result
from mriinv.errors import InputError

FIELD = "coil_maps"
WHITENED = "noise of the coils made equal and independent"  # the remark of whitening begins so


def with_maps(acquisition: Acquisition, path: str | Path) -> Acquisition:
    """Return the acquisition with the coil maps of a file, complex (coil, y, x) or (slice, coil, y, x), for its own.

    Of the maps of several slices those of its own slices are taken (`Acquisition.index`), of a result those that it
    says it has.

    Parameters
    ----------
    path : npz or HDF5 with an entry ``coil_maps``, npy, or a BART pair, by either file or without suffix, a 3D one
        with its slices along READ; of the coils and the matrix of `acquisition`

    Raises
    ------
    InputError : no such file, a format that cannot be read, no such entry, a wrong shape or type, too few slices, a
        result whose maps are those of whitened coils
    """
    path = pair_of(Path(path))
    result = attributes(path)
    if result and _whitened(path, result):
        expected = "maps of the coils as they are in the file, by --set preparation.whiten=false"
        raise InputError(path, FIELD, "a result whose coils were whitened", expected)
    maps, middle = _read(path, acquisition, result)
    with np.errstate(all="ignore"):  # what is too large for the type is reported by who takes it
        dtype = np.complex64 if acquisition.kspace.dtype == torch.complex64 else np.complex128
        maps = maps.astype(dtype, order="C")
    found = torch.from_numpy(maps).to(acquisition.kspace.device)
    typical = map_covariance(middle)
    typical = None if typical is None else typical.to(found.device)
    return replace(acquisition, coil_maps=found, map_covariance=typical)


def _whitened(path: Path, result: Mapping[str, Any]) -> bool:
    one = result["finished"][:1]  # whitened is a scan, not a slice, and this is asked for every slice
    remarks = read_result(path, only=one.tolist(), arrays=()).remarks.values()
    return any(remark.startswith(WHITENED) for remark in itertools.chain(*remarks))


def _read(path: Path, acquisition: Acquisition, result: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix in (".cfl", ".hdr"):
        return _taken(path, stacked(path, open_pair(path), {})[0], acquisition, result)
    formats = f".npy, .npz or HDF5 with '{FIELD}', or BART's .cfl and .hdr"
    with stored_array(path, FIELD, what="coil maps", axes="(coil, y, x)", formats=formats) as entry:
        return _taken(path, entry, acquisition, result)


def _taken(
    path: Path, entry: np.ndarray | h5py.Dataset, acquisition: Acquisition, result: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Read what is needed of an array or dataset as ``(batch|1, coil, y, x)``, and the maps of the middle slice."""
    rows = _rows(path, entry.shape, entry.dtype, acquisition, result)
    if entry.ndim == 3:
        whole = np.asarray(entry[()])
        return whole[None], whole
    return np.asarray(entry[rows]), np.asarray(entry[len(entry) // 2])


def _rows(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, acquisition: Acquisition, result: Mapping[str, Any]
) -> slice:
    """Return the slices of maps of a shape that belong to the acquisition; `result`: `attributes`, empty for others."""
    batch, *own = acquisition.kspace.shape
    if not np.issubdtype(dtype, np.complexfloating) or shape[-3:] != tuple(own) or len(shape) > 4:
        expected = f"complex {tuple(own)} (coil, y, x), as the k-space, with an axis for slices before or not"
        raise InputError(path, FIELD, f"{dtype} {shape}", expected)
    first = acquisition.index
    if result:
        first = _row_of(path, result, range(first, first + batch))
    elif len(shape) == 3 or shape[0] == 1:
        return slice(1)
    if first + batch > shape[0]:
        raise InputError(path, FIELD, f"{shape[0]} slices", f"maps of slice {first + batch - 1} too, or of one for all")
    return slice(first, first + batch)


def _row_of(path: Path, result: Mapping[str, Any], wanted: range) -> int:
    """Return where in a result consecutive slices of the scan begin, which need not be all of them."""
    slices, finished = (result[name].tolist() for name in ("slices", "finished"))
    if missing := set(wanted) - set(finished):
        raise InputError(path, FIELD, f"maps of slices {', '.join(map(str, finished))}", f"of slice {min(missing)}")
    return int(slices.index(wanted.start))
