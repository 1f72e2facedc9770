"""Scans of plug-ins that are no `FileScan`, checked: what they do wrong is an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mriinv.data.acquisition import Acquisition
from mriinv.data.readers.base import Scan
from mriinv.errors import InputError, MriinvError, require, require_kind
from mriinv.files import reason

DESCRIBED = ("slices", "coils", "matrix")  # what a run needs to know before it reads k-space


class ForeignScan(Scan):
    """A scan of another reader, whose slices, number and description are compared with what `Scan` asks for."""

    def __init__(self, path: Path, reader: type[Scan]) -> None:
        self.path, self._reader = path, reader
        with self._named():
            self._scan = reader(path)
            require(path, ("slices", len(self._scan), len(self._scan) > 0, "at least one"))

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return False  # it is the other reader that files are for

    def __len__(self) -> int:
        return len(self._scan)

    def read(self, index: int) -> Acquisition:
        with self._named():
            found = self._scan.read(index)
        require_kind(self.path, f"slice {index}", found, Acquisition, "an Acquisition")
        count = len(found.kspace)
        require(self.path, (f"slice {index}", f"{count} slices", count == 1, "one, as a batch of one"))
        return found

    def describe(self) -> dict[str, Any]:
        with self._named():
            found = dict(self._scan.describe())
        missing = [key for key in DESCRIBED if key not in found]
        require(self.path, ("description", f"no {', '.join(missing)}", not missing, ", ".join(DESCRIBED)))
        return found

    def close(self) -> None:
        self._scan.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn whatever the reader raises into an `InputError`."""
        try:
            yield
        except MriinvError:
            raise
        except Exception as error:
            name = f"{self._reader.__module__}.{self._reader.__qualname__}"
            raise InputError(self.path, "", f"that its reader {name} failed ({reason(error)})", "a scan") from error
