"""How objects become a reconstruction: files in, result files and figures out, slice by slice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mriinv.compose import Reconstruction, find_weights, make_operator, make_prior, make_solver, resolve_device
from mriinv.config import MaskChoice, RunConfig
from mriinv.core.operator import Operator
from mriinv.core.problem import InverseProblem, Samples, Solution
from mriinv.core.solver import Monitor
from mriinv.data.acquisition import Acquisition
from mriinv.data.masks import make_mask
from mriinv.data.readers import Scan, open_scan
from mriinv.data.results import ResultWriter
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import InputError, SettingsError
from mriinv.files import make_folder, sha256
from mriinv.metrics import Metrics, evaluate
from mriinv.provenance import provenance
from mriinv.registry import registry
from mriinv.report.figure import reconstruction_figure

SIMULATED = "simulated"


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
    outputs = _outputs(config)
    reconstruction = _combine(config)
    make_folder(config.out)
    made_with = provenance(reconstruction.device, config.seed, weights=_weights_record(config))
    for path, out in outputs.items():
        with _open(path) as scan:
            chosen = _chosen_slices(config, path, scan)
            report = InputReport(str(path or f"simulated scan (seed {config.seed})"), out)
            with ResultWriter(out, chosen, config.model_dump(mode="json"), made_with) as writer:
                for number, index in enumerate(chosen):
                    acquisition = _simulated(config) if scan is None else scan.read(index)
                    monitor = observer(report.source, number, len(chosen)) if observer else None
                    work = _Slice(config, reconstruction, acquisition, index, monitor)
                    work.store(writer, report)
                    if index == chosen[len(chosen) // 2]:
                        report.figure = work.draw(out.with_suffix(".png"))
        yield report


class _Slice:
    """One slice on its way from the acquisition to the result file."""

    def __init__(
        self,
        config: RunConfig,
        reconstruction: Reconstruction,
        acquisition: Acquisition,
        index: int,
        monitor: Monitor | None,
    ) -> None:
        full = acquisition.to(reconstruction.device)
        acquired = full if config.mask is None else full.undersampled(_mask(config.mask, full))
        started = time.perf_counter()
        self.index, self.mask = index, acquired.mask
        self.operator: Operator = make_operator(config.operator.name, acquired, **config.operator.settings)
        problem = InverseProblem(self.operator, acquired.kspace, acquired.noise_std)
        self.zero_filled = problem.back_projection()
        self.solution: Solution = reconstruction(problem, seed=config.seed + index, monitor=monitor)
        self.seconds = time.perf_counter() - started
        self.reference = full.reference
        if self.reference is None and config.mask is not None:
            self.reference = self.operator.fully_sampled_image(full.kspace)
        maps = self.operator.exported_maps().get("coil_maps")
        self.support = None if maps is None else (maps.abs().sum(1) > 0)

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

    def draw(self, path: Path) -> Path:
        reconstruction_figure(
            path,
            self.zero_filled[0],
            self.solution.image[0],
            None if self.reference is None else self.reference[0],
            support=None if self.support is None else self.support[0],
            std=self.solution.std[0] if isinstance(self.solution, Samples) else None,
        )
        return path


def plan(config: RunConfig) -> dict[str, Any]:
    """Return what `execute` would do, without reading k-space: configuration, derivations, weights, memory."""
    derivations = registry().match(config.prior.name if config.prior else None, config.solver.name)
    outputs = _outputs(config)
    reconstruction = _combine(config)
    inputs = []
    for path, out in outputs.items():
        with _open(path) as scan:
            found = {"slices": 1, "coils": 8, "matrix": (192, 160)} if scan is None else scan.describe()
        inputs.append({"input": str(path or SIMULATED), "result": str(out), **found})
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
        "memory_estimate_MB": round(memory_estimate(reconstruction, largest["matrix"], largest["coils"]) / 1e6),
    }


def memory_estimate(reconstruction: Reconstruction, matrix: tuple[int, int], coils: int) -> int:
    """Return bytes for one slice: data, maps and work space of the operator, images, parameters and activations."""
    y, x = matrix
    image = 8 * y * x
    total = (4 * coils + 16) * image
    prior = reconstruction.prior
    if prior is not None:
        total += sum(p.numel() * p.element_size() for p in prior.parameters())
        saved: list[int] = []

        def count(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel() * tensor.element_size())
            return tensor

        small = torch.zeros(1, 64, 64, dtype=torch.complex64, device=reconstruction.device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            prior.gradient(small)
        total += 2 * sum(saved) * y * x // (64 * 64)  # what autograd keeps, and as much while it runs
    return total


def _combine(config: RunConfig) -> Reconstruction:
    prior_name = config.prior.name if config.prior else None
    if registry().find("solver", config.solver.name).entry.requires or prior_name is None:
        registry().match(prior_name, config.solver.name)  # before anything heavy
    else:
        prior_name = None  # a solver that takes no prior
    resolve_device(config.device)
    registry().load("operator", config.operator.name).parse_settings(config.operator.settings)
    solver = make_solver(config.solver.name, **config.solver.settings)
    prior = None
    if prior_name is not None and config.prior is not None:
        prior = make_prior(prior_name, weights=config.prior.weights, **config.prior.settings)
    return Reconstruction(prior, solver, config.device)


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
        taken.add(out.resolve())
    return outputs


def _open(path: Path | None) -> AbstractContextManager[Scan | None]:
    return nullcontext() if path is None else open_scan(path, registry().readers())


def _simulated(config: RunConfig) -> Acquisition:
    return simulate_acquisition(seed=config.seed)


def _chosen_slices(config: RunConfig, path: Path | None, scan: Scan | None) -> list[int]:
    count = 1 if scan is None else len(scan)
    if config.slices is None:
        return list(range(count))
    first, _, after = config.slices.partition(":")
    chosen = list(range(int(first), int(after) if after else int(first) + 1))
    if not chosen or chosen[-1] >= count:
        raise SettingsError(f"slices: found {config.slices}; {path or SIMULATED} has slices 0 to {count - 1}")
    return chosen


def _mask(choice: MaskChoice, acquisition: Acquisition) -> Tensor:
    y, x = acquisition.kspace.shape[-2:]
    mask = make_mask(choice.name, (y, x), choice.acceleration, choice.calibration, choice.seed)
    return mask.to(acquisition.kspace.device)
