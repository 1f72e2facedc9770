"""Files in other formats and of others: ``mriinv check`` and ``mriinv export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from mriinv.cli.group import file_type, json_option, main
from mriinv.report import text


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=file_type)
@click.option("--every-slice", is_flag=True, help="Read every slice, not only the middle one.")
@json_option
@click.pass_context
def check(context: click.Context, inputs: tuple[Path, ...], every_slice: bool, as_json: bool) -> None:
    """Say what is in files, whether they can be reconstructed, and what is missing.

    INPUTS are files, folders or patterns, as for `mriinv run`; a file may be a result as well.
    """
    from mriinv.check import check_scan
    from mriinv.inputs import find_scans

    scans, left_out = find_scans(inputs)
    reports = []
    for path in sorted([*scans, *left_out]):
        reports.append(check_scan(path, every_slice=every_slice))
        if not as_json:
            click.echo(("" if len(reports) == 1 else "\n") + text.check_text(reports[-1]))
    if as_json:
        click.echo(json.dumps(text.plain([asdict(report) for report in reports]), indent=2))
    context.exit(1 if any(report.problems for report in reports) else 0)


@main.command()
@click.argument("result", type=file_type)
@click.option("--format", "name", required=True, metavar="NAME", help="cfl, nii, nii.gz or png.")
@click.option("--out", type=file_type, help="Folder  [default: that of the result]")
def export(result: Path, name: str, out: Path | None) -> None:
    """Write the images of a RESULT of `mriinv run` for other programs."""
    from mriinv.data.export import export_result

    for path in export_result(result, name, out):
        click.echo(path)
