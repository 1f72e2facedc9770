"""How objects become a reconstruction: files in, result files and figures out, slice by slice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mriinv.calibration import Calibration
from mriinv.compose import Reconstruction, make_problem, make_solver, with_reference
from mriinv.config import RunConfig
from mriinv.core.problem import Samples, Solution
from mriinv.core.sampler import Sampler
from mriinv.core.solver import Monitor
from mriinv.data.acquisition import Acquisition
from mriinv.data.preparation import centre_crop, prepare_acquisition
from mriinv.data.result_writer import QUANTILES, ResultWriter
from mriinv.data.results import attributes, read_result
from mriinv.errors import InputError, MriinvError, UnwritableError
from mriinv.files import make_folder
from mriinv.inputs import find_scans
from mriinv.jobs import (
    Job,
    calibrated,
    combine,
    mask_for,
    measures_images,
    prepare,
    resolved,
    settle,
    weights_record,
)
from mriinv.manifest import Choice, Kind
from mriinv.metrics import Metrics, evaluate
from mriinv.provenance import code_of, provenance
from mriinv.registry import registry
from mriinv.report.figure import reconstruction_figure

ZERO_FILLED, ADJOINT, SUPPORT = "zero_filled", "adjoint", "support"  # datasets of a result beside those of the operator
INTERVAL = 0.9  # level of the calibrated interval around the mean magnitude
MAP_SOLVER = "mm-cg"  # finds the maximum of a posterior that was sampled


@dataclass(frozen=True)
class SliceReport:
    """What one slice came to; `acceleration` is acquired locations over those that the reconstruction saw.

    `sampling` are the numbers of `Samples.numbers`, empty for a point estimate.
    """

    index: int
    iterations: int
    converged: bool
    seconds: float
    acceleration: float
    metrics: Metrics | None = None
    zero_filled: Metrics | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


@dataclass
class InputReport:
    """What one input came to; without a finished slice there is no result. `kept` slices are of an earlier run."""

    source: str
    result: Path | None = None
    figure: Path | None = None
    exported: list[Path] = field(default_factory=list)
    complete: bool = False
    slices: list[SliceReport] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None


Observer = Callable[[str, int, int], Monitor]  # source, slice number, number of slices -> monitor of that slice


def execute(config: RunConfig, observer: Observer | None = None, *, restart: bool = False) -> Iterator[InputReport]:
    """Reconstruct every input of `config`, one report after another.

    Everything that can be refused is refused before the first reconstruction: components, settings, device, inputs,
    output folder. An error in the data of one input stands in its report and does not end the others; an interruption
    is raised after the report of what was finished. Slices that an earlier run of the same configuration, versions and
    input finished are kept, unless `restart`. What was left out of folders and patterns is reported at the end.
    """
    config, calibration, remark = calibrated(settle(config))
    reconstruction = combine(config)
    scans, left_out = find_scans(config.input)
    jobs = prepare(config, scans=scans)
    make_folder(config.out)
    for job in jobs:
        report = InputReport(job.source)
        report.remarks += [remark] if remark else []
        stopped: BaseException | None = None
        try:
            _reconstruct(config, reconstruction, calibration, job, report, observer, restart)
        except MriinvError as error:
            report.error = str(error)
        except BaseException as error:
            stopped = error
        yield report
        if stopped is not None:
            raise stopped
    yield from (InputReport(refused.source, error=str(refused)) for refused in left_out)


def _reconstruct(
    config: RunConfig,
    reconstruction: Reconstruction,
    calibration: Calibration | None,
    job: Job,
    report: InputReport,
    observer: Observer | None,
    restart: bool,
) -> None:
    """Reconstruct the slices of one input; `report` says what was finished, also when this does not return."""
    made_with = provenance(
        reconstruction.device,
        config.seed,
        weights=weights_record(config),
        components=_components(config),
        calibration=calibration and calibration.checksum,
        source=report.source,
        files=job.files,
    )
    writer = ResultWriter(job.out, job.slices, resolved(config, reconstruction), made_with, restart=restart)
    report.kept = list(writer.finished)
    try:
        with writer:
            _add_missing(config, reconstruction, calibration, job, report, observer, writer)
    finally:
        report.result, report.complete = writer.written, not writer.missing
        if writer.written not in (None, job.out):
            report.remarks.append(f"incomplete; the complete older result stays in {job.out}")
        elif writer.replaced:
            report.remarks.append("replaces an older result of other settings, slices, input or versions")
        if writer.written:
            try:
                report.figure = _figure(writer.written, job.slices[len(job.slices) // 2])
            except MriinvError as error:  # it must not take the place of what ended the work
                report.error = str(error)


def _components(config: RunConfig) -> dict[str, str]:
    """Return which code the parts of a run are: a changed plug-in makes another result."""
    chosen: dict[Kind, Choice | None] = {"operator": config.operator, "prior": config.prior, "solver": config.solver}
    return {kind: code_of(kind, choice.name) for kind, choice in chosen.items() if choice is not None}


def _add_missing(
    config: RunConfig,
    reconstruction: Reconstruction,
    calibration: Calibration | None,
    job: Job,
    report: InputReport,
    observer: Observer | None,
    writer: ResultWriter,
) -> None:
    """Reconstruct what the writer does not have yet; a slice that cannot be does not end the others."""
    if not writer.missing:
        return
    failed: dict[int, MriinvError] = {}
    with job.open() as scan:
        for index in writer.missing:
            number = job.slices.index(index)
            monitor = observer(report.source, number, len(job.slices)) if observer else None
            try:
                one = _Slice(config, reconstruction, calibration, scan.read(index), index, monitor)
                one.store(writer, report)
            except UnwritableError:
                raise
            except MriinvError as error:
                failed[index] = error
    if failed:
        first = next(iter(failed.values()))
        others = ", ".join(map(str, list(failed)[1:]))
        raise MriinvError(f"{first}; slices {others} fail too" if others else str(first))


def _figure(path: Path, preferred: int) -> Path:
    """Draw one slice of a result beside it; an existing figure belongs to this very result."""
    figure = path.with_suffix(".png")
    if figure.exists():
        return figure
    finished = attributes(path)["finished"].tolist()
    index = preferred if preferred in finished else finished[-1]
    result = read_result(path, only=[index])
    fields = {name: values[0] for name, values in result.arrays.items()}
    measured = "psnr" in result.metrics and not result.metrics["psnr"].isnan().any()
    mask, names = result.settings["mask"], [result.settings[part] for part in ("prior", "solver")]
    operator = result.settings["operator"]["name"]
    acquired = operator if registry().load("operator", operator).measures_images else "as acquired"
    return reconstruction_figure(
        figure,
        fields.get(ZERO_FILLED),
        result.image[0],
        fields["reference"] if measured else None,
        support=fields.get(SUPPORT),
        std=fields.get("std"),
        name=" + ".join(choice["name"] for choice in names if choice),
        title=f"{Path(result.provenance['source']).name}, slice {index}",
        sampling=f"{mask['name'] if mask else acquired}, acceleration {result.solution['acceleration'][0]:.2f}",
    )


class _Slice:
    """One slice on its way from the acquisition to the result file."""

    def __init__(
        self,
        config: RunConfig,
        reconstruction: Reconstruction,
        calibration: Calibration | None,
        acquisition: Acquisition,
        index: int,
        monitor: Monitor | None,
    ) -> None:
        full = prepare_acquisition(acquisition.to(reconstruction.device), config.preparation)
        self.images_measured = measures_images(config)
        own_reference = full.reference is not None
        if self.images_measured:
            full = with_reference(full)
        acquired = full
        if config.mask is not None:
            acquired = full.undersampled(mask_for(config.mask, full))
        started = time.perf_counter()
        self.calibration = calibration
        self.index, self.acquisition, self.crop = index, acquired, config.preparation.crop
        # zero padding was never acquired: against it nothing is accelerated
        self.acceleration = acquired.acceleration / (full.acceleration if full.gapless else 1)
        if self.images_measured:
            self.acceleration = 1.0
        seed = config.seed + index
        self.problem = make_problem(acquired, config.operator.name, seed=seed, **config.operator.settings)
        self.operator = self.problem.operator
        self.solution: Solution = reconstruction(self.problem, seed=seed, monitor=monitor)
        self.seconds = time.perf_counter() - started
        prior = reconstruction.prior
        self.map_image: Tensor | None = None
        if isinstance(reconstruction.solver, Sampler) and prior is not None and "energy" in prior.provides:
            map_solver = make_solver(MAP_SOLVER, robust=reconstruction.solver.settings.robust)
            map_estimate = Reconstruction(prior, map_solver, str(reconstruction.device))
            self.map_image = map_estimate(self.problem, seed=seed).image
        self.iterations, self.converged = int(self.solution.iterations[0]), bool(self.solution.converged[0])
        self.sampling = self.solution.numbers() if isinstance(self.solution, Samples) else {}
        comparable = full.reference is not None or config.mask is not None
        self.reference = self.operator.reference_image(full) if comparable else None
        self.remarks = [*acquired.remarks, *self.operator.notes, *self.solution.notes]
        if self.reference is not None and not own_reference and not full.fully_sampled:
            self.remarks.append(
                f"the reference is itself zero-padded: {100 / full.acceleration:.0f} % of its k-space was acquired"
            )
        if not self.converged and not self.solution.notes and not isinstance(self.solution, Samples):
            self.remarks.append(f"stopped after {self.iterations} iterations without meeting the stopping rule")

    def store(self, writer: ResultWriter, report: InputReport) -> None:
        """Write the slice, cropped to what was asked for, and report what it came to."""
        samples = self.solution if isinstance(self.solution, Samples) else None
        image, adjoint = self._cropped(self.solution.image), self._cropped(self.problem.back_projection())
        reference, support = self._cropped(self.reference), self._cropped(self.operator.support)
        metrics, before = self._measured(image, reference, support), None
        if not self.images_measured:  # the adjoint of other operators has no units of an image
            before = self._measured(adjoint, reference, support)
        maps = {name: self._cropped(value)[0] for name, value in self.operator.exported_maps().items()}
        maps |= {
            ADJOINT if self.images_measured else ZERO_FILLED: adjoint[0],
            **({} if support is None else {SUPPORT: support[0]}),
            **({} if self.map_image is None else {"map": self._cropped(self.map_image)[0]}),
        }
        if samples is not None:
            maps |= {
                "std": self._cropped(samples.std)[0],
                "mean_magnitude": self._cropped(samples.mean_magnitude)[0],
                "magnitude_std": self._cropped(samples.magnitude_std)[0],
                "quantiles": self._cropped(samples.quantiles(QUANTILES))[:, 0],
            }
            sampling = self.acquisition.sampling
            if self.calibration is not None and samples.draws.shape[:2].numel() < 2:
                self.remarks.append("no half_width_90: one sample has no standard deviation")
            elif self.calibration is not None and self.calibration.applies(sampling):
                maps["half_width_90"] = self._cropped(self.calibration.half_width(samples, INTERVAL, sampling))[0]
            elif self.calibration is not None:
                self.remarks.append(f"no half_width_90: nothing was calibrated for masks of this kind ({sampling})")
        writer.add(
            self.index,
            image[0],
            # one form, whatever forms the slices have
            mask=self.acquisition.mask[0].expand(self.acquisition.kspace.shape[-2:]),
            maps=maps,
            history={
                **{name: value[:, 0] for name, value in self.solution.history.items()},
                **{name: value[..., 0] for name, value in (samples.traces.items() if samples else ())},
            },
            reference=None if reference is None else reference[0],
            metrics=metrics,
            samples=self._cropped(samples.draws)[:, :, 0] if samples else None,
            solution=self._numbers(),
            remarks=self.remarks,
            geometry=self.acquisition.geometry,
            header=self.acquisition.header,
        )
        report.slices.append(
            SliceReport(
                self.index,
                self.iterations,
                self.converged,
                self.seconds,
                self.acceleration,
                metrics,
                before,
                self.sampling,
            )
        )
        report.remarks += [f"slice {self.index}: {remark}" for remark in self.remarks]

    def _measured(self, image: Tensor, reference: Tensor | None, support: Tensor | None) -> Metrics | None:
        if reference is None:
            return None
        try:
            return evaluate(image, reference, support)
        except InputError as error:  # an empty slice at the end of a volume; its image is worth keeping
            remark = f"without metrics: {error}"
            self.remarks += [remark] if remark not in self.remarks else []
            return None

    def _cropped(self, image: Any) -> Any:
        return centre_crop(image, self.crop)

    def _numbers(self) -> dict[str, float]:
        scale, noise = self.problem.scale, self.problem.noise_std
        return {
            "iterations": self.iterations,
            "converged": self.converged,
            "seconds": self.seconds,
            "acceleration": self.acceleration,
            "scale": float(scale[0]),
            "noise_std": float("nan") if noise is None else float(noise[0]),
            **self.sampling,
        }
