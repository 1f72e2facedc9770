"""What to run: a recipe, a run file, command-line options and ``--set``, merged in this order and validated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from mriinv.core.component import StrictModel, validated
from mriinv.core.following import TRAINING_NOISE
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.masks import MaskKind
from mriinv.data.preparation import Preparation
from mriinv.data.training import MASKS
from mriinv.errors import InputError, SettingsError, shown
from mriinv.manifest import KINDS, Choice, ChoiceField, Combination, PriorChoiceField, load_yaml, parse_yaml
from mriinv.numerics.noise import SEED_LIMIT
from mriinv.registry import registry

DEFAULT_RECIPE = "deepen-map"
SIMULATION_MASK = {"name": "poisson-2d"}  # a simulated scan is fully sampled
RUN_PARTS, TRAINING_PARTS = ("mask", "preparation"), ("data", "validation", "loop")  # mappings of fields
PARTS = (*KINDS, *RUN_PARTS, *TRAINING_PARTS)
SLICES = "one slice, such as 3, or the first and the one after the last, such as 3:5"


class TrainingMeasurements(StrictModel):
    """How images are measured to train on them."""

    shape: tuple[int, int] = (96, 96)
    coils: int = Field(8, ge=1)
    noise_std: float = Field(TRAINING_NOISE, ge=0, description="of the measurements, per real component, image scale 1")
    noise_floor: tuple[float, float] = (0.0, 0.02)
    fresh: float = Field(0.5, ge=0, description="new slices per update")
    masks_per_kind: int = Field(64, ge=1, description="different masks of each kind, drawn at random; 1: a fixed one")


class TrainingData(TrainingMeasurements):
    """Simulated measurements to train on: of which images, under which masks."""

    heads: Path | None = Field(None, description="label volume or a folder of them; none: procedural heads")
    scans: tuple[Path, ...] | None = Field(None, description="fully sampled scans, whose images are used instead")
    scan_slices: int | None = Field(None, ge=1, description="of each scan, nearest to its middle; none: all")
    masks: tuple[MaskKind, ...] = MASKS

    @model_validator(mode="after")
    def _one_source(self) -> TrainingData:
        if self.heads is not None and self.scans is not None:
            raise ValueError("heads and scans are two sources of images; expected one of them")
        return self


class Validation(StrictModel):
    """Scans on which checkpoints are compared: PSNR of the reconstruction, run to convergence."""

    scans: tuple[Path, ...] = ()
    masks: tuple[MaskKind, ...] = (MaskKind("poisson-2d", 4.0), MaskKind("random-1d", 4.0))
    solver: ChoiceField | None = Field(None, description="none: that of the prior's first recipe, or mm-cg")
    every: int = Field(500, ge=1, description="updates between two validations")


class Loop(StrictModel):
    """What the loop does with the gradients and weights of every trainer."""

    clip: float = Field(1.0, gt=0, description="largest norm of the gradient; longer ones are scaled down to it")
    averaging: float | None = Field(
        None, ge=0, lt=1, description="decay of the averaged weights; none: so that they reach over 1 % of the updates"
    )


class TrainConfig(StrictModel):
    """Everything that determines a training."""

    out: Path
    prior: PriorChoiceField
    trainer: ChoiceField = Choice(name="maximum-likelihood")
    operator: ChoiceField = Choice(name="sense")
    data: TrainingData = TrainingData()
    validation: Validation = Validation()
    loop: Loop = Loop()
    device: str = "auto"
    devices: int = Field(1, ge=1, description="processes, on a device of `device` each, that share every update")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = Field(0, ge=0, lt=SEED_LIMIT)


def _slices(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str | int) or not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})?", str(value), re.ASCII):
        raise ValueError(f"expected {SLICES}")
    return str(value)


class RunConfig(Combination):
    """Everything that determines a run."""

    input: Annotated[tuple[Path, ...], BeforeValidator(lambda v: [v] if isinstance(v, str | Path) else v)] = ()
    out: Path = Path("result")
    preparation: Preparation = Preparation()
    mask: MaskChoice | None = None
    slices: Annotated[str | None, BeforeValidator(_slices)] = Field(None, description=SLICES)
    calibration: Path | None = Field(None, description="of samples; none: that beside the weights, where it fits")
    device: str = "auto"
    seed: int = Field(0, ge=0, lt=SEED_LIMIT)


def build_config(
    recipe: str | None, run_file: Path | None, options: Mapping[str, Any], assignments: Iterable[str]
) -> RunConfig:
    """Merge the sources of a configuration and validate the result.

    Parameters
    ----------
    recipe : name of a recipe, whose combination takes the place of that of the run file; when None the run file's
        ``recipe``, which its other fields override, else the first one of the prior, and of the solver, that are
        named; without any, and unless a solver is named, ``deepen-map``
    run_file : YAML with the fields of `RunConfig`
    options : fields given on the command line; None means not given
    assignments : ``solver.max_iterations=50``; ``mask.seed=3``; values are YAML

    Raises
    ------
    SettingsError : unknown fields (with the nearest name) and values out of range
    """
    content = _mapping(run_file)
    given = {key: value for key, value in options.items() if value is not None}
    in_file = content.pop("recipe", None)
    combination = _combination(recipe or in_file, _merge(content, given))
    merged: dict[str, Any] = {"preparation": {}}
    if not (given.get("input") or content.get("input")):
        merged["mask"] = dict(SIMULATION_MASK)
    for layer in (content, combination, given) if recipe else (combination, content, given):
        merged = _merge(merged, layer)
    for assignment in assignments:
        _assign(merged, assignment, ("operator", "prior", "solver", *RUN_PARTS))
    _require_names(merged, given)
    return validated(RunConfig, merged)


def _combination(name: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the components of a recipe, or of the usual one for the prior and the solver that are named."""
    prior, solver = ((named.get(part) or {}).get("name") for part in ("prior", "solver"))
    if name:
        entry = registry().recipe(str(name))
    elif usual := registry().usual_recipe(prior or "", solver):
        entry = usual
    elif solver:
        return {}
    else:
        entry = registry().recipe(DEFAULT_RECIPE)
    return entry.model_dump(include=set[str](KINDS), exclude_none=True)


