"""What a training writes down about itself while it runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from lightning_fabric.loggers import TensorBoardLogger

from mriinv.errors import SettingsError
from mriinv.files import write_csv
from mriinv.training.checkpoint import Progress


class Log:
    """Rows of a CSV file, each the mean since the last; rows after a checkpoint go with what is redone.

    Parameters
    ----------
    path : the CSV file; rows up to `step` are kept
    every : updates between two rows
    tensorboard : folder to which the rows go as well, in the format of TensorBoard
    """

    def __init__(self, path: Path, step: int, every: int, tensorboard: Path | None = None) -> None:
        self.rows: list[dict[str, str]] = []
        self._path, self._every = path, every
        self._sums: dict[str, list[float]] = {}
        self._tensorboard: TensorBoardLogger | None = None
        if path.exists():
            with open(path, newline="") as stream:
                self.rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]
        if tensorboard is not None:
            folder, name = tensorboard.parent, tensorboard.name
            self._tensorboard = TensorBoardLogger(folder, name, version="", purge_step=step + 1)

    def add(self, progress: Progress, values: Mapping[str, float], *, force: bool) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        if not force and progress.step % self._every:
            return
        means = {name: sum(found) / len(found) for name, found in self._sums.items()}
        row = {"step": str(progress.step), "seconds": f"{progress.seconds:.1f}"}
        self.rows.append(row | {name: f"{mean:.6g}" for name, mean in means.items()})
        if self._tensorboard is not None:
            self._tensorboard.log_metrics(means, progress.step)
        self._sums.clear()

    def write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        write_csv(self._path, [names, *([row.get(name, "") for name in names] for row in self.rows)])
        if self._tensorboard is not None:
            self._tensorboard.save()

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.finalize("success")


def require_tensorboard() -> None:
    """Raise `SettingsError` where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise SettingsError("--tensorboard: TensorBoard is not installed; pip install 'mriinv[tensorboard]'")
