"""A file format: the word TOY, three sizes as text, a line end, then complex64 k-space (coil, y, x)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mriinv import Acquisition, InputError, Scan

MAGIC = b"TOY "


class ToyScan(Scan):
    """One fully sampled slice."""

    format = "toy file"

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            words = file.readline(100).split()
            self._start = file.tell()
        if len(words) != 4:
            raise InputError(path, "first line", f"{len(words)} words", "TOY and three sizes")
        self._shape = tuple(int(word) for word in words[1:])

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Acquisition:
        values = np.fromfile(self.path, dtype=np.complex64, offset=self._start).reshape(self._shape)
        return Acquisition(
            kspace=torch.from_numpy(values)[None],
            mask=torch.ones(1, *self._shape[1:], dtype=torch.bool),
            source=self.path.name,
            index=index,
        )

    def describe(self) -> dict[str, Any]:
        coils, y, x = self._shape
        return {"format": self.format, "slices": 1, "coils": coils, "matrix": (y, x)}

    def close(self) -> None:
        pass
