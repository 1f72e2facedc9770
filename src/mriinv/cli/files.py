"""Files in other formats and of others: ``mriinv check`` and ``mriinv export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from mriinv.cli.group import file_type, json_option, main
from mriinv.report import text


@main.command()
@click.argument("path", metavar="FILE", type=file_type)
@click.option("--every-slice", is_flag=True, help="Read every slice, not only the middle one.")
@json_option
@click.pass_context
def check(context: click.Context, path: Path, every_slice: bool, as_json: bool) -> None:
    """Say what is in a file, whether it can be reconstructed, and what is missing."""
    from mriinv.check import check_scan, check_text

    report = check_scan(path, every_slice=every_slice)
    click.echo(json.dumps(text.plain(asdict(report)), indent=2) if as_json else check_text(report))
    context.exit(1 if report.problems else 0)


@main.command()
@click.argument("result", type=file_type)
@click.option("--format", "name", required=True, metavar="NAME", help="cfl, nii, nii.gz or png.")
@click.option("--out", type=file_type, help="Folder  [default: that of the result]")
def export(result: Path, name: str, out: Path | None) -> None:
    """Write the images of a RESULT of `mriinv run` for other programs."""
    from mriinv.data.export import export_result

    for path in export_result(result, name, out):
        click.echo(path)
