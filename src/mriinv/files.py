"""Files: written so that nothing half-written is ever left under its final name, and told apart by checksums."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mriinv.errors import InputError, UnwritableError

logger = logging.getLogger("mriinv")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; rename it to `path` at the end, remove it on an error.

    The folder is made when missing. The temporary name keeps the suffix, which some writers go by.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem[:32]}.{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        _publish(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        stream.write(text)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the first with the names of the columns, as CSV, whole or not at all."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    write_text(path, stream.getvalue())


def _publish(path: Path) -> None:
    """Give a file the permissions of any new one: some writers let nobody but the owner read."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _sync(path: Path) -> None:
    """Wait until a file, or the entry of a renamed one in its folder, is on disk."""
    with suppress(PermissionError):  # some systems do not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, or say why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(folder, PermissionError("no permission"))


@contextmanager
def exclusive(path: Path, lock: Path, work: str) -> Iterator[None]:
    """Hold `lock`, a file that is made when missing, so that no other process does the same `work` on `path`.

    Raises
    ------
    InputError : another one does
    """
    from filelock import FileLock, Timeout  # slow to load, and what only lists and checks does without

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(path, "", f"another {work}", "its end, or another --out") from None
    except NotImplementedError:
        logger.warning("%s: its file system has no locks, which would keep another %s away", path, work)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield
    finally:
        held.release()


def unwritable(path: Path, error: Exception) -> UnwritableError:
    """Return the error that tells the user why `path` cannot be written."""
    return UnwritableError(path, "", f"that it cannot be written ({reason(error)})", "a writable place")


def reason(error: Exception) -> str:
    """Return the first line of what an exception says, without the file name that Python puts into it."""
    said = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
    return said.splitlines()[0]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
