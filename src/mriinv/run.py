"""How objects become a reconstruction: files in, result files and figures out, slice by slice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mriinv.compose import Reconstruction, make_operator
from mriinv.config import RunConfig
from mriinv.core.operator import Operator
from mriinv.core.problem import InverseProblem, Samples, Solution
from mriinv.core.solver import Monitor
from mriinv.data.acquisition import Acquisition
from mriinv.data.results import ResultWriter
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import MriinvError
from mriinv.files import make_folder
from mriinv.jobs import Job, combine, mask_of, open_input, prepare, resolved, settle, weights_record
from mriinv.metrics import Metrics, evaluate
from mriinv.provenance import provenance
from mriinv.report.figure import reconstruction_figure


@dataclass(frozen=True)
class SliceReport:
    """What one slice came to; `acceleration` is acquired locations over those that the reconstruction saw."""

    index: int
    iterations: int
    converged: bool
    seconds: float
    acceleration: float
    metrics: Metrics | None = None
    zero_filled: Metrics | None = None


@dataclass
class InputReport:
    """What one input came to; without a finished slice there is no result."""

    source: str
    result: Path | None = None
    figure: Path | None = None
    complete: bool = False
    slices: list[SliceReport] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None


Observer = Callable[[str, int, int], Monitor]  # source, slice number, number of slices -> monitor of that slice


def execute(config: RunConfig, observer: Observer | None = None) -> Iterator[InputReport]:
    """Reconstruct every input of `config`, one report after another.

    Everything that can be refused is refused before the first reconstruction: components, settings, device, inputs,
    output folder. An error in the data of one input stands in its report and does not end the others; an interruption
    is raised after the report of what was finished.
    """
    config = settle(config)
    reconstruction = combine(config)
    jobs = prepare(config)
    make_folder(config.out)
    for job in jobs:
        report = InputReport(str(job.path or f"simulated scan (seed {config.seed})"))
        stopped: BaseException | None = None
        try:
            _reconstruct(config, reconstruction, job, report, observer)
        except MriinvError as error:
            report.error = str(error)
        except BaseException as error:
            stopped = error
        yield report
        if stopped is not None:
            raise stopped


def _reconstruct(
    config: RunConfig, reconstruction: Reconstruction, job: Job, report: InputReport, observer: Observer | None
) -> None:
    """Reconstruct the slices of one input; `report` says what was finished, also when this does not return."""
    made_with = provenance(reconstruction.device, config.seed, weights=weights_record(config), source=report.source)
    writer = ResultWriter(job.out, job.slices, resolved(config, reconstruction), made_with)
    drawn: _Slice | None = None
    try:
        with writer, open_input(job.path) as scan:
            for number, index in enumerate(job.slices):
                acquisition = simulate_acquisition(seed=config.seed) if scan is None else scan.read(index)
                monitor = observer(report.source, number, len(job.slices)) if observer else None
                work = _Slice(config, reconstruction, acquisition, index, monitor)
                work.store(writer, report)
                if index == job.slices[len(job.slices) // 2]:
                    drawn = work
    finally:
        report.result, report.complete = writer.written, len(writer.finished) == len(job.slices)
        if writer.written not in (None, job.out):
            report.remarks.append(f"incomplete; the complete older result stays in {job.out}")
        if writer.written and drawn:  # the figure follows its result, whose older figure is gone by now
            report.figure = drawn.draw(writer.written.with_suffix(".png"), Path(report.source).name)


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
        full = acquired = acquisition.to(reconstruction.device)
        if config.mask is not None:
            y, x = full.kspace.shape[-2:]
            mask = mask_of(config.mask, (y, x), full.extent)
            acquired = full.undersampled(mask.to(reconstruction.device))
        started = time.perf_counter()
        self.name = " + ".join(part.name for part in (config.prior, config.solver) if part)
        self.index, self.acquisition = index, acquired
        # zero padding was never acquired: against it nothing is accelerated
        self.acceleration = acquired.acceleration / (full.acceleration if full.gapless else 1)
        self.sampling = f"{config.mask.name if config.mask else 'as acquired'}, acceleration {self.acceleration:.2f}"
        self.operator: Operator = make_operator(config.operator.name, acquired, **config.operator.settings)
        self.problem = InverseProblem(self.operator, acquired.kspace, acquired.noise_std)
        self.zero_filled = self.problem.back_projection()
        self.solution: Solution = reconstruction(self.problem, seed=config.seed + index, monitor=monitor)
        self.seconds = time.perf_counter() - started
        self.iterations, self.converged = int(self.solution.iterations[0]), bool(self.solution.converged[0])
        self.reference = full.reference
        if self.reference is None and config.mask is not None:
            self.reference = self.operator.fully_sampled_image(full.kspace)
        self.support = self.operator.support
        self.remarks = [*acquired.remarks, *self.operator.notes]
        if self.reference is not None and full.reference is None and not full.fully_sampled:
            self.remarks.append(
                f"the reference is itself zero-padded: {100 / full.acceleration:.0f} % of its k-space was acquired"
            )
        if not self.converged and not isinstance(self.solution, Samples):
            self.remarks.append(f"stopped after {self.iterations} iterations without meeting the stopping rule")

    def measure(self, image: Tensor) -> Metrics | None:
        if self.reference is None:
            return None
        return evaluate(image, self.reference, self.support)

    def store(self, writer: ResultWriter, report: InputReport) -> None:
        metrics = self.measure(self.solution.image)
        image = self.solution.image[0]
        writer.add(
            self.index,
            image,
            mask=self.acquisition.mask[0].expand(image.shape),  # one form, whatever forms the slices have
            maps={name: value[0] for name, value in self.operator.exported_maps().items()},
            history={name: value[:, 0] for name, value in self.solution.history.items()},
            reference=None if self.reference is None else self.reference[0],
            metrics=metrics,
            samples=self.solution.draws[:, :, 0] if isinstance(self.solution, Samples) else None,
            std=self.solution.std[0] if isinstance(self.solution, Samples) else None,
            solution=self._numbers(),
            remarks=self.remarks,
            header=self.acquisition.header,
        )
        zero_filled = self.measure(self.zero_filled)
        report.slices.append(
            SliceReport(
                self.index, self.iterations, self.converged, self.seconds, self.acceleration, metrics, zero_filled
            )
        )
        report.remarks += [f"slice {self.index}: {remark}" for remark in self.remarks]

    def _numbers(self) -> dict[str, float]:
        scale, noise = self.problem.scale, self.problem.noise_std
        return {
            "iterations": self.iterations,
            "converged": self.converged,
            "acceleration": self.acceleration,
            "scale": float("nan") if scale is None else float(scale[0]),
            "noise_std": float("nan") if noise is None else float(torch.as_tensor(noise).reshape(-1)[0]),
        }

    def draw(self, path: Path, source: str) -> Path:
        return reconstruction_figure(
            path,
            self.zero_filled[0],
            self.solution.image[0],
            None if self.reference is None else self.reference[0],
            support=None if self.support is None else self.support[0],
            std=self.solution.std[0] if isinstance(self.solution, Samples) else None,
            name=self.name,
            title=f"{source}, slice {self.index}",
            sampling=self.sampling,
        )
