"""Writing a result slice by slice, so that whatever ends the work, finished slices need not be computed again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from mriinv.data.geometry import Geometry
from mriinv.data.results import (
    FINISHED,
    FORMAT,
    GEOMETRY,
    GROUPS,
    HEADER,
    HISTORY,
    IMAGE,
    METRICS,
    REMARKS,
    ROWS,
    SLICES,
    SOLUTION,
    VERSION,
    attributes,
    is_result,
    partial_path,
)
from mriinv.errors import InputError
from mriinv.files import atomic_path, exclusive, make_folder, unwritable
from mriinv.metrics import Metrics

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the magnitude of posterior samples
AXES = {"coil_maps": "coil ", "espirit_eigenvalues": "eigenvalue ", "quantiles": "quantile ", "samples": "chain draw "}
LOCK = "lock"  # file of a journal that the process at work holds
IDENTITY = "identity"  # file of a journal that says what its slices belong to
JOURNAL_FILE = re.compile(r"identity|assembled|[0-9]+\.h5|\.(identity|[0-9]+)\.[0-9a-f]+(\.h5)?")  # unfinished ones too


class ResultWriter:
    """Write reconstructed slices as they come; use as a context manager.

    Each slice goes whole into a file of its own in the folder ``.<stem>.<work>.slices`` beside `path`, the journal of
    this work, which other work into the same place leaves alone. When the work ends, by an exception (Ctrl-C included)
    too, the result is put together from them under a temporary name and renamed. A killed process leaves the journal;
    the next writer for the same slices, settings and provenance goes on from it, or, when the result is complete, has
    nothing `missing`. A complete older result is never replaced by an incomplete one, which then goes to
    ``<stem>.partial.h5``. What is replaced takes its figure, the PNG, and the exports
    beside it with it.

    The file holds, with one row per slice: ``image`` and, as given, ``coil_maps`` and other maps, ``mask``,
    ``reference``, ``samples``; of samples, ``std`` (of the complex value), ``mean_magnitude`` and ``magnitude_std``,
    ``quantiles`` (of the magnitude, at the attribute ``probabilities``), ``map``, what ``mm-cg`` makes of the same
    data, and with a calibration ``half_width_90``, half the 90 % interval around ``mean_magnitude``;
    ``metrics/<name>``, with the attributes ``region`` and ``data_range`` on the group; images have their axes as the
    attribute ``axes``; ``solution/<name>``: ``iterations``, ``converged``, ``acceleration``, ``scale`` (what the data
    were divided by), ``noise_std`` (NaN when unknown), ``seconds``, and of samples their number, ``chains``,
    ``acceptance`` and diagnostics. Further ``history/<slice>/<name>``; ``remarks/<slice>``, strings;
    ``geometry/<slice>``, JSON; ``header/<name>``, strings of the input; ``slices`` (of the input, one per row) and
    ``finished``. Attributes: ``format``, ``version``, ``complete``, ``identity``, and ``settings`` (resolved, defaults
    included) and ``provenance`` (with the ``source``) as JSON.

    Attributes
    ----------
    finished : slices that need no more work, those of an earlier run included
    written : where the result is, once closed; None when nothing was finished
    replaced : whether it took the place of a result of other work

    Parameters
    ----------
    path : the result; its folder is made when missing, and an existing result of another kind is replaced
    slices : the slices of the input that will be added, or their number
    settings, provenance : what was asked for, and with which input, versions, seed and weights; stored as JSON
    restart : forget what an earlier run finished

    Raises
    ------
    InputError : the folder or the file cannot be written, or another process is doing the same work
    """

    def __init__(
        self,
        path: str | Path,
        slices: int | Iterable[int],
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        restart: bool = False,
    ) -> None:
        self.path = Path(path)
        self.slices = list(range(slices)) if isinstance(slices, int) else list(slices)
        self.written: Path | None = None
        self.replaced = False
        self._texts = {
            name: json.dumps(value, default=str, sort_keys=True)
            for name, value in (("settings", settings), ("provenance", provenance))
        }
        self._identity = hashlib.sha256(json.dumps([VERSION, self.slices, self._texts]).encode()).hexdigest()
        self._journal = self.path.parent / f".{self.path.stem}.{self._identity[:8]}.slices"
        make_folder(self.path.parent)
        if self.path.is_dir():
            raise unwritable(self.path, IsADirectoryError("it is a directory"))
        self.finished: list[int] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        make_folder(self._journal)
        with contextlib.ExitStack() as held:
            held.enter_context(exclusive(self.path, self._journal / LOCK, "run of the same that writes it"))
            self._take_over(restart)
            self._held = held.pop_all()

    @property
    def missing(self) -> list[int]:
        """Slices that still have to be added."""
        finished = set(self.finished)
        return [index for index in self.slices if index not in finished]

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
        solution: Mapping[str, float] | None = None,
        remarks: Iterable[str] = (),
        geometry: Geometry | None = None,
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
        solution : numbers by name that say how the slice was acquired and solved
        remarks : what a reader of the result should know of this slice
        geometry : where the slice lies
        header : strings that the input brought; those of the first slice are kept

        Raises
        ------
        InputError : the disk refuses (it is full), or a shape that differs between slices
        ValueError : a slice that was not announced or is there already
        """
        if index not in self.missing:
            raise ValueError(f"slice {index} was not announced, or was added before")
        if image.ndim != 2:
            raise ValueError(f"image of shape {tuple(image.shape)}, expected (y, x)")
        fields = {"mask": mask, "reference": reference, "samples": samples}
        if reserved := {*fields, IMAGE, *ROWS, *GROUPS}.intersection(maps or ()):
            raise ValueError(f"maps may not be called {', '.join(sorted(reserved))}")
        given = {**fields, **(maps or {}), IMAGE: image.to(torch.complex64)}
        rows = {name: _array(value) for name, value in given.items() if value is not None}
        for group, numbers in ((METRICS, metrics.as_dict() if metrics else {}), (SOLUTION, solution or {})):
            rows |= {f"{group}/{name}": np.asarray(number, dtype=np.float64) for name, number in numbers.items()}
        self._check_shapes(index, rows)
        with self._writable(), atomic_path(self._slice(index)) as temporary, h5py.File(temporary, "w") as file:
            for name, value in rows.items():
                file[f"rows/{name}"] = value
            for name, values in (history or {}).items():
                file[f"{HISTORY}/{name}"] = _array(values)
            if remarks := list(remarks):
                file[REMARKS] = remarks
            if geometry is not None:
                file[GEOMETRY] = geometry.to_json()
            file.require_group(HEADER).update({k: v.replace("\0", "") for k, v in (header or {}).items()})
            if metrics:
                file[f"rows/{METRICS}"].attrs.update(region=metrics.region, data_range=metrics.data_range)
        self.finished.append(index)

    def close(self) -> None:
        """Put the result together and give it its name, `written`; leave nothing when no slice was finished."""
        try:
            if self.finished and self.written is None:
                self._publish()
            elif not self.finished:
                self._remove_journal()
        finally:
            self._held.close()

    def _publish(self) -> None:
        complete = not self.missing
        protected = self.path.exists() and attributes(self.path).get("complete", True)  # so may be what cannot be read
        path = self.path if complete or not protected else partial_path(self.path)
        replaced = attributes(path).get(IDENTITY) not in (None, self._identity)
        assembled = self._journal / "assembled"  # where a kill leaves nothing beside the results
        with self._writable():
            with h5py.File(assembled, "w") as file:
                self._assemble(file, complete)
            with atomic_path(path) as temporary:
                os.replace(assembled, temporary)
                if is_result(path):
                    path.with_suffix(".png").unlink(missing_ok=True)
            self.written, self.replaced = path, replaced
            if replaced:
                from mriinv.data.export import remove_exports  # slow to load

                remove_exports(path)
            if complete:
                self._remove_journal()
                partial = partial_path(self.path)
                if attributes(partial).get(IDENTITY) == self._identity:
                    partial.unlink()
                    partial.with_suffix(".png").unlink(missing_ok=True)

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _slice(self, index: int) -> Path:
        return self._journal / f"{index}.h5"

    def _take_over(self, restart: bool) -> None:
        """Take over a complete result, or the slices of a journal, of the same work; start a new journal without."""
        older = attributes(self.path)
        if not restart and older.get("complete") and older.get(IDENTITY) == self._identity:
            self.finished, self.written = list(self.slices), self.path
            self._remove_journal()  # a kill may have left it behind
            return
        mark = self._journal / IDENTITY
        if restart or not mark.is_file() or mark.read_text() != self._identity:
            for file in self._journal_files():
                file.unlink()
            with self._writable(), atomic_path(mark) as temporary:
                temporary.write_text(self._identity)
        for index in (index for index in self.slices if self._slice(index).exists()):
            with contextlib.suppress(OSError, KeyError), h5py.File(self._slice(index), "r") as file:
                self._check_shapes(index, _rows(file))
                self.finished.append(index)

    def _journal_files(self) -> list[Path]:
        """Return what the journal holds but its lock."""
        files = [file for file in self._journal.iterdir() if file.name != LOCK]
        if foreign := [file.name for file in files if not JOURNAL_FILE.fullmatch(file.name)]:
            raise InputError(self._journal, "", f"files of others ({foreign[0]})", "it out of the way")
        return files

    def _remove_journal(self) -> None:
        self._journal_files()
        with self._writable():
            shutil.rmtree(self._journal)

    def _check_shapes(self, index: int, rows: Mapping[str, Any]) -> None:
        """Require of every dataset the shape that it has in the slices before."""
        for name, value in rows.items():
            if self._shapes.setdefault(name, value.shape) != value.shape:
                expected = f"{self._shapes[name]}, as before, or a run of its own (--slices, --out)"
                raise InputError(self.path, name, f"shape {value.shape} in slice {index}", expected)

    def _assemble(self, file: h5py.File, complete: bool) -> None:
        """Copy the finished slices into one file; rows of the others stay blank: NaN, or zero where there is none."""
        finished = set(self.finished)
        file.attrs.update(format=FORMAT, version=VERSION, complete=complete)
        file.attrs.update({IDENTITY: self._identity, **self._texts})
        file.update({SLICES: self.slices, FINISHED: sorted(finished)})
        for place, index in ((place, index) for place, index in enumerate(self.slices) if index in finished):
            with h5py.File(self._slice(index), "r") as part:
                for name, row in _rows(part).items():
                    if name not in file:
                        blank = row.dtype.type(np.nan if row.dtype.kind in "fc" else 0)
                        shape = (len(self.slices), *row.shape)
                        chunks = tuple(1 if axis < row.ndim - 1 else size for axis, size in enumerate(shape))
                        made = file.create_dataset(name, shape, row.dtype, chunks=chunks, fillvalue=blank)
                        axes = f"slice {AXES.get(name, '')}y x"
                        if len(axes.split()) == len(shape):
                            made.attrs["axes"] = axes
                        if name == "quantiles":
                            made.attrs["probabilities"] = QUANTILES
                    file[name][place] = row[()]
                if METRICS in part["rows"]:
                    file[METRICS].attrs.update(part["rows"][METRICS].attrs)
                for name in (HISTORY, REMARKS, GEOMETRY):
                    if name in part:
                        part.copy(name, file.require_group(name), str(index))
                if HEADER not in file:
                    part.copy(HEADER, file)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn the refusal of the file system into an `InputError`."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise unwritable(self.path, error) from None


def _rows(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets of a slice by the name that they have in the result."""
    found: dict[str, h5py.Dataset] = {}

    def collect(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = entry

    file["rows"].visititems(collect)
    return found


def _array(value: Tensor) -> np.ndarray:
    return value.detach().resolve_conj().cpu().numpy()
