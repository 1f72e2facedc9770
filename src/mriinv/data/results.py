"""The result file: one HDF5 per input, with the images and everything that made them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from mriinv.data.geometry import Geometry
from mriinv.data.readers.base import DAMAGE
from mriinv.data.readers.hdf5 import stored
from mriinv.errors import InputError
from mriinv.files import reason

FORMAT = "mriinv result"
EXPORT_MARK = "exported by mriinv"
VERSION = 3
IMAGE = "image"
GROUPS = METRICS, SOLUTION, HISTORY, REMARKS, GEOMETRY, HEADER = (
    "metrics",
    "solution",
    "history",
    "remarks",
    "geometry",
    "header",
)
ROWS = SLICES, FINISHED = "slices", "finished"  # datasets: one number per slice can be too much for an attribute


@dataclass(frozen=True)
class Result:
    """A result file in memory; every tensor has one row per finished slice.

    Attributes
    ----------
    image : complex64 ``(slices, y, x)``
    slices : the slices of the input that the rows belong to
    complete : whether all announced slices were finished
    settings, provenance : as given to the writer
    arrays : the other datasets by name (``mask``, ``coil_maps`` …), each with the slice axis first
    metrics : by name, float64 ``(slices,)``
    region, data_range : what the metrics refer to; "" without metrics
    solution : iterations, converged, acceleration, scale, noise_std …, by name, float64 ``(slices,)``
    history, remarks, geometry : by slice of the input
    header : strings of the input, by name
    """

    image: Tensor
    slices: tuple[int, ...]
    complete: bool
    settings: dict[str, Any]
    provenance: dict[str, Any]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    region: str = ""
    data_range: str = ""
    solution: dict[str, Tensor] = field(default_factory=dict)
    history: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    remarks: dict[int, list[str]] = field(default_factory=dict)
    geometry: dict[int, Geometry] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)


def partial_path(path: Path) -> Path:
    """Return where an incomplete result goes when a complete one stands at `path`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def is_result(path: Path) -> bool:
    """Say whether `path` is a result file, complete or not."""
    return bool(attributes(path))


def is_export(path: Path) -> bool:
    """Say whether a file was exported here, values of a pair by their header."""
    path = path.with_suffix(".hdr") if path.suffix == ".cfl" else path
    with suppress(*DAMAGE), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return EXPORT_MARK.encode() in file.read(4096)
    return False


def attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a result file, with `ROWS`; none for anything else."""
    if not path.is_file():  # h5py would wait for a pipe
        return {}
    try:
        with h5py.File(path, "r") as file:
            return _attributes(file)
    except DAMAGE:
        return {}


def _attributes(file: h5py.File) -> dict[str, Any]:
    found = file.attrs.get("format")
    if not isinstance(found, str) or found != FORMAT:  # of a foreign file it may be anything
        return {}
    return {**file.attrs, **{name: file[name][()] for name in ROWS if name in file}}


def read_result(path: str | Path, only: Iterable[int] | None = None, arrays: Iterable[str] | None = None) -> Result:
    """Load a result file (`InputError` when it is missing, damaged or something else).

    Parameters
    ----------
    only : slices to load; None for all
    arrays : which to load besides the image; None for all, posterior samples included
    """
    if not Path(path).is_file():
        found = "no regular file" if os.path.lexists(path) else "no such file"
        raise InputError(path, "", found, f"a {FORMAT}")
    try:
        with h5py.File(path, "r") as file:
            attrs = _attributes(file)
            if attrs.get("version") != VERSION:
                found = f"{file.attrs.get('format')!r}, version {file.attrs.get('version')}"
                raise InputError(path, "format", found, f"{FORMAT}, version {VERSION}, as mriinv run makes it again")
            return _read(file, attrs, None if only is None else set(only), None if arrays is None else set(arrays))
    except DAMAGE as error:
        raise InputError(path, "", f"no readable file ({reason(error)})", f"a {FORMAT}") from None


def _read(file: h5py.File, attrs: dict[str, Any], only: set[int] | None, wanted: set[str] | None) -> Result:
    announced, finished = attrs[SLICES].tolist(), set(attrs[FINISHED].tolist())
    chosen = finished if only is None else finished & only
    rows = [row for row, index in enumerate(announced) if index in chosen]

    def tensors(group: h5py.Group, names: set[str] | None = None) -> dict[str, Tensor]:
        own = [name for name in group if name not in ROWS and (names is None or name in names)]
        linked = {name for name in own if not isinstance(group.get(name, getlink=True), h5py.HardLink)}
        return {
            name: torch.from_numpy(stored(group, name)[rows])
            for name in own
            if name in linked or isinstance(group[name], h5py.Dataset)  # `stored` refuses links
        }

    def by_slice(name: str) -> dict[int, Any]:
        return {int(index): entry for index, entry in file.get(name, {}).items() if int(index) in chosen}

    arrays = tensors(file, None if wanted is None else {IMAGE, *wanted})
    if arrays[IMAGE].ndim != 3 or arrays[IMAGE].dtype != torch.complex64 or len(set(announced)) != len(announced):
        found = f"{arrays[IMAGE].dtype} {tuple(arrays[IMAGE].shape)} of slices {announced}"
        raise InputError(file.filename, IMAGE, found, "complex64 (slices, y, x), each slice once")
    told = {name: json.loads(attrs[name]) for name in ("settings", "provenance")}
    for name, value in told.items():
        if not isinstance(value, dict):
            raise InputError(file.filename, name, type(value).__name__, "a mapping")
    scores = file.get(METRICS)
    return Result(
        image=arrays.pop(IMAGE),
        slices=tuple(announced[row] for row in rows),
        complete=bool(attrs["complete"]),
        **told,
        arrays=arrays,
        metrics=tensors(scores) if scores else {},
        region=str(scores.attrs["region"]) if scores else "",
        data_range=str(scores.attrs["data_range"]) if scores else "",
        solution=tensors(file[SOLUTION]) if SOLUTION in file else {},
        history={
            index: {name: torch.from_numpy(np.asarray(entry[()])) for name, entry in group.items()}
            for index, group in by_slice(HISTORY).items()
        },
        remarks={index: entry.asstr()[:].tolist() for index, entry in by_slice(REMARKS).items()},
        geometry={index: Geometry.from_json(entry.asstr()[()]) for index, entry in by_slice(GEOMETRY).items()},
        header={name: entry.asstr()[()] for name, entry in file.get(HEADER, {}).items()},
    )
