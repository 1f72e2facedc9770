"""How objects become a reconstruction: files in, result files and figures out, slice by slice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from mriinv.compose import Reconstruction, find_weights, make_operator, make_prior, make_solver, resolve_device
from mriinv.config import RunConfig
from mriinv.core.capabilities import derive
from mriinv.core.operator import Operator
from mriinv.core.problem import InverseProblem, Samples, Solution
from mriinv.core.solver import Monitor
from mriinv.data.acquisition import Acquisition
from mriinv.data.masks import make_mask
from mriinv.data.readers import Scan, open_scan
from mriinv.data.results import FORMAT, ResultWriter
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import InputError, SettingsError
from mriinv.files import make_folder, sha256
from mriinv.metrics import Metrics, evaluate
from mriinv.provenance import provenance
from mriinv.registry import registry
from mriinv.report.figure import reconstruction_figure

SIMULATED = "simulated"
SIMULATION = {"slices": 1, "coils": 8, "matrix": (192, 160)}  # what `simulate_acquisition` makes
PROBE_PIXELS = 2**18
logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class SliceReport:
    """What one slice came to."""

    index: int
    iterations: int
    converged: bool
    seconds: float
    metrics: Metrics | None = None
    zero_filled: Metrics | None = None


@dataclass
class InputReport:
    """What one input came to."""

    source: str
    result: Path
    figure: Path | None = None
    slices: list[SliceReport] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


Observer = Callable[[str, int, int], Monitor]  # source, slice number, number of slices -> monitor of that slice


def execute(config: RunConfig, observer: Observer | None = None) -> Iterator[InputReport]:
    """Reconstruct every input of `config`, one report after another.

    Everything that can be refused is refused before the first reconstruction: components, settings, device, inputs,
    output folder.
    """
    config = _without_idle_prior(config)
    outputs = _outputs(config)
    reconstruction = _combine(config)
    jobs = [_prepare(config, path, out) for path, out in outputs.items()]
    make_folder(config.out)
    made_with = provenance(reconstruction.device, config.seed, weights=_weights_record(config))
    for job in jobs:
        report = InputReport(str(job.path or f"simulated scan (seed {config.seed})"), job.out)
        with (
            _open(job.path) as scan,
            ResultWriter(job.out, job.slices, config.model_dump(mode="json"), made_with) as writer,
        ):
            for number, index in enumerate(job.slices):
                acquisition = simulate_acquisition(seed=config.seed) if scan is None else scan.read(index)
                monitor = observer(report.source, number, len(job.slices)) if observer else None
                work = _Slice(config, reconstruction, acquisition, job.mask, index, monitor)
                work.store(writer, report)
                if index == job.slices[len(job.slices) // 2]:
                    report.figure = work.draw(job.out.with_suffix(".png"), f"{Path(report.source).name}, slice {index}")
        yield report


@dataclass(frozen=True)
class _Job:
    """One input: which slices, and the mask to undersample them with."""

    path: Path | None
    out: Path
    slices: list[int]
    mask: Tensor | None
    found: dict[str, Any]  # slices, coils, matrix and whatever else the reader knows


def _prepare(config: RunConfig, path: Path | None, out: Path) -> _Job:
    """Open an input and choose slices and mask, so that what does not fit is refused before any work."""
    with _open(path) as scan:
        found: dict[str, Any] = dict(SIMULATION) if scan is None else scan.describe()
    mask = None
    if config.mask is not None:
        choice = config.mask
        y, x = found["matrix"]
        mask = make_mask(choice.name, (y, x), choice.acceleration, choice.calibration, choice.seed)
    return _Job(path, out, _chosen_slices(config, path, found["slices"]), mask, found)


class _Slice:
    """One slice on its way from the acquisition to the result file."""

    def __init__(
        self,
        config: RunConfig,
        reconstruction: Reconstruction,
        acquisition: Acquisition,
        mask: Tensor | None,
        index: int,
        monitor: Monitor | None,
    ) -> None:
        full = acquisition.to(reconstruction.device)
        acquired = full if mask is None else full.undersampled(mask.to(reconstruction.device))
        started = time.perf_counter()
        self.name = " + ".join(part.name for part in (config.prior, config.solver) if part)
        self.index, self.mask = index, acquired.mask
        self.operator: Operator = make_operator(config.operator.name, acquired, **config.operator.settings)
        problem = InverseProblem(self.operator, acquired.kspace, acquired.noise_std)
        self.zero_filled = problem.back_projection()
        self.solution: Solution = reconstruction(problem, seed=config.seed + index, monitor=monitor)
        self.seconds = time.perf_counter() - started
        self.reference = full.reference
        if self.reference is None and config.mask is not None:
            self.reference = self.operator.fully_sampled_image(full.kspace)
        self.support = self.operator.support

    def measure(self, image: Tensor) -> Metrics | None:
        if self.reference is None:
            return None
        return evaluate(image, self.reference, self.support)

    def store(self, writer: ResultWriter, report: InputReport) -> None:
        metrics = self.measure(self.solution.image)
        sampled = isinstance(self.solution, Samples)
        writer.add(
            self.index,
            self.solution.image[0],
            mask=self.mask[0],
            maps={name: value[0] for name, value in self.operator.exported_maps().items()},
            history={name: value[:, 0] for name, value in self.solution.history.items()},
            reference=None if self.reference is None else self.reference[0],
            metrics=metrics.as_dict() if metrics else None,
            samples=self.solution.draws[:, :, 0] if isinstance(self.solution, Samples) else None,
            std=self.solution.std[0] if isinstance(self.solution, Samples) else None,
        )
        iterations, converged = int(self.solution.iterations[0]), bool(self.solution.converged[0])
        report.slices.append(
            SliceReport(self.index, iterations, converged, self.seconds, metrics, self.measure(self.zero_filled))
        )
        remarks = list(self.operator.notes)
        if not converged and not sampled:
            remarks.append(f"stopped after {iterations} iterations without meeting the stopping rule")
        report.remarks += [f"slice {self.index}: {remark}" for remark in remarks]

    def draw(self, path: Path, title: str) -> Path:
        return reconstruction_figure(
            path,
            self.zero_filled[0],
            self.solution.image[0],
            None if self.reference is None else self.reference[0],
            support=None if self.support is None else self.support[0],
            std=self.solution.std[0] if isinstance(self.solution, Samples) else None,
            name=self.name,
            title=title,
        )


def plan(config: RunConfig) -> dict[str, Any]:
    """Return what `execute` would do, without reading k-space: configuration, derivations, weights, memory."""
    config = _without_idle_prior(config)
    derivations = registry().match(config.prior.name if config.prior else None, config.solver.name)
    outputs = _outputs(config)
    reconstruction = _combine(config)
    jobs = [_prepare(config, path, out) for path, out in outputs.items()]
    inputs = [{"input": str(job.path or SIMULATED), "result": str(job.out), **job.found} for job in jobs]
    largest = max(inputs, key=lambda row: row["coils"] * row["matrix"][0] * row["matrix"][1])
    return {
        "configuration": {
            **config.model_dump(mode="json"),
            "solver": {"name": config.solver.name, "settings": reconstruction.solver.settings.model_dump(mode="json")},
            "prior": reconstruction.prior
            and {"name": config.prior and config.prior.name, "settings": reconstruction.prior.settings.model_dump()},
        },
        "derivations": [str(d) for d in derivations],
        "weights": _weights_record(config),
        "device": str(reconstruction.device),
        "inputs": inputs,
        "memory_estimate_MB": round(memory_estimate(reconstruction, largest["matrix"], largest["coils"]) / 1e6, 1),
    }


def memory_estimate(reconstruction: Reconstruction, matrix: tuple[int, int], coils: int) -> int:
    """Return bytes for one slice: data, maps and work space of the operator, images, parameters and activations."""
    y, x = matrix
    image = 8 * y * x
    total = (4 * coils + 16) * image
    prior = reconstruction.prior
    if prior is not None:
        parameters = {p.data_ptr(): p.nbytes for p in prior.parameters()}
        saved: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in parameters:
                saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        # an energy may be tied to its matrix size; one too large to try is estimated from a part of it
        rows, columns = (y, x) if y * x <= PROBE_PIXELS else (64, 64)
        probe = torch.zeros(1, rows, columns, dtype=torch.complex64, device=reconstruction.device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if derive(prior.provides, ["gradient"]) is not None:
                prior.gradient(probe)
            else:
                prior.denoise(probe, prior.noise_range[0] if prior.noise_range else 0.01)
        activations = 2 * sum(saved.values())  # what autograd keeps, and as much while it runs
        total += sum(parameters.values()) + activations * y * x // (rows * columns)
    return total


def _combine(config: RunConfig) -> Reconstruction:
    chosen = config.prior
    registry().match(chosen.name if chosen else None, config.solver.name)  # before anything heavy
    resolve_device(config.device)
    registry().load("operator", config.operator.name).parse_settings(config.operator.settings)
    solver = make_solver(config.solver.name, **config.solver.settings)
    prior = make_prior(chosen.name, weights=chosen.weights, **chosen.settings) if chosen else None
    return Reconstruction(prior, solver, config.device)


def _without_idle_prior(config: RunConfig) -> RunConfig:
    """Leave out, with a warning, the prior of a recipe whose solver was replaced by one that takes none."""
    if config.prior is None or registry().find("solver", config.solver.name).entry.requires:
        return config
    logger.warning("solver '%s' takes no prior: '%s' is not used", config.solver.name, config.prior.name)
    return config.model_copy(update={"prior": None})


def _weights_record(config: RunConfig) -> dict[str, str] | None:
    if config.prior is None:
        return None
    path, checksum = find_weights(config.prior.name, config.prior.weights)
    return None if path is None else {"file": path.name, "sha256": checksum or sha256(path)}


def _outputs(config: RunConfig) -> dict[Path | None, Path]:
    """Return the result file of each input, and refuse what would overwrite an input or another result."""
    if not config.input:
        return {None: config.out / f"{SIMULATED}.h5"}
    outputs: dict[Path | None, Path] = {path: config.out / f"{path.stem}.h5" for path in config.input}
    taken = {path.resolve() for path in config.input}
    for path, out in outputs.items():
        if out.resolve() in taken:
            raise InputError(out, "", f"a result in the place of an input or of the result of {path}", "another --out")
        if out.is_file() and not _is_result(out):
            raise InputError(out, "", "a file that is no result of mriinv", "another --out, or the file out of the way")
        taken.add(out.resolve())
    return outputs


def _is_result(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


def _open(path: Path | None) -> AbstractContextManager[Scan | None]:
    return nullcontext() if path is None else open_scan(path, registry().readers())


def _chosen_slices(config: RunConfig, path: Path | None, count: int) -> list[int]:
    if config.slices is None:
        return list(range(count))
    first, _, after = config.slices.partition(":")
    chosen = range(int(first), int(after) if after else int(first) + 1)
    if not chosen or chosen[-1] >= count:
        raise SettingsError(f"slices: found {config.slices}; {path or SIMULATED} has slices 0 to {count - 1}")
    return list(chosen)
