"""What a run consists of: settled configuration, components, and for each input its slices and its result file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mriinv.calibration import Calibration, calibration_path, read_calibration
from mriinv.compose import Reconstruction, find_weights, make_prior, make_solver, resolve_device
from mriinv.config import SIMULATION_MASK, MaskChoice, RunConfig
from mriinv.data.acquisition import Acquisition
from mriinv.data.mask_file import read_mask
from mriinv.data.masks import draw_mask
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import Scan, open_scan
from mriinv.data.results import is_result, partial_path
from mriinv.data.simulate import SimulatedSlices
from mriinv.errors import InputError, SettingsError
from mriinv.inputs import find_scans
from mriinv.registry import registry

logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class Job:
    """One input: its slices, and what is known before any k-space is read."""

    path: Path | None  # None: simulated slices
    seed: int  # of these
    slices: list[int]
    found: dict[str, Any]  # slices, coils, matrix and whatever else the reader knows
    files: dict[str, list[int]]  # size and time of the last change of all files that the result depends on

    @property
    def source(self) -> str:
        """What the input is called."""
        return str(self.path or f"simulated scan (seed {self.seed})")

    @property
    def middle(self) -> int:
        """The middle one of the slices."""
        return self.slices[len(self.slices) // 2]

    def open(self) -> Scan:
        """Open the input."""
        return _open(self.path, self.seed, self.found["slices"])


def settle(config: RunConfig) -> RunConfig:
    """Leave out, with a warning, a prior that the solver does not take, and give the mask its seed.

    The mask that a simulated scan has unless told otherwise is left out for an operator that measures images.

    Raises
    ------
    SettingsError : any other mask for such an operator
    """
    changes: dict[str, Any] = {}
    if config.prior is not None and not registry().find("solver", config.solver.name).entry.requires:
        logger.warning("solver '%s' takes no prior: '%s' is not used", config.solver.name, config.prior.name)
        changes["prior"] = None
    if config.mask is not None and measures_images(config):
        if config.input or config.mask != MaskChoice(**SIMULATION_MASK):
            raise SettingsError(
                f"mask: found '{config.mask.name}'; operator '{config.operator.name}' measures the fully sampled "
                "image, which no mask undersamples: leave it out"
            )
        changes["mask"] = None
    elif config.mask is not None and config.mask.seed is None:
        changes["mask"] = config.mask.model_copy(update={"seed": config.seed})
    return config.model_copy(update=changes)


def measures_images(config: RunConfig) -> bool:
    """Say whether the operator measures the fully sampled image of a scan instead of its k-space."""
    return bool(registry().load("operator", config.operator.name).measures_images)


def combine(config: RunConfig) -> Reconstruction:
    """Build prior and solver, refusing what does not fit before anything heavy."""
    chosen = config.prior
    registry().match(chosen.name if chosen else None, config.solver.name)
    resolve_device(config.device)
    registry().load("operator", config.operator.name).parse_settings(config.operator.settings)
    solver = make_solver(config.solver.name, **config.solver.settings)
    torch.manual_seed(config.seed)  # of an untrained prior; everything else draws from explicit generators
    prior = make_prior(chosen.name, weights=chosen.weights, **chosen.settings) if chosen else None
    return Reconstruction(prior, solver, config.device)


@dataclass(frozen=True)
class Run:
    """A settled configuration, its prior and solver, and the calibration in use; `remark` says which, or why none."""

    config: RunConfig
    reconstruction: Reconstruction
    calibration: Calibration | None = None
    remark: str = ""


def set_up(config: RunConfig) -> Run:
    """Settle a configuration, build prior and solver, and take the temperature of a calibration beside the weights.

    One for another solver says nothing here, nor does any where the temperature is set. One for other weights or other
    settings is not used, and the remark says why.
    """
    config = settle(config)
    run = Run(config, combine(config))
    chosen, solver = config.prior, config.solver
    weights = find_weights(chosen.name, chosen.weights) if chosen else None
    if weights is None or not os.path.exists(path := calibration_path(weights.path)):
        return run
    found = read_calibration(path)
    if found.solver != solver.name or "temperature" in solver.settings:
        return run
    prior = run.reconstruction.prior
    assert prior is not None
    settings = [part.settings.model_dump(mode="json") for part in (prior, run.reconstruction.solver)]
    if different := found.mismatch(weights.sha256, config.operator.name, *settings):
        return replace(run, remark=f"{path.name} is not used: {different}")
    masks = ", ".join(one.mask for one in found.coverage if one.fitted)
    remark = f"calibrated by {path.name}, fitted on {masks or 'its masks'}"
    if found.scale:
        sure = found.slices / (found.slices + 1)
        remark += f" of {found.slices} slices: intervals hold at least {100 * sure:.0f} % of what they promise"
    sampler = run.reconstruction.solver.changed(temperature=found.temperature)
    return Run(config, Reconstruction(prior, sampler, config.device), found, remark)


def resolved(run: Run) -> dict[str, Any]:
    """Return what determines a result: the configuration with every setting of every component."""
    content = run.config.model_dump(mode="json", exclude={"input", "out"})
    operator, parts = run.config.operator, run.reconstruction
    settings = {
        "operator": registry().load("operator", operator.name).parse_settings(operator.settings),
        "prior": parts.prior and parts.prior.settings,
        "solver": parts.solver.settings,
    }
    for part, values in settings.items():
        if values is not None:
            content[part]["settings"] = values.model_dump(mode="json")
    return content


def weights_record(config: RunConfig) -> dict[str, str] | None:
    """Return the file name and the checksum of the prior's weights."""
    if config.prior is None:
        return None
    weights = find_weights(config.prior.name, config.prior.weights)
    return None if weights is None else {"file": weights.path.name, "sha256": weights.sha256}