def _require_names(merged: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what is said of a mask or of a prior that nothing names."""
    mask, prior = given.get("mask"), merged.get("prior")
    if mask and "name" not in merged["mask"]:
        options = " and ".join(f"--{key}" for key in mask)
        raise SettingsError(f"{options} {'need' if len(mask) > 1 else 'needs'} --mask")
    if prior is not None and "name" not in prior:
        what = " and ".join(key for key in prior if prior[key]) or "nothing"
        raise SettingsError(f"prior: found {what} without a name; name one with --prior")


def build_train_config(
    run_file: Path | None,
    options: Mapping[str, Any],
    assignments: Iterable[str],
) -> TrainConfig:
    """As `build_config`, for a training; ``--set trainer.steps=100``, ``data.coils=4``, ``validation.every=50``."""
    content = _mapping(run_file)
    merged = _merge(content, {key: value for key, value in options.items() if value is not None})
    for part in ("operator", *TRAINING_PARTS):
        merged[part] = merged.get(part) or TrainConfig.model_fields[part].default.model_dump()
    merged = _merge({"trainer": _usual_trainer(merged.get("prior")).model_dump()}, merged)
    for assignment in assignments:
        _assign(merged, assignment, ("operator", "prior", "trainer", *TRAINING_PARTS))
    return validated(TrainConfig, merged)


def _usual_trainer(prior: Any) -> Choice:
    """Return the trainer that the catalogue names for a prior, with its settings."""
    name = prior.get("name") if isinstance(prior, dict) else None
    entry = registry().find("prior", name).entry if isinstance(name, str) else None
    return (entry and entry.trained_by) or TrainConfig.model_fields["trainer"].default


def _mapping(run_file: Path | None) -> dict[str, Any]:
    """Return the content of a run file with each of its parts as a mapping, a bare string being the name."""
    content = load_yaml(run_file) if run_file else {}
    if not isinstance(content, dict):
        raise InputError(run_file, "", type(content).__name__, "a mapping of fields")
    if not isinstance(recipe := content.get("recipe"), str | int | None):
        raise InputError(run_file, "recipe", shown(recipe), "a name")
    for part in PARTS:
        value = content.get(part)
        if isinstance(value, str):
            content[part] = {"name": value}
        elif isinstance(value, dict):
            _check_part(run_file, part, value)
        elif value is not None:
            raise InputError(run_file, part, shown(value), "a mapping, or a name")
    return content


def _check_part(run_file: Path | None, part: str, value: Mapping[Any, Any]) -> None:
    name, settings = value.get("name"), value.get("settings")
    if not all(isinstance(key, str) for key in value):
        raise InputError(run_file, part, shown(value), "a mapping of fields by name")
    if name is not None and not isinstance(name, str):
        raise InputError(run_file, f"{part}.name", shown(name), "a name")
    if part in KINDS and settings is not None and not isinstance(settings, dict):
        raise InputError(run_file, f"{part}.settings", shown(settings), "a mapping of settings")


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overlaid with `layer`; another component of the same kind drops the settings of the former."""
    merged = dict(base)
    for key, value in layer.items():
        if key in PARTS and value is not None:
            value = {"name": value} if isinstance(value, str) else value
            old = merged.get(key) or {}
            if value.get("name", old.get("name")) == old.get("name"):
                value = {**old, **value}
                if key in KINDS:
                    value["settings"] = {**(old.get("settings") or {}), **(value.get("settings") or {})}
        merged[key] = value
    return merged


def _assign(config: dict[str, Any], assignment: str, parts: tuple[str, ...]) -> None:
    path, equals, text = assignment.partition("=")
    part, dot, name = path.partition(".")
    if not equals or not dot or part not in parts:
        raise SettingsError(f"--set {assignment}: expected <part>.<setting>=<value>, part one of {', '.join(parts)}")
    if config.get(part) is None:
        raise SettingsError(f"--set {assignment}: there is no {part} in this run")
    value = parse_yaml(text, f"--set {assignment}")
    keys = name.split(".")
    config[part] = _replaced(config[part], ["settings", *keys] if part in KINDS else keys, value)


def _replaced(mapping: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Return `mapping` with the value at a path of keys replaced."""
    first, *rest = keys
    old = mapping.get(first)
    return {**mapping, first: _replaced(old if isinstance(old, dict) else {}, rest, value) if rest else value}
