"""Which scans an input stands for: a file, a folder or a pattern."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mriinv.data.readers import find_reader, open_scan
from mriinv.data.readers.cfl import pair_of
from mriinv.data.results import is_export, is_result
from mriinv.errors import InputError, NoScanError

SUFFIXES = (".h5", ".hdf5", ".npz", ".cfl")  # of scans, told by what they hold otherwise
logger = logging.getLogger("mriinv")


def find_scans(inputs: Iterable[Path]) -> tuple[list[Path], dict[Path, InputError]]:
    """Return the scans that files, folders and patterns stand for, each once, and what was left out of the latter.

    Files of other kinds, results and their exports are passed over in folders and patterns, files of arrays without
    k-space with a warning. What is called like a scan and cannot be read there, such as an empty file, is left out. A
    file that is named by itself is a scan, whatever it holds.

    Raises
    ------
    InputError : a folder or pattern without k-space
    """
    left_out: dict[Path, InputError] = {}
    scans = {file.resolve(): file for path in inputs for file in _files(path, left_out)}
    return list(scans.values()), {file: error for file, error in left_out.items() if file.resolve() not in scans}


def readable_scans(inputs: Iterable[Path]) -> list[Path]:
    """Return the scans of `find_scans`, of which none may be left out (`InputError`)."""
    scans, left_out = find_scans(inputs)
    for error in left_out.values():
        raise error
    return scans


def distinct_names(scans: Sequence[Path]) -> list[Path]:
    """Return what to call scans: by file name, or, where two differ in folder or suffix alone, by path in their folder.

    That is the folder that holds them all; a link counts by its own name.
    """
    paths = [Path(os.path.abspath(scan)) for scan in scans]
    if len({path.stem for path in paths}) == len(paths):
        return [Path(path.name) for path in paths]
    root = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(root) for path in paths]


def _files(path: Path, left_out: dict[Path, InputError]) -> Iterator[Path]:
    if path.is_dir():
        found, what = sorted(path.iterdir()), "a folder"
    elif glob.has_magic(str(path)) and not path.exists():
        found, what = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))], "a pattern"
    else:
        yield pair_of(path)
        return
    scans = [file for file in found if _is_scan(file, left_out)]
    folders = [file for file in found if what == "a pattern" and file.is_dir()]
    if not scans and not folders and left_out.keys().isdisjoint(found):
        raise InputError(path, "", f"{what} with {len(found)} entries, none a k-space file", "k-space files")
    yield from scans
    for folder in folders:
        yield from _files(folder, left_out)


def _is_scan(file: Path, left_out: dict[Path, InputError]) -> bool:
    """Say whether a file among others is k-space that can be read."""
    if file.name.startswith(".") or not (file.is_file() or file.is_symlink()) or file.is_dir():
        return False
    if is_result(file) or is_export(file):
        return False
    if find_reader(file) is None and file.suffix not in SUFFIXES:
        return False
    if pair_of(file) != file:
        return False
    try:
        open_scan(file).close()
    except InputError as error:
        logger.warning("left out: %s", error)
        if not isinstance(error, NoScanError) and file.resolve() not in map(Path.resolve, left_out):
            left_out[file] = error
        return False
    return True
