"""The trainings of a benchmark: the same time for each, resumed where they were, ready for ``mriinv train``."""

from __future__ import annotations

import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mriinv.compose import make_trainer
from mriinv.config import TrainConfig, Validation, build_train_config
from mriinv.errors import SettingsError
from mriinv.files import write_text
from mriinv.weights import read_metadata

BUDGET = "# minutes: "  # first line of a configuration whose updates were found by timing
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
        """The result of a finished training: the best by validation, else the last; None before.

        Raises
        ------
        SettingsError : the folder holds another training
        """
        stored = self.stored()
        if not (self.folder / WEIGHTS).is_file() or (stored and self.updates_done < _steps(stored)):
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
        return read_metadata(path)["card"] if path.is_file() else {}

    def stored(self) -> TrainConfig | None:
        """Return the configuration in the folder; None where there is none, as with weights that came from elsewhere.

        Raises
        ------
        SettingsError : it is another training than that of the plan
        """
        path = self.folder / CONFIG
        if not path.is_file():
            return None
        stored = build_train_config(path, {"out": self.folder, "device": self.config.device}, ())
        wanted = self.config if self.minutes is None else with_steps(self.config, _steps(stored), self.warm_start)
        parts = [part for part in TrainConfig.model_fields if part != "validation"]
        other = [part for part in parts if getattr(stored, part) != getattr(wanted, part)]
        if other:
            found = f"another training than that of the plan ({', '.join(other)})"
            raise SettingsError(f"{path}: {found}; use another --out, or remove the folder")
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if self.minutes is not None and first.startswith(BUDGET) and first != f"{BUDGET}{self.minutes:g}":
            found = f"a training of {first.removeprefix(BUDGET)} minutes, and {self.minutes:g} are asked for"
            raise SettingsError(f"{path}: {found}; use another --out, or remove the folder")
        return stored


def train(training: Training) -> None:
    """Train until the schedule ends, going on from whatever is there.

    The number of updates is found first, by timing a few, and stored, so that a resumed training keeps it. The budget
    counts from the first update; a machine that gets slower later takes longer, and the card tells how long.

    Raises
    ------
    SettingsError : the folder holds another training
    """
    from mriinv.training.session import run_training  # slow to import, and evaluations do without

    path = training.folder / CONFIG
    config = training.stored()
    if config is None:
        config = settled(training)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(path, text if training.minutes is None else f"{BUDGET}{training.minutes:g}\n{text}")
    command = shlex.join(["mriinv", "train", "--config", str(path)])
    run_training(config, command=command)


def settled(training: Training) -> TrainConfig:
    """Return the configuration with its number of updates, found by timing where the plan states none."""
    config, share = training.config, training.warm_start
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
    """Time the first updates of a training that is thrown away; it has one more, which a warm start must leave."""
    from mriinv.training.session import run_training

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        probe = _set(config, {"steps": PROBE + 1, **settings})
        probe = probe.model_copy(update={"out": Path(folder), "validation": Validation()})
        run_training(probe, monitor=lambda *_: times.append(time.monotonic()))
    return (times[PROBE - 1] - times[SETTLED - 1]) / (PROBE - SETTLED)


def _steps(config: TrainConfig) -> int:
    return make_trainer(config.trainer.name, **config.trainer.settings).steps


def _set(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    trainer = config.trainer.model_copy(update={"settings": {**config.trainer.settings, **settings}})
    return config.model_copy(update={"trainer": trainer})
