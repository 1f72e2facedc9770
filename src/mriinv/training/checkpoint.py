"""Checkpoints without pickle: one safetensors file with everything that a training needs to go on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mriinv.errors import WeightsError
from mriinv.files import atomic_path

FORMAT = "mriinv-checkpoint-1"


@dataclass
class Progress:
    """Updates done, seconds spent over all runs, and the best validation so far."""

    step: int = 0
    seconds: float = 0.0
    best: float = -float("inf")


def save_checkpoint(
    path: Path,
    progress: Progress,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    trainer_state: dict[str, Tensor],
) -> None:
    """Write the state of a training to `path`, atomically."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"trainer/{k}": v for k, v in trainer_state.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors["generator"] = generator.get_state()
    metadata = {"format": FORMAT, "progress": json.dumps(vars(progress))}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore what `save_checkpoint` wrote; return the progress and the state of the trainer."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise WeightsError(f"{path}: found format {metadata.get('format')!r}; expected '{FORMAT}'")
            progress = Progress(**json.loads(metadata["progress"]))
            parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "trainer": {}, "optimizer": {}}
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                part, _, name = key.partition("/")
                if part in parts:
                    parts[part][name] = file.get_tensor(key)
            generator.set_state(file.get_tensor("generator"))
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: not a checkpoint that can be resumed ({error!r})") from None
    try:
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
    except RuntimeError as error:
        raise WeightsError(f"{path}: made for another architecture ({str(error).splitlines()[-1].strip()})") from None
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(parts["optimizer"])})
    return progress, parts["trainer"]


def _moments(flat: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return state
