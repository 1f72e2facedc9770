"""What is trained on and what is tested: scans in folders, their division, and simulated heads for want of them."""

from __future__ import annotations

import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from mriinv.benchmark.plan import HeldOut, Split
from mriinv.config import RunConfig
from mriinv.data.acquisition import Acquisition
from mriinv.data.labels import ENTRY, SUFFIXES
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import open_scan
from mriinv.data.scan_images import middle_slices
from mriinv.data.simulate import SimulatedSlices
from mriinv.errors import InputError, SettingsError
from mriinv.inputs import distinct_names
from mriinv.jobs import Job, find_jobs
from mriinv.manifest import Choice

SIMULATED = "simulated heads"
logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class HeldOutSlice:
    """One fully sampled slice of a test set, or without a path the head of a seed.

    Attributes
    ----------
    group : name of the test set
    index : slice of the file, or the seed
    state : what tells that the file has changed: size and time of the last change
    scan : what the file is called in its set, wherever that is: its name, or its path where names are alike
    """

    group: str
    path: Path | None
    index: int
    state: tuple[int, ...] = ()
    scan: str = "seed"

    @property
    def name(self) -> str:
        return f"{os.path.splitext(self.scan)[0] if self.path else 'head'} {self.index}"

    def load(self, plan: HeldOut, device: torch.device) -> Acquisition:
        """Read or simulate the slice, and prepare it."""
        simulated = SimulatedSlices(0, shape=plan.shape, coils=plan.coils, noise_std=plan.noise_std)
        with simulated if self.path is None else open_scan(self.path) as scan:
            return prepare_acquisition(scan.read(self.index).to(device), plan.preparation)


@dataclass(frozen=True)
class TrainingImages:
    """Where images to train on come from, which scans they are validated on, and which are left to test."""

    heads: Path | None = None
    scans: tuple[Path, ...] | None = None
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()


def training_images(data: Path | None, split: Split, *, tested: bool) -> TrainingImages:
    """Tell label maps from scans, and divide the latter by `split_scans`.

    Parameters
    ----------
    data : label volume, scan, or a folder of either; None for procedural heads
    tested : whether there are test scans elsewhere, so that none have to be kept back
    """
    if data is None:
        return TrainingImages()
    files = sorted(data.glob("*")) if data.is_dir() else [data]
    if any(_is_label_map(file) for file in files):
        return TrainingImages(heads=data)
    paths = [job.path for job in _jobs(data) if job.path is not None]
    train, validation, test = split_scans(paths, split, tested=tested)
    return TrainingImages(None, train, validation, test)


def split_scans(paths: list[Path], split: Split, *, tested: bool = False) -> tuple[tuple[Path, ...], ...]:
    """Divide scans, sorted by name, into those to train, to validate and to test on; with too few, in proportion.

    Raises
    ------
    InputError : fewer scans than parts
    """
    paths = sorted(paths, key=lambda path: path.name)
    wanted = [split.train, split.validation, 0 if tested else split.test]
    if len(paths) < sum(count > 0 for count in wanted):
        wanted[1] = 0
    needed = sum(count > 0 for count in wanted)
    if len(paths) < needed:
        expected = f"at least {needed}: for training{'' if tested else ' and test'}"
        raise InputError(paths[0].parent if paths else "scans", "", f"{len(paths)} scans", expected)
    counts = wanted
    if len(paths) < sum(wanted):
        counts = [count and max(1, len(paths) * count // sum(wanted)) for count in wanted]
        left = len(paths) - sum(counts)  # negative where small parts were made 1: the largest has fewer then
        counts[0 if left > 0 else counts.index(max(counts))] += left
        parts = " + ".join(map(str, counts))
        logger.warning("%d scans instead of %d: %s to train, validate and test on", len(paths), sum(wanted), parts)
    ends = [sum(counts[: part + 1]) for part in range(3)]
    train, validation, test = paths[: ends[0]], paths[ends[0] : ends[1]], paths[ends[1] : ends[2]]
    return tuple(train), tuple(validation), tuple(test)


def held_out_slices(inputs: tuple[Path, ...], kept_back: tuple[Path, ...], plan: HeldOut) -> list[HeldOutSlice]:
    """Return the slices of every test set: each input is one, a folder by its name, a file with that of its folder.

    Without inputs the scans that were kept back are the set, and without those simulated heads.

    Raises
    ------
    SettingsError : two inputs of one name, or the same one twice
    """
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise SettingsError("--test: the same scan or folder twice")
    sets: dict[str, list[Job]] = {}
    for path in inputs:
        name = path.name if path.is_dir() else "/".join(path.with_suffix("").parts[-2:])
        if name in sets:
            raise SettingsError(f"--test {path}: another test set is called '{name}' too; rename one")
        sets[name] = _jobs(path)
    if not inputs and kept_back:
        sets[kept_back[0].parent.name] = [job for path in kept_back for job in _jobs(path)]
    if not sets:
        return [HeldOutSlice(SIMULATED, None, plan.seed + number) for number in range(plan.heads)]
    found = list[HeldOutSlice]()
    for group, jobs in sets.items():
        called = distinct_names([job.path for job in jobs if job.path])
        for job, own_name in list(zip(jobs, called, strict=True))[: plan.scans]:
            state = tuple(number for one in job.files.values() for number in one)
            middle = middle_slices(len(job.slices), plan.slices)
            found += [HeldOutSlice(group, job.path, index, state, own_name.as_posix()) for index in middle]
    return found


def _jobs(path: Path) -> list[Job]:
    """Return every scan that a file, a folder or a pattern stands for."""
    return find_jobs(RunConfig(input=(path,), solver=Choice(name="zero-filled")))


def _is_label_map(file: Path) -> bool:
    if file.suffix != ".npz":
        return file.name.endswith(SUFFIXES)
    try:
        with zipfile.ZipFile(file) as archive:
            return f"{ENTRY}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
