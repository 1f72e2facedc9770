"""Weight files: safetensors whose metadata say which prior and which settings the tensors belong to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mriinv.core.prior import LoadedWeights, Prior
from mriinv.errors import SettingsError, WeightsError, shown
from mriinv.files import atomic_path, reason, sha256

FORMAT = "mriinv-weights-1"
P = TypeVar("P", bound=Prior)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of `module` with each tensor once, under the first of its names: unrolled networks share."""
    state = module.state_dict()
    names = (name for name, _ in (*module.named_parameters(), *module.named_buffers()))  # the shared ones once
    return {name: state[name] for name in names if name in state}


def save_weights(path: Path, prior: Prior, card: dict[str, Any]) -> None:
    """Write the tensors of `prior`, its settings and a model card to `path`, atomically."""
    tensors = {name: value.cpu().contiguous().clone() for name, value in own_tensors(prior).items()}
    metadata = {
        "format": FORMAT,
        "prior": prior.name,
        "settings": prior.settings.model_dump_json(),
        "card": json.dumps(card),
    }
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all (`UnwritableError`)."""
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """Return ``prior``, ``settings`` and ``card`` of a weight file without reading its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: metadata 'format': found {metadata.get('format')!r}; expected '{FORMAT}'")
    try:
        settings, card = json.loads(metadata["settings"]), json.loads(metadata["card"])
        prior = metadata["prior"]
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged metadata ({error!r})") from None
    for field, value in (("settings", settings), ("card", card)):
        if not isinstance(value, dict):
            raise WeightsError(f"{path}: metadata '{field}': found {shown(value)}; expected a mapping")
    return {"prior": prior, "settings": settings, "card": card}


def load_prior(cls: type[P], path: Path, settings: dict[str, Any], expected_sha256: str | None = None) -> P:
    """Build a `cls` as the weight file describes it, load its tensors, and note in `loaded_weights` which they are.

    Parameters
    ----------
    settings : explicit settings; only those that the prior calls `adjustable` may differ from the file's
    expected_sha256 : checksum from the catalogue

    Raises
    ------
    WeightsError : unreadable file, another prior, another architecture, a wrong checksum, non-finite values
    """
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weight file")
    checksum = sha256(path)
    if expected_sha256 not in (None, checksum):
        raise WeightsError(
            f"{path}: checksum: found {checksum[:16]}…; expected {expected_sha256[:16]}… of the catalogue"
        )
    metadata = read_metadata(path)
    if metadata["prior"] != cls.name:
        raise WeightsError(f"{path}: holds weights of prior '{metadata['prior']}'; expected '{cls.name}'")
    try:
        trained = cls.parse_settings(metadata["settings"])
    except SettingsError as error:
        raise WeightsError(f"{path}: metadata 'settings': {error}") from None
    with torch.random.fork_rng(devices=[]):  # initial values are drawn, and replaced below
        try:
            prior = cls(**{**metadata["settings"], **settings})
        except (MemoryError, RuntimeError) as error:
            raise WeightsError(
                f"{path}: metadata 'settings': a network that cannot be built ({reason(error)})"
            ) from None
    for name in sorted(settings.keys() - cls.adjustable):
        found, expected = getattr(prior.settings, name), getattr(trained, name)
        if found != expected:
            raise WeightsError(f"{path}: another architecture: {name}: found {found!r}; trained with {expected!r}")
    own = own_tensors(prior)
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    with safe_open(path, framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if stored != shapes:
            raise WeightsError(f"{path}: another architecture: {_first_difference(stored, shapes)}")
        tensors = {name: file.get_tensor(name) for name in stored}
    for name, value in tensors.items():
        if value.is_floating_point() != own[name].is_floating_point() or not torch.can_cast(
            value.dtype, own[name].dtype
        ):
            raise WeightsError(f"{path}: {name}: found {value.dtype}; expected {own[name].dtype}")
        tensors[name] = value = value.to(own[name].dtype)
        if not torch.isfinite(value).all():
            raise WeightsError(f"{path}: {name}: found NaN or infinity; expected finite values")
    prior.load_state_dict(tensors, strict=False)  # names were compared; those left out share their tensors
    prior.loaded_weights = LoadedWeights(path, checksum)
    return prior


def _first_difference(stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            return f"{name}: found {stored.get(name, 'nothing')}; expected {expected.get(name, 'nothing')}"
    return "none"
