"""What a benchmark compares: trainings, methods, masks and test slices, as a YAML file says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mriinv.benchmark.training import with_steps
from mriinv.compose import WeightFile, find_weights, make_trainer
from mriinv.config import RunConfig, TrainConfig, TrainingMeasurements, build_config, build_train_config
from mriinv.core.component import StrictModel, validated
from mriinv.core.following import TRAINING_NOISE
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.masks import MASKS
from mriinv.data.preparation import Preparation
from mriinv.errors import InputError, MriinvError, SettingsError, UnknownNameError, WeightsError
from mriinv.manifest import ChoiceField, PriorChoiceField, load_yaml
from mriinv.registry import registry

SHIPPED = ("small", "paper")
FIRST_TEST_SEED = 10**6  # of simulated test heads, far from those of trainings

Fraction = Annotated[float, Field(ge=0, le=1)]
Overlay = Annotated[dict[str, Any] | None, BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)]


class TrainingPlan(StrictModel):
    """A prior and how it is trained; several methods may share the result.

    `masks` says what it is trained for: ``all`` masks of the plan together, or ``each`` of them for itself.
    """

    prior: PriorChoiceField
    trainer: ChoiceField | None = Field(None, description="none: the prior's usual one")
    masks: Literal["all", "each"] = "all"
    warm_start: float | None = Field(None, ge=0, lt=1, description="share of the updates; none: as the trainer has it")
    steps: int | None = Field(None, ge=1, description="updates; none: as many as fit into the time of the plan")
    validate_with: ChoiceField | None = Field(None, description="solver on the validation scans; none: no validation")

    def config(self, out: Path, **fields: Any) -> TrainConfig:
        """Return the training as ``mriinv train`` takes it, with the usual trainer of the prior unless one is named."""
        trainer = None if self.trainer is None else self.trainer.model_dump()
        options = {"prior": self.prior.model_dump(), "trainer": trainer, "out": out, **fields}
        return build_train_config(None, options, ())


class Method(StrictModel):
    """A combination: a recipe, or a solver with its prior; settings given here come on top of the recipe's."""

    recipe: str | None = None
    prior: Overlay = None
    solver: Overlay = None
    training: str | None = Field(None, description="training that the weights come from; none: those of the prior")
    limit: int | None = Field(None, ge=1, description="test slices of each set, for slow methods; none: all")

    def combination(self) -> RunConfig:
        """Return what runs, weights of a training left open."""
        if self.recipe is None and self.solver is None:
            raise SettingsError("expected a recipe, or a solver")
        return build_config(self.recipe, None, {"prior": self.prior, "solver": self.solver}, ())


class Split(StrictModel):
    """How the scans of one folder are divided, in the order of their names, one subject a file."""

    train: int = Field(45, ge=1)
    validation: int = Field(5, ge=0)
    test: int = Field(50, ge=1)


class HeldOut(StrictModel):
    """Which slices are evaluated, and the simulated ones that are when no scan is given."""

    slices: int | None = Field(None, ge=1, description="of each scan, nearest to its middle; none: all")
    scans: int | None = Field(None, ge=1, description="of each set, the first ones; none: all")
    heads: int = Field(4, ge=1, description="number of simulated heads, one slice each")
    shape: tuple[int, int] = (192, 160)
    coils: int = Field(8, ge=1)
    noise_std: float = Field(TRAINING_NOISE, ge=0)
    seed: int = Field(FIRST_TEST_SEED, ge=0, description="of the first head; the next ones count up")
    preparation: Preparation = Preparation()


class Compared(StrictModel):
    """Methods under masks: in Table II each is trained for one mask and tested on another."""

    methods: tuple[str, ...]
    masks: tuple[str, ...]


class Figure2(Compared):
    """Energies around a slice."""

    gaussian: tuple[float, float] = (-0.1, 0.1)
    structural: tuple[float, float] = (-1.0, 1.0)
    points: int = Field(21, ge=3)


class Figure4(StrictModel):
    """Reconstructions by methods trained for another mask: pairs of the mask of the training and of the test."""

    methods: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


class Figure5(StrictModel):
    """Posterior samples: a point estimate, and two methods that sample."""

    map: str
    samplers: tuple[str, str]
    masks: tuple[str, ...]


