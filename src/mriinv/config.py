"""What to run: a recipe, a run file, command-line options and ``--set``, merged in this order and validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mriinv.core.component import explain
from mriinv.errors import SettingsError
from mriinv.manifest import Choice, ChoiceField, RecipeEntry, load_yaml
from mriinv.registry import registry

DEFAULT_RECIPE = "deepen-map"
COMPONENTS = ("operator", "prior", "solver", "trainer")  # chosen by name, with settings of their own
Model = TypeVar("Model", bound=BaseModel)


class MaskChoice(BaseModel):
    """A retrospective sampling mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="poisson-2d, random-1d or equispaced-1d")
    acceleration: float = Field(4.0, gt=1, description="grid locations over sampled ones, centre included")
    calibration: int | None = Field(None, ge=0, description="fully sampled centre in lines; none: the mask's default")
    seed: int = Field(0, ge=0)


class TrainingData(BaseModel):
    """Simulated measurements to train on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heads: Path | None = Field(None, description="folder of label maps (*.npz); none: procedural heads")
    shape: tuple[int, int] = (96, 96)
    coils: int = Field(8, ge=1)
    masks: tuple[tuple[str, float], ...] = (("poisson-2d", 4.0), ("poisson-2d", 6.0), ("random-1d", 3.0))
    noise_std: float = Field(0.007, ge=0, description="of the measurements, per real component, image scale 1")
    noise_floor: tuple[float, float] = (0.0, 0.02)


class Validation(BaseModel):
    """Scans on which checkpoints are compared: PSNR of the converged MAP image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scans: tuple[Path, ...] = ()
    masks: tuple[tuple[str, float], ...] = (("poisson-2d", 4.0), ("random-1d", 4.0))
    every: int = Field(500, ge=1, description="updates between two validations")


class TrainConfig(BaseModel):
    """Everything that determines a training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path
    prior: ChoiceField
    trainer: ChoiceField = Choice(name="maximum-likelihood")
    operator: ChoiceField = Choice(name="sense")
    data: TrainingData = TrainingData()
    validation: Validation = Validation()
    device: str = "auto"
    seed: int = Field(0, ge=0)


class RunConfig(BaseModel):
    """Everything that determines a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Annotated[tuple[Path, ...], BeforeValidator(lambda v: [v] if isinstance(v, str | Path) else v)] = ()
    out: Path = Path("result")
    operator: ChoiceField = Choice(name="sense")
    prior: ChoiceField | None = None
    solver: ChoiceField
    mask: Annotated[MaskChoice | None, BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)] = None
    slices: str | None = Field(None, pattern=r"^\d+(:\d+)?$", description="one slice, or first:after_last")
    device: str = "auto"
    seed: int = Field(0, ge=0)


def build_config(
    recipe: str | None, run_file: Path | None, options: Mapping[str, Any], assignments: Iterable[str]
) -> RunConfig:
    """Merge the sources of a configuration and validate the result.

    Parameters
    ----------
    recipe : name of a recipe; when None the run file's ``recipe``, else ``deepen-map`` unless a solver is named
    run_file : YAML with the fields of `RunConfig`
    options : fields given on the command line; None means not given
    assignments : ``solver.max_iterations=50``; ``mask.seed=3``; values are YAML

    Raises
    ------
    SettingsError : unknown fields (with the nearest name) and values out of range
    """
    content = _mapping(run_file)
    given = {key: value for key, value in options.items() if value is not None}
    name = recipe or content.pop("recipe", None)
    content.pop("recipe", None)
    if name is None and "solver" not in given and "solver" not in content:
        name = DEFAULT_RECIPE
    merged: dict[str, Any] = {}
    for layer in (_of_recipe(registry().recipe(name)) if name else {}, content, given):
        merged = _merge(merged, layer)
    for assignment in assignments:
        _assign(merged, assignment, ("operator", "prior", "solver", "mask"))
    if not merged.get("input"):
        merged.setdefault("mask", {"name": "poisson-2d"})  # a simulated scan is fully sampled
    return _validate(RunConfig, merged)


def build_train_config(
    run_file: Path | None,
    options: Mapping[str, Any],
    assignments: Iterable[str],
    *,
    heads: Path | None = None,
    scans: tuple[Path, ...] = (),
) -> TrainConfig:
    """As `build_config`, for a training; ``--set trainer.steps=100``, ``data.coils=4``, ``validation.every=50``."""
    content = _mapping(run_file)
    merged = _merge(content, {key: value for key, value in options.items() if value is not None})
    for part in ("trainer", "operator", "data", "validation"):
        merged.setdefault(part, TrainConfig.model_fields[part].default.model_dump())
    if heads is not None:
        merged["data"]["heads"] = heads
    if scans:
        merged["validation"]["scans"] = scans
    for assignment in assignments:
        _assign(merged, assignment, ("operator", "prior", "trainer", "data", "validation"))
    return _validate(TrainConfig, merged)


def _mapping(run_file: Path | None) -> dict[str, Any]:
    content = load_yaml(run_file) if run_file else {}
    if not isinstance(content, dict):
        raise SettingsError(f"{run_file}: found {type(content).__name__}; expected a mapping of fields")
    return content


def _of_recipe(recipe: RecipeEntry) -> dict[str, Any]:
    return recipe.model_dump(include={"operator", "prior", "solver"}, exclude_none=True)


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overlaid with `layer`; another component of the same kind drops the settings of the former."""
    merged = dict(base)
    for key, value in layer.items():
        if key in (*COMPONENTS, "mask") and value is not None:
            value = {"name": value} if isinstance(value, str) else value
            old = merged.get(key)
            same = isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name")
            merged[key] = {**old, **value} if same and isinstance(old, dict) else value
        else:
            merged[key] = value
    return merged


def _assign(config: dict[str, Any], assignment: str, parts: tuple[str, ...]) -> None:
    path, equals, text = assignment.partition("=")
    part, dot, name = path.partition(".")
    if not equals or not dot or part not in parts:
        raise SettingsError(f"--set {assignment}: expected <part>.<setting>=<value>, part one of {', '.join(parts)}")
    if config.get(part) is None:
        raise SettingsError(f"--set {assignment}: there is no {part} in this run")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {assignment}: {' '.join(str(error).split())}") from None
    target = dict(config[part])
    if part in COMPONENTS:
        target["settings"] = {**target.get("settings", {}), name: value}
    else:
        target[name] = value
    config[part] = target


def _validate(model: type[Model], merged: dict[str, Any]) -> Model:
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(model, problem) for problem in error.errors())) from None
