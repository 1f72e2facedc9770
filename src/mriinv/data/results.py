"""The result file: one HDF5 per input, written slice by slice, complete or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from mriinv.errors import InputError
from mriinv.files import make_folder, reason, unwritable
from mriinv.metrics import Metrics

FORMAT = "mriinv result"
VERSION = 1
IMAGE, METRICS, SOLUTION, HISTORY, REMARKS, HEADER = "image", "metrics", "solution", "history", "remarks", "header"


class ResultWriter:
    """Write reconstructed slices as they come; use as a context manager.

    The file grows under a temporary name beside `path` and is renamed at the end, so that whatever stands at `path`
    is whole. When an exception (Ctrl-C included) ends the work, the slices finished by then are kept and marked
    ``complete = False``; when there are none, no file is left. A complete older result is never replaced by an
    incomplete one, which then goes to ``<stem>.partial.h5``. What is replaced takes its figure, the PNG, with it.

    The file holds, with one row per slice: ``image`` and, as given, ``coil_maps`` and other maps, ``mask``,
    ``reference``, ``samples``, ``std``; ``metrics/<name>``, with the attributes ``region`` and ``data_range`` on the
    group; ``solution/<name>``: ``iterations``, ``converged``, ``acceleration``, ``scale`` (what the data were divided
    by), ``noise_std`` (NaN when unknown). Further ``history/<slice>/<name>``; ``remarks/<slice>``, strings;
    ``header/<name>``, strings of the input. Attributes: ``format``, ``version``, ``slices`` (of the input, one per
    row), ``finished``, ``complete``, and ``settings`` (resolved, defaults included) and ``provenance`` (with the
    ``source``) as JSON.

    Attributes
    ----------
    written : where the result is, once closed; None when nothing was finished

    Parameters
    ----------
    path : the result; its folder is made when missing, and an existing result is replaced
    slices : the slices of the input that will be added, or their number
    settings, provenance : what was asked for, and with which versions, seed and weights; stored as JSON

    Raises
    ------
    InputError : the folder or the file cannot be written
    """

    def __init__(
        self,
        path: str | Path,
        slices: int | Iterable[int],
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.slices = list(range(slices)) if isinstance(slices, int) else list(slices)
        self.finished: list[int] = []
        self.written: Path | None = None
        self._temporary = self.path.parent / f".mriinv-{secrets.token_hex(6)}.part"
        make_folder(self.path.parent)
        with self._writable():
            if self.path.is_dir():
                raise IsADirectoryError("it is a directory")
            self._file = h5py.File(self._temporary, "x")
        with self._discarded_on_error(), self._writable():
            self._file.attrs.update(format=FORMAT, version=VERSION, slices=self.slices)
            for name, value in (("settings", settings), ("provenance", provenance)):
                self._file.attrs[name] = json.dumps(value, default=str, sort_keys=True)

    def add(
        self,
        index: int,
        image: Tensor,
        *,
        mask: Tensor,
        maps: Mapping[str, Tensor] | None = None,
        history: Mapping[str, Tensor] | None = None,
        reference: Tensor | None = None,
        metrics: Metrics | None = None,
        samples: Tensor | None = None,
        std: Tensor | None = None,
        solution: Mapping[str, float] | None = None,
        remarks: Iterable[str] = (),
        header: Mapping[str, str] | None = None,
    ) -> None:
        """Write one finished slice.

        Parameters
        ----------
        index : slice of the input, one of those announced, once
        image, reference : complex ``(y, x)`` in the units of the input
        mask : bool ``(y|1, x)``
        maps : tensors without batch axis by name, such as ``coil_maps`` ``(coil, y, x)``
        history : values over the iterations, by name
        samples : complex ``(chain, draw, y, x)``
        std : real ``(y, x)``, pixelwise standard deviation over the samples
        solution : numbers by name that say how the slice was acquired and solved
        remarks : what a reader of the result should know of this slice
        header : strings that the input brought; those of the first slice are kept

        Raises
        ------
        InputError : the disk refuses (it is full)
        ValueError : a slice that was not announced or is there already, or a shape that differs between slices
        """
        if index not in self.slices or index in self.finished:
            raise ValueError(f"slice {index} was not announced, or was added before")
        if image.ndim != 2:
            raise ValueError(f"image of shape {tuple(image.shape)}, expected (y, x)")
        fields = {"mask": mask, "reference": reference, "samples": samples, "std": std}
        if reserved := {*fields, IMAGE, METRICS, SOLUTION, HISTORY, REMARKS, HEADER}.intersection(maps or ()):
            raise ValueError(f"maps may not be called {', '.join(sorted(reserved))}")
        with self._writable():
            for name, value in {**fields, **(maps or {})}.items():
                if value is not None:
                    self._put(name, index, _array(value))
            for group, numbers in ((METRICS, metrics.as_dict() if metrics else {}), (SOLUTION, solution or {})):
                for name, number in numbers.items():
                    self._put(f"{group}/{name}", index, np.asarray(number, dtype=np.float64))
            if metrics:
                self._file[METRICS].attrs.update(region=metrics.region, data_range=metrics.data_range)
            for name, value in (history or {}).items():
                self._file[f"{HISTORY}/{index}/{name}"] = _array(value)
            if remarks := list(remarks):
                self._file[f"{REMARKS}/{index}"] = remarks
            if not self.finished:
                self._file.require_group(HEADER).update({k: v.replace("\0", "") for k, v in (header or {}).items()})
            self._put(IMAGE, index, _array(image.to(torch.complex64)))
            self._file.flush()
        self.finished.append(index)

    def _put(self, name: str, index: int, value: np.ndarray) -> None:
        """Write one row of `name`, whose dataset is made for all slices by the first."""
        if name not in self._file:
            rows, blank = len(self.slices), value.dtype.type(np.nan if value.dtype.kind in "fc" else 0)
            shape = (rows, *value.shape)
            chunks = tuple(1 if axis < value.ndim - 1 else size for axis, size in enumerate(shape))
            self._file.create_dataset(name, shape, value.dtype, chunks=chunks, fillvalue=blank)
        dataset = self._file[name]
        if dataset.shape[1:] != value.shape:
            raise ValueError(f"{name} of slice {index} has shape {value.shape}, before {dataset.shape[1:]}")
        dataset[self.slices.index(index)] = value

    def close(self) -> None:
        """Finish the file and give it its name, `written`; leave nothing when no slice was finished."""
        if not self._file:
            return
        if not self.finished:
            self._discard()
            return
        with self._discarded_on_error(), self._writable():
            complete = len(self.finished) == len(self.slices)
            self._file.attrs.update(finished=sorted(self.finished), complete=complete)
            self._file.close()
            _sync(self._temporary)
            path = self.path if complete or not _is_complete(self.path) else partial_path(self.path)
            if is_result(path):
                path.with_suffix(".png").unlink(missing_ok=True)
            os.replace(self._temporary, path)
            _sync(path.parent)
            self.written = path

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _discard(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # a full disk refuses the closing write as well
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard()
            raise

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn the refusal of the file system into an `InputError`."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise unwritable(self.path, error) from None


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
    history, remarks : by slice of the input
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
    header: dict[str, str] = field(default_factory=dict)


def partial_path(path: Path) -> Path:
    """Return where an incomplete result goes when a complete one stands at `path`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def is_result(path: Path) -> bool:
    """Say whether `path` is a result file, complete or not."""
    try:
        with h5py.File(path) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


