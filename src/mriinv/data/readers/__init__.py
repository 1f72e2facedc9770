"""Readers of k-space files, chosen by what a file holds; BART's pairs, which have no signature, by their suffix."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from mriinv.data.readers.base import FileScan, Scan
from mriinv.data.readers.cfl import CflScan, pair_of
from mriinv.data.readers.foreign import ForeignScan
from mriinv.data.readers.hdf5 import Hdf5Scan
from mriinv.data.readers.ismrmrd import IsmrmrdScan
from mriinv.data.readers.npz import NpzScan
from mriinv.discovery import last_line
from mriinv.errors import InputError
from mriinv.registry import registry

logger = logging.getLogger("mriinv")
READERS: list[type[Scan]] = [IsmrmrdScan, Hdf5Scan, NpzScan, CflScan]  # a specific test before a general one
HEAD_BYTES = 4096

__all__ = ["READERS", "CflScan", "Hdf5Scan", "IsmrmrdScan", "NpzScan", "Scan", "find_reader", "open_scan"]


def open_scan(path: str | Path) -> Scan:
    """Open a k-space file; use it as a context manager and read it slice by slice.

    Parameters
    ----------
    path : fastMRI multi-coil HDF5, ISMRMRD, npz with ``ksp``, a BART pair (either file, or the name without suffix),
        or what a reader of an installed plug-in is for, which is asked first as its test may be the more specific one

    Raises
    ------
    InputError : the file is missing, empty, damaged, of no known format, or lacks what a reconstruction needs
    """
    path = pair_of(Path(path))
    head = _head(path)
    if reader := _recognise(path, head):
        return reader(path) if issubclass(reader, FileScan) else ForeignScan(path, reader)
    known = ", ".join(getattr(reader, "format", str(reader)) for reader in (*registry().readers(), *READERS))
    raise InputError(path, "", f"none of the known formats (it starts with {head[:8]!r})", known)


def find_reader(path: Path) -> type[Scan] | None:
    """Return the reader that a file is for; None for anything else, and for the second file of a pair."""
    try:
        reader = _recognise(path, _head(path))
    except InputError:
        return None
    return None if reader is CflScan and path.suffix == ".hdr" else reader


def _recognise(path: Path, head: bytes) -> type[Scan] | None:
    for reader in registry().readers():
        try:
            if reader.recognises(path, head):
                return cast(type[Scan], reader)
        except Exception as error:  # whatever a plug-in does, the rest goes on working
            logger.warning("%s: reader %s cannot tell whether it is for it (%s)", path, reader, last_line(error))
    return next((reader for reader in READERS if reader.recognises(path, head)), None)


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular, readable, non-empty file."""
    expected = "a readable k-space file"
    if (printed := str(path).encode(errors="backslashreplace").decode()) != str(path):
        raise InputError(printed, "", "a name that is not UTF-8", "one that is, as results and messages hold it")
    try:
        if path.is_dir():
            raise InputError(path, "", "a directory", expected)
        if not path.exists():
            raise InputError(path, "", "no such file", expected)
        if not path.is_file():
            raise InputError(path, "", "no regular file", expected)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise InputError(path, "", f"unreadable ({error})", expected) from None
    if not head:
        raise InputError(path, "", "an empty file", expected)
    return head
