"""What a benchmark has to do, in order: trainings, evaluations, and what is written from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from mriinv.benchmark.cells import Cell, Record, described, read_cell, run_cells
from mriinv.benchmark.plan import Plan, slug, weight_file
from mriinv.benchmark.pool import run_all
from mriinv.benchmark.scans import HeldOutSlice, TrainingImages, held_out_slices, training_images
from mriinv.benchmark.training import Training, train, with_steps
from mriinv.compose import resolve_device
from mriinv.config import RunConfig
from mriinv.errors import SettingsError, UnknownNameError

ALL = "all masks"
logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class Wanted:
    """A method, the mask that it is trained for where that matters, a slice and the mask of the test."""

    method: str
    trained_for: str | None
    tested: HeldOutSlice
    mask: str


@dataclass
class Benchmark:
    """A plan on given data.

    Attributes
    ----------
    plan : what is compared
    out : folder of trainings, cells and what is written
    data : to train on; None for procedural heads
    test : scans, or folders of them, a test set each
    minutes : of each training, whatever the plan says; None: minutes or updates as there
    weights : files, or names in the catalogue, by method, instead of trainings
    say : told what happens
    """

    plan: Plan
    out: Path
    data: Path | None = None
    test: tuple[Path, ...] = ()
    minutes: float | None = None
    methods: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    processes: int = 1
    say: Callable[[str], None] = logger.info

    def __post_init__(self) -> None:
        for name in (*self.methods, *self.weights):
            if name not in self.plan.methods:
                raise UnknownNameError("method of the plan", name, self.plan.methods)
        for name, weights in self.weights.items():
            if (prior := self.plan.methods[name].combination().prior) is not None:
                weight_file(prior.name, weights)
        self.torch_device = resolve_device(self.device)
        self.images: TrainingImages = training_images(self.data, self.plan.split, tested=bool(self.test))
        self.slices: list[HeldOutSlice] = held_out_slices(self.test, self.images.test, self.plan.test)
        used = {path.resolve() for path in (*(self.images.scans or ()), *self.images.validation)}
        for one in self.slices:
            if one.path is not None and one.path.resolve() in used:
                raise SettingsError(f"{one.path} is tested and trained on; keep test scans in another folder")
        self._failed: dict[str, str] = {}
        self._trainings: dict[tuple[str, str | None], Training | None] = {}
        self._combinations: dict[tuple[str, str | None], RunConfig] = {}
        self._limited = {
            (label, one)
            for label, method in self.plan.methods.items()
            for _, group in groupby(self.slices, lambda one: one.group)
            for one in list(group)[: method.limit]
        }

    @property
    def labels(self) -> list[str]:
        """The methods that are asked for, in the order of the plan."""
        return [name for name in self.plan.methods if not self.methods or name in self.methods]

    # ---- what is wanted --------------------------------------------------------------------------------------------

    def table1(self) -> list[Wanted]:
        """Every method under every mask, trained for that mask where the plan trains for each."""
        return [
            Wanted(label, mask if self._per_mask(label) else None, tested, mask)
            for tested in self.slices
            for mask in self.plan.masks
            for label in self.labels
            if (label, tested) in self._limited
        ]

    def table2(self) -> list[Wanted]:
        """Every method of the second table, trained for a mask and tested on a mask."""
        chosen = self.plan.table2
        if chosen is None:
            raise SettingsError("the plan has no table2")
        methods = self.trained_for_each("table2", chosen.methods)
        return [
            Wanted(label, trained, tested, mask)
            for tested in self.slices
            for mask in chosen.masks
            for trained in chosen.masks
            for label in methods
            if (label, tested) in self._limited
        ]

    def chosen(self, methods: Iterable[str]) -> list[str]:
        """Return those of `methods` that are asked for (`SettingsError` where none is)."""
        methods = list(methods)
        chosen = [name for name in methods if name in self.labels]
        if not chosen:
            raise SettingsError(f"--methods: found none of those that are compared here: {', '.join(methods)}")
        return chosen

    def trained_for_each(self, part: str, methods: Iterable[str]) -> list[str]:
        """Return those of `methods` that are asked for, which a part of the plan has trained for each mask.

        Raises
        ------
        SettingsError : weights are given for one of them, or none is asked for
        """
        chosen = self.chosen(methods)
        for name in chosen:
            if name in self.weights:
                raise SettingsError(f"--weights {name}: {part} compares trainings for each mask, which these are not")
        return chosen

    def shown(self, label: str, mask: str, trained_for: str | None = None) -> Wanted:
        """Return a method on the slice that figures show: the middle one of the first test set."""
        first = [one for one in self.slices if one.group == self.slices[0].group]
        per_mask = mask if self._per_mask(label) else None
        return Wanted(label, trained_for or per_mask, first[len(first) // 2], mask)

    def _per_mask(self, label: str) -> bool:
        name = self.plan.methods[label].training
        return name is not None and label not in self.weights and self.plan.trainings[name].masks == "each"

    # ---- trainings -------------------------------------------------------------------------------------------------

    def training(self, label: str, mask: str | None) -> Training | None:
        """Return the training of a method, for all masks or one; None where it needs none."""
        if (label, mask) not in self._trainings:
            name = None if label in self.weights else self.plan.methods[label].training
            self._trainings[label, mask] = None if name is None else self._training(name, mask)
        return self._trainings[label, mask]

    def _training(self, name: str, mask: str | None) -> Training:
        chosen, images = self.plan.trainings[name], self.images
        folder = f"{name}-{slug(mask)}" if mask else name
        choices = [self.plan.masks[one] for one in ([mask] if mask else self.plan.masks)]
        if file := next((choice.file for choice in choices if choice.file), None):
            raise SettingsError(f"training {name}: found mask {file}; trainings draw their masks by name")
        masks = [choice.kind for choice in choices]
        data: dict[str, Any] = {**self.plan.data.model_dump(), "masks": masks}
        if images.heads is not None:
            data["heads"] = images.heads
        if images.scans is not None:
            data |= {"scans": images.scans, "scan_slices": self.plan.test.slices}
        validation = {"every": self.plan.validate_every, "masks": masks, "solver": chosen.validate_with}
        config = chosen.config(
            self.out / "training" / folder,
            data=data,
            validation={**validation, "scans": images.validation if chosen.validate_with else ()},
            seed=self.plan.seed,
            device=self.device,
        )
        if self.minutes is None and chosen.steps is not None:
            return Training(folder, with_steps(config, chosen.steps, chosen.warm_start), None, chosen.warm_start)
        return Training(folder, config, self.minutes or self.plan.minutes, chosen.warm_start)

    def trainings(self, wanted: Iterable[Wanted]) -> list[Training]:
        """Return the trainings behind what is wanted, each once."""
        found = (self.training(label, mask) for label, mask in dict.fromkeys((w.method, w.trained_for) for w in wanted))
        return list({one.name: one for one in found if one is not None}.values())

    def train(self, wanted: Iterable[Wanted]) -> None:
        """Do the trainings that are missing; one that fails makes its methods fail, not the others."""
        missing = [one for one in self.trainings(wanted) if one.weights is None]
        for one in missing:
            self.say(f"training {one.name} in {one.folder} ({_budget(one)})")
        for one, error in run_all(train, missing, self.processes):
            if error:
                self._failed[one.name] = f"training {one.name} failed: {error}"
            self._combinations.clear()  # they name weights
            done = error or f"{one.updates_done} updates in {one.minutes_spent:.1f} min"
            self.say(f"training {one.name}: {done}")

    # ---- evaluations -----------------------------------------------------------------------------------------------

    def evaluate(self, wanted: Iterable[Wanted], *, keep: bool = False) -> list[Record]:
        """Train what is missing, compute what is missing, and return a record for each; failures are records too.

        Parameters
        ----------
        keep : whether the images are needed too; they lie beside the cell of ``record["file"]``
        """
        wanted = list(wanted)
        self.train(wanted)
        cells = {one: self._cell(one) for one in wanted}
        paths = {one: self._path(cell) for one, cell in cells.items() if not self._failure(one)}
        missing = [one for one, path in paths.items() if not _complete(path, keep)]
        groups = grouped(cells[one] for one in missing)
        work = partial(run_cells, folder=self.out / "cells", plan=self.plan.test, device=self.torch_device, keep=keep)
        self.say(f"{len(paths) - len(missing)} evaluations are there, {len(missing)} to compute")
        done, lost = 0, dict[int, str]()
        for group, error in run_all(work, groups, self.processes):
            done += len(group)
            first = group[0]
            self.say(f"{done}/{len(missing)}: {first.tested.group}, {first.tested.name}, {first.mask}")
            lost |= {id(cell): error for cell in group if error}
        return [self._record(one, cells[one], paths.get(one), lost) for one in wanted]

    def _record(self, one: Wanted, cell: Cell, path: Path | None, lost: dict[int, str]) -> Record:
        stored = None if path is None else read_cell(path)
        error = self._failure(one) or lost.get(id(cell)) or "not computed"
        record = {**(stored or {"error": error}), **described(cell)}  # labels are those of the plan
        trained = self.training(one.method, one.trained_for)
        minutes = None if trained is None or path is None else round(trained.minutes_spent, 2)
        return {**record, "file": path, "training_minutes": minutes}

    def _failure(self, one: Wanted) -> str:
        trained = self.training(one.method, one.trained_for)
        return "" if trained is None else self._failed.get(trained.name, "")

    def _cell(self, one: Wanted) -> Cell:
        trained = self.training(one.method, one.trained_for)
        if (one.method, one.trained_for) not in self._combinations:
            weights = self.weights.get(one.method) or (trained and trained.weights)
            config = self.plan.methods[one.method].combination()
            if config.prior is not None and (weights or trained):
                prior = config.prior.model_copy(update={"weights": weights and str(weights)})
                config = config.model_copy(update={"prior": prior})
            self._combinations[one.method, one.trained_for] = config
        config = self._combinations[one.method, one.trained_for]
        name = "" if trained is None else trained.name
        trained_for = (one.trained_for or ALL) if trained else ""
        choice = self.plan.masks[one.mask]
        return Cell(one.method, config, name, trained_for, one.tested, one.mask, choice)

    def _path(self, cell: Cell) -> Path:
        return cell.path(self.out / "cells", self.plan.test, self.torch_device)

    def case_cell(self, label: str, mask: str, trained_for: str | None = None) -> Cell:
        """Return the cell of a method on the slice that figures show."""
        return self._cell(self.shown(label, mask, trained_for))

    # ---- overview --------------------------------------------------------------------------------------------------

    def overview(self, wanted: Iterable[Wanted]) -> Iterator[str]:
        """Say what would be trained and evaluated."""
        wanted = list(wanted)
        images = self.images
        kind = "procedural heads" if images.heads is None else f"label maps in {images.heads}"
        if images.scans is not None:
            kind = f"images of {len(images.scans)} scans seen by simulated coils, {len(images.validation)} to validate"
        yield f"training images: {kind}"
        for group, slices in groupby(self.slices, lambda one: one.group):
            found = list(slices)
            seeds = f", seeds {found[0].index} to {found[-1].index}" if found[0].path is None else ""
            yield f"test set {group}: {len(found)} slices{seeds}"
        trainings = self.trainings(wanted)
        missing = [one for one in trainings if one.weights is None]
        for one in trainings:
            yield f"training {one.name}: {_budget(one) if one.weights is None else 'there'}"
        total = sum(one.minutes or 0 for one in missing)
        yield f"{len(missing)} of {len(trainings)} trainings missing, {total:g} min by budget"
        ready = [one for one in wanted if (t := self.training(one.method, one.trained_for)) is None or t.weights]
        there = sum(self._path(self._cell(one)).is_file() for one in ready)
        yield f"{len(wanted)} evaluations, {there} of them there"


def grouped(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return what shares slice, mask and operator together: the slice is read and calibrated once for all methods."""
    groups: dict[tuple[HeldOutSlice, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.tested, cell.mask, cell.config.operator.model_dump_json()), []).append(cell)
    return list(groups.values())


def _complete(path: Path, keep: bool) -> bool:
    record = read_cell(path)
    return record is not None and (not keep or bool(record["error"]) or path.with_suffix(".npz").is_file())


def _budget(one: Training) -> str:
    return "updates as the plan has them" if one.minutes is None else f"{one.minutes:g} min"