class Plan(StrictModel):
    """Everything that a benchmark compares."""

    summary: str
    minutes: float | None = Field(None, gt=0, description="of training, the same for every one that states no steps")
    seed: int = Field(0, ge=0)
    data: TrainingMeasurements = TrainingMeasurements()
    validate_every: int = Field(1000, ge=1)
    split: Split = Split()
    test: HeldOut = HeldOut()
    masks: dict[str, MaskChoice] = Field(min_length=1)
    trainings: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], TrainingPlan] = Field(default_factory=dict)
    methods: dict[Annotated[str, Field(pattern=r"^[^,=]+$")], Method] = Field(min_length=1)
    table2: Compared | None = None
    figure2: Figure2 | None = None
    figure3: Compared | None = None
    figure4: Figure4 | None = None
    figure5: Figure5 | None = None
    zoom: tuple[Fraction, Fraction, Fraction, Fraction] = Field(
        (0.35, 0.6, 0.3, 0.55), description="detail of figures 3 and 4: top, bottom, left, right, parts of the image"
    )

    def check(self) -> None:
        """Look every name up in the registry and check every setting, before anything heavy.

        Raises
        ------
        SettingsError : names the entry of the plan
        """
        self._check_names()
        for label, mask in self.masks.items():
            with _entry(f"masks.{label}"):
                if mask.file is None and mask.name not in MASKS:
                    raise UnknownNameError("mask", mask.name, MASKS)
                if mask.file is not None and not mask.file.is_file():
                    raise InputError(mask.file, "", "no such file", "a mask, npy or npz")
        top, bottom, left, right = self.zoom
        if not (top < bottom and left < right):
            raise SettingsError(f"zoom: found {list(self.zoom)}; expected top < bottom and left < right")
        for label, method in self.methods.items():
            with _entry(f"methods.{label}"):
                config = method.combination()
                registry().check(config)
                if config.prior is not None:
                    weight_file(config.prior.name, config.prior.weights)
                if method.training is not None:
                    trained = self.trainings[method.training].prior.name
                    found = "none" if config.prior is None else config.prior.name
                    if trained != found:
                        raise SettingsError(f"training '{method.training}' is of prior '{trained}', not '{found}'")
        for name, training in self.trainings.items():
            with _entry(f"trainings.{name}"):
                registry().settings("prior", training.prior)
                made = training.config(Path())
                if training.steps is not None:
                    made = with_steps(made, training.steps, training.warm_start)
                make_trainer(made.trainer.name, **made.trainer.settings)
                if training.validate_with is not None:
                    registry().settings("solver", training.validate_with)

    def _check_names(self) -> None:
        for label, method in self.methods.items():
            _known(f"methods.{label}.training", [method.training] if method.training else [], self.trainings)
        for part in ("table2", "figure2", "figure3", "figure4", "figure5"):
            chosen = getattr(self, part)
            if chosen is None:
                continue
            methods = [chosen.map, *chosen.samplers] if part == "figure5" else chosen.methods
            masks = [m for pair in chosen.pairs for m in pair] if part == "figure4" else chosen.masks
            _known(f"{part}.methods", methods, self.methods)
            _known(f"{part}.masks", masks, self.masks)
            mismatched = part in ("table2", "figure4")
            for name in methods if mismatched else ():
                if self.methods[name].training is None:
                    raise SettingsError(f"{part}.methods: '{name}' has no training, which this needs for each mask")
        for name, training in self.trainings.items():
            if training.steps is None and self.minutes is None:
                raise SettingsError(f"trainings.{name}: expected steps, or minutes of the plan")
        slugs = [slug(mask) for mask in self.masks]
        if len(set(slugs)) < len(slugs):
            raise SettingsError(f"masks: labels that give the same file names: {', '.join(self.masks)}")


def load_plan(name: str) -> Plan:
    """Read a shipped plan by name, or a YAML file; everything in it is checked.

    Raises
    ------
    InputError : no such file, not YAML
    SettingsError : a field that does not exist, a value out of range, a name that nothing has
    """
    if name in SHIPPED:
        with as_file(files("mriinv.benchmark") / f"{name}.yaml") as path:
            content = load_yaml(path)
    else:
        if not Path(name).is_file():
            raise InputError(name, "", "no such plan", f"{' or '.join(SHIPPED)}, or a YAML file")
        content = load_yaml(Path(name))
    if not isinstance(content, dict):
        raise InputError(name, "", type(content).__name__, "a mapping of fields")
    with _entry(f"plan {name}"):
        plan = validated(Plan, content)
        plan.check()
    return plan


def weight_file(prior: str, weights: str | None) -> WeightFile | None:
    """Return `find_weights`; `WeightsError` where there is no such file."""
    found = find_weights(prior, weights)
    if found is not None and not found.path.is_file():
        raise WeightsError(f"{found.path}: no such weight file")
    return found


def slug(text: str) -> str:
    """Return `text` as part of a file name: ``2D 4×`` becomes ``2d-4x``."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("×", "x")).strip("-.") or "unnamed"


def _known(where: str, names: Any, known: dict[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise SettingsError(f"{where}: found '{name}'; the plan has {', '.join(known) or 'none'}")


@contextmanager
def _entry(where: str) -> Iterator[None]:
    """Put the entry of the plan before the message of an error."""
    try:
        yield
    except MriinvError as error:
        raise SettingsError(f"{where}: {error}") from None
