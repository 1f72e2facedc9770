"""What every reader offers: a scan of slices, read from disk one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from mriinv.data.acquisition import Acquisition


class Scan(ABC):
    """An open k-space file: ``len(scan)`` slices of equal size, each an `Acquisition` of batch 1.

    The constructor checks everything that does not need the k-space values and raises `InputError`.
    """

    format: ClassVar[str]
    path: Path

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """Say whether the file is of this reader's format; `head` holds its first bytes."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of slices."""

    @abstractmethod
    def read(self, index: int) -> Acquisition:
        """Read slice `index`, and only that, from disk (`InputError` when it is damaged or not finite)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what is known without reading k-space: format, slices, coils, matrix, mask, fields."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Scan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