def _is_complete(path: Path) -> bool:
    if not is_result(path):
        return False
    with h5py.File(path) as file:
        return bool(file.attrs.get("complete", False))


def read_result(path: str | Path) -> Result:
    """Load a result file (`InputError` when it is missing, damaged or something else)."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
                raise InputError(path, "format", repr(file.attrs.get("format")), f"{FORMAT}, version {VERSION}")
            return _read(file)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(path, "", f"no readable file ({reason(error)})", f"a {FORMAT}") from None


def _read(file: h5py.File) -> Result:
    announced, finished = (file.attrs[name].tolist() for name in ("slices", "finished"))
    slices = tuple(index for index in announced if index in finished)
    rows = sorted(announced.index(index) for index in slices)

    def tensors(group: h5py.Group) -> dict[str, Tensor]:
        return {name: torch.from_numpy(entry[rows]) for name, entry in group.items() if isinstance(entry, h5py.Dataset)}

    arrays = tensors(file)
    history = {
        int(index): {name: torch.from_numpy(np.asarray(entry[()])) for name, entry in group.items()}
        for index, group in file.get(HISTORY, {}).items()
    }
    remarks = {int(index): entry.asstr()[:].tolist() for index, entry in file.get(REMARKS, {}).items()}
    scores = file.get(METRICS)
    return Result(
        image=arrays.pop(IMAGE),
        slices=slices,
        complete=bool(file.attrs["complete"]),
        settings=json.loads(file.attrs["settings"]),
        provenance=json.loads(file.attrs["provenance"]),
        arrays=arrays,
        metrics=tensors(scores) if scores else {},
        region=str(scores.attrs["region"]) if scores else "",
        data_range=str(scores.attrs["data_range"]) if scores else "",
        solution=tensors(file[SOLUTION]) if SOLUTION in file else {},
        history={index: values for index, values in history.items() if index in slices},
        remarks={index: values for index, values in remarks.items() if index in slices},
        header={name: entry.asstr()[()] for name, entry in file.get(HEADER, {}).items()},
    )


def _array(value: Tensor) -> np.ndarray:
    return value.detach().resolve_conj().cpu().numpy()


def _sync(path: Path) -> None:
    """Wait until a file, or the entry of a renamed one in its folder, is on disk."""
    with contextlib.suppress(PermissionError):  # some systems do not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