def prepare(config: RunConfig, simulated: int = 1, scans: Sequence[Path] | None = None) -> list[Job]:
    """Open every input and choose slices, so that what does not fit is refused before any work.

    Parameters
    ----------
    simulated : number of slices without an input
    scans : that the input stands for, where that is known
    """
    if scans is None:
        scans, left_out = find_scans(config.input)
        if left_out and not scans:
            raise next(iter(left_out.values()))
    inputs: Sequence[Path | None] = scans if config.input else [None]
    jobs = []
    for path in inputs:
        with _open(path, config.seed, simulated) as scan:
            found = scan.describe()
        if config.mask is not None:
            y, x = config.preparation.cropped(found["matrix"])
            mask = mask_of(config.mask, (y, x), (0, y, 0, x))
            found["achieved_acceleration"] = round(mask.numel() / int(mask.sum()), 3)
        place = None if path is None else Path(found.get("path", path))  # a reader may find its file beside the name
        slices = _chosen_slices(config, path, found["slices"])
        jobs.append(Job(path, config.seed, slices, found, _states(config, place)))
    return jobs


def full_slices(
    config: RunConfig, jobs: Iterable[Job], choose: Callable[[Job], Iterable[int]]
) -> Iterator[Acquisition]:
    """Read, and prepare on the device of `config`, slices of its scans, to be undersampled in retrospect.

    Parameters
    ----------
    jobs : the scans
    choose : which slices of a scan
    """
    device = resolve_device(config.device)
    for job in jobs:
        with job.open() as scan:
            for index in choose(job):
                yield prepare_acquisition(scan.read(index).to(device), config.preparation)


def _open(path: Path | None, seed: int, simulated: int) -> Scan:
    return SimulatedSlices(seed, simulated) if path is None else open_scan(path)


def mask_of(choice: MaskChoice, grid: tuple[int, int], extent: tuple[int, int, int, int]) -> Tensor:
    """Return the mask of a settled configuration for data acquired in `extent`."""
    if choice.file is not None:
        return read_mask(choice.file, grid)
    return draw_mask(choice.name, grid, extent, choice.acceleration, choice.calibration, choice.seed or 0)


def mask_for(choice: MaskChoice, acquisition: Acquisition) -> Tensor:
    """Return the mask of a settled configuration for an acquisition."""
    y, x = acquisition.kspace.shape[-2:]
    return mask_of(choice, (y, x), acquisition.extent)


def _states(config: RunConfig, path: Path | None) -> dict[str, list[int]]:
    """Return size in bytes and time of the last change in ns of the input and of the files that settings name."""
    settings = [registry().load(kind, part.name).parse_settings(part.settings) for kind, part in config.parts.items()]
    named = [value for one in settings for _, value in one if isinstance(value, Path)]
    named += [file for file in (config.preparation.maps, config.mask and config.mask.file) if file]
    input_files = [] if path is None else [path, *(path.with_suffix(".hdr"),) * (path.suffix == ".cfl")]
    stats = {str(file): file.stat() for file in (*input_files, *named) if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def result_files(folder: Path, jobs: Sequence[Job]) -> list[Path]:
    """Return the result file of each job in a folder.

    Inputs of the same name in several folders have their results in folders of the same names.

    Raises
    ------
    InputError : one would overwrite an input, another result, or a file that is none
    """
    results = list[Path]()
    scans = [job.path for job in jobs if job.path is not None]
    alike = len({path.stem for path in scans}) < len(scans)  # as with one folder for each subject
    places = {path: Path(os.path.abspath(path)).parent for path in scans}  # a link counts by its own name
    root = os.path.commonpath(places.values()) if alike else ""
    taken: dict[Path, str] = {path.resolve(): "" for path in scans}
    for path in (job.path for job in jobs):
        subfolder = places[path].relative_to(root) if alike and path else Path()
        out = folder / subfolder / f"{(path or SimulatedSlices.path).stem}.h5"
        if out.resolve() in taken:
            other = taken[out.resolve()]
            where = f"the place of the result of {other}" if other else "the place of an input"
            raise InputError(out, "", f"the result of {path} in {where}", "another --out, or other file names")
        for result in (out, partial_path(out)):
            figure = result.with_suffix(".png")
            other_file = result if result.is_file() else figure
            if other_file.is_file() and not is_result(result):
                expected = "another --out, or the file out of the way"
                raise InputError(other_file, "", "a file that is no result of mriinv", expected)
        taken |= {out.resolve(): str(path), partial_path(out).resolve(): str(path)}
        results.append(out)
    return results


def _chosen_slices(config: RunConfig, path: Path | None, count: int) -> list[int]:
    if config.slices is None:
        return list(range(count))
    first, _, after = config.slices.partition(":")
    chosen = range(int(first), int(after) if after else int(first) + 1)
    if not chosen or chosen[-1] >= count:
        raise SettingsError(
            f"slices: found {config.slices}; {path or SimulatedSlices.path} has slices 0 to {count - 1}"
        )
    return list(chosen)
