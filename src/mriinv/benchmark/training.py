"""The trainings of a benchmark: the same time for each, resumed where they were, ready for ``mriinv train``."""

from __future__ import annotations

import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mriinv.config import TrainConfig, Validation, build_train_config
from mriinv.errors import SettingsError
from mriinv.files import atomic_path
from mriinv.registry import registry
from mriinv.training.session import run_training
from mriinv.weights import read_metadata

SLICE = 600.0  # seconds between two checkpoints that are certain; others come every few updates
PROBE, SETTLED = 24, 8  # updates that are timed, and how many of them first build caches
CONFIG, WEIGHTS, BEST = "training.yaml", "weights.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Training:
    """One training: its configuration and its time.

    Attributes
    ----------
    name : of the folder
    config : as ``mriinv train`` takes it; with `minutes`, its number of updates is still to be found
    minutes : budget in minutes; None when the plan states the updates
    warm_start : share of the updates; None leaves it to the trainer
    """

    name: str
    config: TrainConfig
    minutes: float | None
    warm_start: float | None

    @property
    def folder(self) -> Path:
        return self.config.out

    @property
    def weights(self) -> Path | None:
        """The result of a finished training: the best by validation, else the last; None before."""
        if not (self.folder / WEIGHTS).is_file() or self.updates_done < self._updates_wanted():
            return None
        best = self.folder / BEST
        return best if best.is_file() else self.folder / WEIGHTS

    @property
    def updates_done(self) -> int:
        return int(self._card().get("updates", 0))

    @property
    def minutes_spent(self) -> float:
        return 60 * float(self._card().get("hours", 0))

    def _card(self) -> dict[str, Any]:
        path = self.folder / WEIGHTS
        card: dict[str, Any] = read_metadata(path)["card"] if path.is_file() else {}
        return card

    def _updates_wanted(self) -> int:
        """Return the updates of the stored configuration; none are missing from weights that came from elsewhere."""
        path = self.folder / CONFIG
        return _steps(build_train_config(path, {"out": self.folder}, ())) if path.is_file() else 0


def train(training: Training) -> None:
    """Train until the schedule ends, going on from whatever is there.

    The number of updates is found first, by timing a few, and stored, so that a resumed training keeps it. The budget
    counts from the first update; a machine that gets slower later takes longer, and the card tells how long.

    Raises
    ------
    SettingsError : the folder holds another training
    """
    path = training.folder / CONFIG
    config = _settled(training, path)
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    command = shlex.join(["mriinv", "train", "--config", str(path)])
    while run_training(config, max_time=SLICE, command=command).step < _steps(config):
        pass


def _settled(training: Training, path: Path) -> TrainConfig:
    """Return the configuration with its number of updates: the stored one, or a new one after timing."""
    config, share = training.config, training.warm_start
    if path.is_file():
        stored = build_train_config(path, {"out": training.folder, "device": config.device}, ())
        wanted = config if training.minutes is None else with_steps(config, _steps(stored), share)
        if stored.model_dump(exclude={"validation"}) != wanted.model_dump(exclude={"validation"}):
            raise SettingsError(f"{path}: another training than that of the plan; use another --out, or remove it")
        return stored
    if training.minutes is None:
        return config
    if share is None:
        seconds = _seconds_per_update(config)
    else:
        first, then = (_seconds_per_update(config, warm_start=warm) for warm in (PROBE, 0))
        seconds = share * first + (1 - share) * then
    return with_steps(config, max(1, int(60 * training.minutes / seconds)), share)


def with_steps(config: TrainConfig, steps: int, warm_start: float | None) -> TrainConfig:
    """Return the configuration with so many updates, of which the warm start takes a share."""
    warm = {} if warm_start is None else {"warm_start": int(warm_start * steps)}
    return _set(config, {"steps": steps, **warm})


def _seconds_per_update(config: TrainConfig, **settings: Any) -> float:
    """Time a few updates of a training that is thrown away."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        probe = _set(config, {"steps": PROBE, **settings})
        probe = probe.model_copy(update={"out": Path(folder), "validation": Validation()})
        run_training(probe, monitor=lambda *_: times.append(time.monotonic()))
    return (times[-1] - times[SETTLED - 1]) / (PROBE - SETTLED)


def _steps(config: TrainConfig) -> int:
    trainer = registry().load("trainer", config.trainer.name)
    return int(trainer(**config.trainer.settings).steps)


def _set(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    trainer = config.trainer.model_copy(update={"settings": {**config.trainer.settings, **settings}})
    return config.model_copy(update={"trainer": trainer})
