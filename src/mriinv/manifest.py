"""The schema of ``registry.yaml``: what a distribution offers, readable without running any of its code."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from mriinv.core.capabilities import CAPABILITIES
from mriinv.core.component import StrictModel, nested, refused
from mriinv.errors import InputError

Kind = Literal["operator", "prior", "solver", "trainer"]
KINDS: tuple[Kind, ...] = ("operator", "prior", "solver", "trainer")
MAX_BYTES = 1 << 20
MAX_BITS = 1024  # of an integer
NUMBERS = {  # of YAML 1.2, but that nothing is octal
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)$|0x[0-9a-fA-F]+$",
    "tag:yaml.org,2002:float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$"
    r"|\.(nan|NaN|NAN)$",
}


def _known(capability: str) -> str:
    if capability not in CAPABILITIES:
        raise ValueError(f"one of {', '.join(sorted(CAPABILITIES))}")
    return capability


Capability = Annotated[str, BeforeValidator(_known)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Target = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class WeightEntry(StrictModel):
    """A weight file of a prior. The first one listed is its default; other conventions than these are refused."""

    name: Name
    file: str = Field(description="path from the folder of the catalogue")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    licence: str
    trained_on: str
    summary: str
    image_scale: Literal["99th percentile of |A^H b|"] = Field(
        "99th percentile of |A^H b|", description="what is 1 in the images that it is for"
    )
    fft: Literal["centred, orthonormal"] = "centred, orthonormal"


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Choice(StrictModel):
    """A component by name, with settings that differ from its defaults. A bare string is the name."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class PriorChoice(Choice):
    """A prior by name, with settings and weights."""

    weights: str | None = Field(None, description="a name in the catalogue or a path; none: the default")


ChoiceField = Annotated[Choice, BeforeValidator(_named)]
PriorChoiceField = Annotated[PriorChoice, BeforeValidator(_named)]


class ComponentEntry(StrictModel):
    """One operator, prior, solver or trainer."""

    kind: Kind
    name: Name
    target: Target
    summary: str
    reference: str = ""
    provides: tuple[Capability, ...] = ()
    requires: tuple[tuple[Capability, ...], ...] = ()
    weights: tuple[WeightEntry, ...] = ()
    trained_by: ChoiceField | None = Field(None, description="a prior's trainer, with the settings it needs there")


class Combination(StrictModel):
    """An operator, a prior and a solver, with their settings."""

    operator: ChoiceField = Choice(name="sense")
    prior: PriorChoiceField | None = None
    solver: ChoiceField

    @property
    def parts(self) -> dict[Kind, Choice]:
        """The components by kind; no prior where there is none."""
        chosen: dict[Kind, Choice | None] = {"operator": self.operator, "prior": self.prior, "solver": self.solver}
        return {kind: choice for kind, choice in chosen.items() if choice is not None}


class RecipeEntry(Combination):
    """A named combination."""

    summary: str
    reference: str = ""


class Manifest(StrictModel):
    """What one ``registry.yaml`` holds."""

    components: tuple[ComponentEntry, ...] = ()
    recipes: dict[Name, RecipeEntry] = Field(default_factory=dict)


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file with safe types only (`InputError` when it cannot be read)."""
    try:
        if path.is_fifo() or path.is_char_device():
            raise InputError(path, "", "a pipe or a device", "a readable YAML file")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(path, "", f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, "", error.strerror or str(error), "a readable YAML file") from None
    except UnicodeDecodeError as error:
        raise InputError(path, "", str(error), "UTF-8 text") from None
    return parse_yaml(text, path)


class _Loader(yaml.SafeLoader):
    """Safe types, with numbers as YAML 1.2 has them: 3:5 is no 185 in base 60, 010 no 8, and 1e-5 is one."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [one for one in resolvers if one[0] not in NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, value), times in keys.items():
            if times > 1:
                raise ValueError(f"the key '{value}' twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = int(super().construct_yaml_int(node))
        if value.bit_length() > MAX_BITS:  # much larger ones Python refuses to print
            raise ValueError(f"an integer of {value.bit_length()} bits, more than {MAX_BITS}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

for _tag, _pattern in NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))


def parse_yaml(text: str, source: object) -> Any:
    """Return the content of YAML text with safe types only; `source` is named in the `InputError`."""
    try:
        return yaml.load(text, _Loader)  # in Python: libyaml overflows the stack on deep nesting
    except Exception as error:  # a value that does not fit its tag makes the constructors raise almost anything
        raise InputError(source, "", " ".join(str(error).split()) or type(error).__name__, "valid YAML") from None


def load_manifest(path: Path) -> Manifest:
    """Read and validate a ``registry.yaml``."""
    content = load_yaml(path)
    if content is not None and not isinstance(content, dict):
        raise InputError(path, "", type(content).__name__, f"a mapping with {', '.join(Manifest.model_fields)}")
    try:
        manifest = Manifest.model_validate(content or {})
    except ValidationError as error:
        first = error.errors()[0]
        found, expected = _complaint(first)
        raise InputError(path, ".".join(str(part) for part in first["loc"]), found, expected) from None
    keys = [f"{entry.kind} '{entry.name}'" for entry in manifest.components]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise InputError(path, "components", f"{twice} twice", "each name once")
    return manifest


def _complaint(problem: Any) -> tuple[str, str]:
    """Return what was found and what would be right."""
    if problem["type"] == "extra_forbidden":
        known = list(nested(Manifest, [str(part) for part in problem["loc"][:-1]]).model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return "an unknown field", f"'{close[0]}'" if close else f"one of {', '.join(known)}"
    return refused(problem)
