"""Checkpoints without pickle: one safetensors file with everything that a training needs to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mriinv.core.prior import Prior
from mriinv.core.trainer import ProblemSource, Trainer
from mriinv.errors import SettingsError, WeightsError
from mriinv.weights import own_tensors, write_tensors

FORMAT = "mriinv-checkpoint-1"


@dataclass
class Progress:
    """How far a training is.

    Attributes
    ----------
    step : updates done
    seconds : spent, over all runs
    best : highest score of a validation
    validated : `step` of the last validation
    validated_on : what the validations compare (`LoopOptions`)
    compared_from : number of validations before, which compared something else
    """

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    validated: int = 0
    validated_on: str = ""
    compared_from: int = 0


@dataclass
class TrainingState:
    """The objects whose state makes up a training."""

    prior: Prior
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    source: ProblemSource
    trainer: Trainer

    def draw_state(self) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return where the random numbers, the stream of images and the chains stand."""
        return self.generator.get_state(), self.source.state_dict(), self.trainer.state_dict()

    def restore_draws(self, state: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]) -> None:
        """Go back to what `draw_state` returned, as if nothing had been drawn since."""
        self.generator.set_state(state[0])
        self.source.load_state_dict(state[1])
        self.trainer.load_state_dict(state[2])

    def save(self, path: Path, progress: Progress, configuration: Mapping[str, Any]) -> None:
        """Write everything to `path`, atomically."""
        parts: dict[str, Mapping[str, Any]] = {
            "model": own_tensors(self.prior),
            "average": own_tensors(self.averaged),
            "source": self.source.state_dict(),
            "trainer": self.trainer.state_dict(),
            "random": {"generator": self.generator.get_state()},
        }
        for index, moments in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer/{index}"] = moments
        tensors = {
            f"{part}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        metadata = {
            "format": FORMAT,
            "progress": json.dumps(vars(progress)),
            "configuration": json.dumps(configuration, default=str),
            "settings": json.dumps(self._settings()),
        }
        write_tensors(path, tensors, metadata)

    def _settings(self) -> dict[str, Any]:
        """Return all settings of prior and trainer: those that a configuration leaves to defaults, which may change."""
        return {
            part: {"settings": component.settings.model_dump(mode="json")}
            for part, component in (("prior", self.prior), ("trainer", self.trainer))
        }

    def load(self, path: Path, configuration: Mapping[str, Any]) -> Progress:
        """Restore what `save` wrote.

        Raises
        ------
        WeightsError : damaged, or made for another architecture
        SettingsError : made with another configuration or other defaults; the message names the first difference
        """
        parts: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise WeightsError(f"{path}: found format {metadata.get('format')!r}; expected '{FORMAT}'")
                progress = Progress(**json.loads(metadata["progress"]))
                stored = json.loads(metadata["configuration"])
                settings = json.loads(metadata["settings"])
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    part, _, name = key.partition("/")
                    parts.setdefault(part, {})[name] = file.get_tensor(key)
            generator = parts["random"]["generator"]
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise WeightsError(f"{path}: not a checkpoint that can be resumed ({error!r})") from None
        difference = _difference(stored, json.loads(json.dumps(configuration, default=str)))
        difference = difference or _difference(settings, self._settings())
        if difference:
            raise SettingsError(f"{path}: the training there has {difference}; use another --out for another training")
        try:
            for module, name in ((self.prior, "model"), (self.averaged, "average")):
                others = own_tensors(module).keys() ^ parts[name].keys()
                if others:
                    raise RuntimeError(f"{name}: only one of both has {min(others)}")
                module.load_state_dict(parts[name], strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise WeightsError(f"{path}: made for another architecture ({reason})") from None
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": _moments(parts.get("optimizer", {}))})
        self.generator.set_state(generator)
        self.source.load_state_dict(parts.get("source", {}))
        self.trainer.load_state_dict(parts.get("trainer", {}))
        return progress


def _difference(stored: Any, given: Any, path: str = "") -> str:
    """Return the first entry that differs, in words; an empty text when all agree. The number of steps may."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in sorted(stored.keys() | given.keys()):
            found = _difference(stored.get(key), given.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    same = stored == given or path == "trainer.settings.steps"
    return "" if same else f"{path} = {stored!r}, this one {given!r}"


def _moments(flat: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return state
