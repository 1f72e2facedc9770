"""``mriinv run``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv.cli.group import INTERRUPTED, combination, combination_options, file_type, json_option, main, progress
from mriinv.errors import MriinvError, SettingsError
from mriinv.registry import registry
from mriinv.report import text

if TYPE_CHECKING:
    from mriinv.run import InputReport


@main.command()
@click.argument("inputs", nargs=-1, type=file_type)
@combination_options
@click.option("--samples", type=click.IntRange(min=1), help="Posterior samples, for solvers that draw them.")
@click.option(
    "--calibration", type=file_type, help="What mriinv calibrate wrote, instead of what there is beside the weights."
)
@click.option("--out", type=file_type, help="Folder of result files and figures  [default: result]")
@click.option("--format", "formats", multiple=True, metavar="NAME", help="Also write cfl, nii, nii.gz or png.")
@click.option("--restart", is_flag=True, help="Forget the slices that an earlier run finished.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and stop.")
@json_option
@click.pass_context
def run(
    context: click.Context,
    inputs: tuple[Path, ...],
    recipe: str | None,
    run_file: Path | None,
    assignments: tuple[str, ...],
    samples: int | None,
    formats: tuple[str, ...],
    as_json: bool,
    restart: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Reconstruct k-space files, or without any a simulated scan.

    INPUTS are files (fastMRI HDF5, ISMRMRD, BART .cfl, npz), folders or patterns. Each file gives one HDF5 with the
    images and everything that made them, and one PNG of its middle slice. The same command again goes on where it was
    interrupted.
    """
    from mriinv.config import build_config

    if samples is not None:
        assignments = (*assignments, f"solver.samples={samples}")
    config = build_config(recipe, run_file, combination(inputs, given), assignments)
    if samples is not None and "samples" not in registry().load("solver", config.solver.name).Settings.model_fields:
        raise SettingsError(
            f"--samples: solver '{config.solver.name}' gives one image; choose one that draws samples, such as "
            "--solver preconditioned-langevin"
        )
    if dry_run:
        from mriinv.dry_run import plan

        planned = plan(config)
        click.echo(json.dumps(text.plain(planned), indent=2) if as_json else text.plan_text(planned))
        return
    from mriinv.data.export import find_writer
    from mriinv.run import execute

    for name in formats:
        find_writer(name)
    reports: list[InputReport] = []
    try:
        with progress() as observer:
            for report in execute(config, observer, restart=restart):
                reports.append(report)
                _export(report, formats)
                if observer is not None:
                    observer.clear()
                _print_report(report, as_json)
    except KeyboardInterrupt:
        click.echo(text.interruption_text(reports), err=True)
        context.exit(INTERRUPTED)
    finally:
        if as_json:
            click.echo(json.dumps(text.plain([asdict(report) for report in reports]), indent=2))
    context.exit(1 if any(report.error for report in reports) else 0)


def _print_report(report: InputReport, as_json: bool) -> None:
    """Print a report as it comes; with JSON, which comes at the end, only the error."""
    if not as_json and (shown := text.report_text(report)):
        click.echo(shown)
    if report.error:
        click.echo(f"error: {report.error}", err=True)


def _export(report: InputReport, formats: tuple[str, ...]) -> None:
    """Write what was reconstructed in other formats too; what refuses stands in the report."""
    from mriinv.data.export import export_result

    for name in formats if report.result else ():
        assert report.result is not None
        try:
            report.exported += export_result(report.result, name)
        except MriinvError as error:
            report.error = report.error or str(error)
