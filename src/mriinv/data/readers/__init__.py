"""Readers of k-space files, chosen by what a file holds, not by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mriinv.data.readers.base import Scan
from mriinv.data.readers.hdf5 import Hdf5Scan
from mriinv.data.readers.npz import NpzScan
from mriinv.errors import InputError

READERS: list[type[Scan]] = [Hdf5Scan, NpzScan]
HEAD_BYTES = 4096

__all__ = ["READERS", "Hdf5Scan", "NpzScan", "Scan", "open_scan"]


def open_scan(path: str | Path, extra: Sequence[type[Scan]] = ()) -> Scan:
    """Open a k-space file; use it as a context manager and read it slice by slice.

    Parameters
    ----------
    path : fastMRI multi-coil HDF5, npz with ``ksp``, or what one of `extra` reads
    extra : further readers, asked before `READERS` because their test may be the more specific one

    Raises
    ------
    InputError : the file is missing, empty, damaged, of no known format, or lacks what a reconstruction needs
    """
    path = Path(path)
    head = _head(path)
    readers = (*extra, *READERS)
    for reader in readers:
        if reader.recognises(path, head):
            return reader(path)
    known = ", ".join(reader.format for reader in readers)
    raise InputError(path, "", f"none of the known formats (it starts with {head[:8]!r})", known)


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular, readable, non-empty file."""
    expected = "a readable k-space file"
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
