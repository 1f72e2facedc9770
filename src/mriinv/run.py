"""How files become results and figures, input by input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mriinv.config import RunConfig
from mriinv.core.solver import Observer
from mriinv.data.result_writer import ResultWriter
from mriinv.data.results import attributes, is_export, read_result
from mriinv.errors import MriinvError, UnwritableError
from mriinv.files import make_folder
from mriinv.inputs import find_scans
from mriinv.jobs import Job, find_jobs, result_files
from mriinv.provenance import provenance
from mriinv.registry import registry
from mriinv.report.figure import reconstruction_figure
from mriinv.setup import Run, resolved, set_up, weights_record
from mriinv.slices import SUPPORT, ZERO_FILLED, SliceReport, reconstruct_slice, store_slice, stored_reports


@dataclass
class InputReport:
    """What one input came to; without a finished slice there is no result.

    `slices` are all that are finished, those `kept` from an earlier run first, as its result has them.
    """

    source: str
    result: Path | None = None
    figure: Path | None = None
    exported: list[Path] = field(default_factory=list)
    complete: bool = False
    slices: list[SliceReport] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None


def execute(config: RunConfig, observer: Observer | None = None, *, restart: bool = False) -> Iterator[InputReport]:
    """Reconstruct every input of `config`, one report after another.

    Everything that can be refused is refused before the first reconstruction: components, settings, device, inputs,
    output folder. An error in the data of one input stands in its report and does not end the others; an interruption
    is raised after the report of what was finished. Slices that an earlier run of the same configuration, versions and
    input finished are kept, unless `restart`. What was left out of folders and patterns is reported at the end.
    """
    run = set_up(config)
    config = run.config
    scans, left_out = find_scans(config.input)
    jobs = find_jobs(config, scans=scans)
    results = result_files(config.out, jobs)
    make_folder(config.out)
    for job, result in zip(jobs, results, strict=True):
        report = InputReport(job.source)
        report.remarks += [run.remark] if run.remark else []
        stopped: BaseException | None = None
        try:
            _reconstruct(run, job, result, report, observer, restart)
        except MriinvError as error:
            report.error = str(error)
        except BaseException as error:
            stopped = error
        yield report
        if stopped is not None:
            raise stopped
    yield from (InputReport(str(path), error=str(error)) for path, error in left_out.items())


def _reconstruct(run: Run, job: Job, out: Path, report: InputReport, observer: Observer | None, restart: bool) -> None:
    """Reconstruct the slices of one input; `report` says what was finished, also when this does not return."""
    made_with = provenance(
        run.reconstruction.device,
        run.config.seed,
        weights=weights_record(run),
        components=run.components,
        calibration=run.calibration and run.calibration.checksum,
        source=report.source,
        files=job.files,
    )
    writer = ResultWriter(out, job.slices, resolved(run), made_with, restart=restart)
    report.kept = list(writer.finished)
    try:
        with writer:
            _add_missing(run, job, report, observer, writer)
    finally:
        report.result, report.complete = writer.written, not writer.missing
        if writer.written not in (None, out):
            report.remarks.append(f"incomplete; the complete older result stays in {out}")
        elif writer.replaced:
            report.remarks.append("replaces an older result of other settings, slices, input or versions")
        if writer.written:
            try:
                if report.kept:
                    kept = stored_reports(writer.written, report.kept)
                    report.slices = [*(one for one, _ in kept), *report.slices]
                    said = [f"slice {one.index}: {remark}" for one, remarks in kept for remark in remarks]
                    report.remarks = [*said, *report.remarks]
                report.figure = _figure(writer.written, job.middle)
            except MriinvError as error:  # it must not take the place of what ended the work
                report.error = str(error)


def _add_missing(run: Run, job: Job, report: InputReport, observer: Observer | None, writer: ResultWriter) -> None:
    """Reconstruct what the writer does not have yet; a slice that cannot be does not end the others."""
    if not writer.missing:
        return
    failed: dict[int, MriinvError] = {}
    with job.open() as scan:
        for index in writer.missing:
            number = job.slices.index(index)
            monitor = observer(report.source, number, len(job.slices)) if observer else None
            try:
                # without a name, so that it is not kept while the next one is made
                stored, remarks = store_slice(run, reconstruct_slice(run, scan.read(index), index, monitor), writer)
                report.slices.append(stored)
                report.remarks += [f"slice {index}: {remark}" for remark in remarks]
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
    if figure.exists() and not is_export(figure):
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
