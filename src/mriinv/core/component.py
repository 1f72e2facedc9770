"""What every registered component shares: a name and validated settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mriinv.errors import SettingsError, shown

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Fields by name, checked when it is made: unknown ones are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ComponentSettings(StrictModel):
    """Settings of one component; its defaults are checked as well."""

    model_config = ConfigDict(validate_default=True)


def setting(
    default: Any, help: str, *, unit: str = "", tune: tuple[float, float] | None = None, **constraints: Any
) -> Any:
    """Declare one setting: its default, what it does, and pydantic constraints such as ``ge=0``.

    Parameters
    ----------
    unit : of the value, shown to the user
    tune : lowest and highest value that ``mriinv tune`` tries, on a logarithmic scale
    """
    extra: dict[str, Any] = {name: value for name, value in (("unit", unit), ("tune", tune)) if value}
    return Field(default, description=help, json_schema_extra=extra or None, **constraints)


def _rising(levels: tuple[float, float]) -> tuple[float, float]:
    if not 0 < levels[0] < levels[1]:
        raise ValueError("expected 0 < lowest < highest")
    return levels


NoiseRange = Annotated[tuple[float, float], AfterValidator(_rising)]  # lowest and highest noise level


def validated(model: type[Model], values: dict[str, Any], owner: str = "") -> Model:
    """Build `model` from `values`, or raise a `SettingsError` that names the nearest field or the allowed values."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(model, problem, owner) for problem in error.errors())) from None


def explain(model: type[BaseModel], problem: Any, owner: str = "") -> str:
    """Return in words what pydantic refused: the field, what was found, and the nearest name or the bounds."""
    *path, field = [str(part) for part in problem["loc"]] or [""]  # "": a check of the whole model
    where = ".".join([owner, *path] if owner else path)
    if problem["type"] == "extra_forbidden":
        known = list(nested(model, path).model_fields)
        close = difflib.get_close_matches(field, known, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(known) or 'no settings'}"
        return f"{where or 'the configuration'} has no setting '{field}'; {hint}"
    found, expected = refused(problem)
    own_words = problem["type"] == "value_error"
    return f"{'.'.join(filter(None, [where, field]))}: found {found}; {'' if own_words else 'expected '}{expected}"


def refused(problem: Any) -> tuple[str, str]:
    """Return what pydantic found in a field, and what it expected instead."""
    if problem["type"] == "missing":
        return "nothing", "a value"
    expected = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return shown(problem["input"]), expected


def nested(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the model of the field at `path`; optional fields are looked through."""
    for name in path:
        if field := model.model_fields.get(name):
            model = next(_models(field.annotation), model)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Give the models in an annotation such as ``Annotated[Model, ...] | None``."""
    parts = get_args(annotation)
    for part in parts:
        yield from _models(part)
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


class Component:
    """Base of operators, priors, solvers and trainers.

    A subclass declares a nested ``Settings`` model; keyword arguments of the constructor are validated against it.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    Settings: ClassVar[type[ComponentSettings]] = ComponentSettings

    @classmethod
    def parse_settings(cls, values: dict[str, Any]) -> Any:
        """Validate `values` against this component's settings (`SettingsError` when they do not fit)."""
        return validated(cls.Settings, values, cls.name)
