"""The inputs of a run: for each its slices, what is known of it before any k-space is read, and its result file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mriinv.compose import resolve_device
from mriinv.config import RunConfig
from mriinv.core.types import Mask
from mriinv.data.acquisition import Acquisition
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import Scan, open_scan
from mriinv.data.readers.cfl import pair_of
from mriinv.data.results import is_result, partial_path
from mriinv.data.simulate import SimulatedSlices
from mriinv.errors import InputError, SettingsError
from mriinv.inputs import distinct_names, find_scans
from mriinv.registry import registry

LONGEST_NAME = 200  # bytes of a file name: file systems take 255, and others are longer by a suffix


@dataclass(frozen=True)
class Job:
    """One input: its slices, and what is known before any k-space is read."""

    path: Path | None  # None: simulated slices
    seed: int  # of these
    slices: list[int]
    found: dict[str, Any]  # slices, coils, matrix and whatever else the reader knows
    files: dict[str, list[int]]  # size and time of the last change of all files that the result depends on

    @property
    def source(self) -> str:
        """What the input is called."""
        return str(self.path or f"simulated scan (seed {self.seed})")

    @property
    def middle(self) -> int:
        """The middle one of the slices."""
        return self.slices[len(self.slices) // 2]

    def open(self) -> Scan:
        """Open the input."""
        return _open(self.path, self.seed, self.found["slices"])


def find_jobs(config: RunConfig, simulated: int = 1, scans: Sequence[Path] | None = None) -> list[Job]:
    """Open every input and choose slices, so that what does not fit is refused before any work.

    Parameters
    ----------
    simulated : number of slices without an input
    scans : that the input stands for, where that is known
    """
    if scans is None:
        scans, left_out = find_scans(config.input)
        if left_out and not scans:
            raise next(iter(left_out.values()))
    if (maps := config.preparation.maps) is not None and not pair_of(maps).exists():
        raise InputError(maps, "", "no such file", "coil maps")
    inputs: Sequence[Path | None] = scans if config.input else [None]
    jobs = []
    for path in inputs:
        with _open(path, config.seed, simulated) as scan:
            found = scan.describe()
        if config.mask is not None:
            mask = _possible_mask(config.mask, config.preparation.cropped(found["matrix"]), found["matrix"])
            found["achieved_acceleration"] = round(mask.numel() / int(mask.sum()), 3)
        place = None if path is None else Path(found.get("path", path))  # a reader may find its file beside the name
        slices = _chosen_slices(config, path, found["slices"])
        jobs.append(Job(path, config.seed, slices, found, _states(config, place)))
    return jobs


def _possible_mask(choice: MaskChoice, cropped: Sequence[int], matrix: Sequence[int]) -> Mask:
    """Return the mask for the first grid that it fits; k-space is not cropped along axes that are padded with zeros."""
    refused = list[InputError]()
    for y, x in dict.fromkeys(itertools.product(*zip(cropped, matrix, strict=True))):
        try:
            return choice.mask((y, x))
        except InputError as error:
            refused.append(error)
    raise refused[0]


def full_slices(
    config: RunConfig, jobs: Iterable[Job], choose: Callable[[Job], Iterable[int]]
) -> Iterator[Acquisition]:
    """Read, and prepare on the device of `config`, slices of its scans, to be undersampled in retrospect.

    Parameters
    ----------
    jobs : the scans
    choose : which slices of a scan
    """
    device = resolve_device(config.device)
    for job in jobs:
        with job.open() as scan:
            for index in choose(job):
                yield prepare_acquisition(scan.read(index).to(device), config.preparation)


def _open(path: Path | None, seed: int, simulated: int) -> Scan:
    return SimulatedSlices(seed, simulated) if path is None else open_scan(path)


def _states(config: RunConfig, path: Path | None) -> dict[str, list[int]]:
    """Return `file_states` of the input and of the files that a configuration names."""
    settings = [registry().settings(kind, part) for kind, part in config.parts.items()]
    named = [value for one in settings for _, value in one if isinstance(value, Path)]
    return file_states(path, config.preparation.maps, None if config.mask is None else config.mask.file, *named)


def file_states(*paths: Path | None) -> dict[str, list[int]]:
    """Return size in bytes and time of the last change in ns of files, both of a BART pair."""
    files = [pair_of(path) for path in paths if path is not None]
    headers = [file.with_suffix(".hdr") for file in files if file.suffix == ".cfl"]
    stats = {str(file): file.stat() for file in (*files, *headers) if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def result_files(folder: Path, jobs: Sequence[Job]) -> list[Path]:
    """Return the result file of each job in a folder.

    Inputs of the same name in several folders have their results in folders of the same names.

    Raises
    ------
    InputError : one would overwrite an input, another result, or a file that is none
    """
    results = list[Path]()
    scans = [job.path for job in jobs if job.path is not None]
    names: dict[Path | None, Path] = dict(zip(scans, distinct_names(scans), strict=True))
    taken: dict[Path, str] = {path.resolve(): "" for path in scans}
    for path in (job.path for job in jobs):
        out = folder / names.get(path, SimulatedSlices.path).with_suffix(".h5")
        if (length := len(os.fsencode(out.name))) > LONGEST_NAME:
            expected = f"at most {LONGEST_NAME}, as the files of the result are named after it; a link can be shorter"
            raise InputError(path, "", f"a file name of {length} bytes", expected)
        if out.resolve() in taken:
            other = taken[out.resolve()]
            where = f"the place of the result of {other}" if other else "the place of an input"
            raise InputError(out, "", f"the result of {path} in {where}", "another --out, or other file names")
        for result in (out, partial_path(out)):
            figure = result.with_suffix(".png")
            other_file = result if result.is_file() else figure
            if other_file.is_file() and not is_result(result):
                expected = "another --out, or the file out of the way"
                raise InputError(other_file, "", "a file that is no result of mriinv", expected)
        taken |= {out.resolve(): str(path), partial_path(out).resolve(): str(path)}
        results.append(out)
    return results


def _chosen_slices(config: RunConfig, path: Path | None, count: int) -> list[int]:
    if config.slices is None:
        return list(range(count))
    first, _, after = config.slices.partition(":")
    chosen = range(int(first), int(after) if after else int(first) + 1)
    if not chosen or chosen[-1] >= count:
        raise SettingsError(
            f"slices: found {config.slices}; {path or SimulatedSlices.path} has slices 0 to {count - 1}"
        )
    return list(chosen)
