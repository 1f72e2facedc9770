"""``mriinv tune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mriinv.cli.group import combination, combination_options, file_type, json_option, main, progress
from mriinv.report.text import plain, tuning_text


@main.command()
@click.argument("inputs", nargs=-1, type=file_type)
@combination_options
@click.option("--parameter", metavar="PART.SETTING", help="What to tune  [default: what the prior or solver declares]")
@click.option("--bounds", nargs=2, type=float, metavar="LOW HIGH", help="Range of the search.")
@click.option("--out", type=file_type, help="YAML run file for the best value; none, and exit 1, if it is no better.")
@json_option
@click.pass_context
def tune(
    context: click.Context,
    inputs: tuple[Path, ...],
    recipe: str | None,
    run_file: Path | None,
    assignments: tuple[str, ...],
    parameter: str | None,
    bounds: tuple[float, float] | None,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the value of one setting that gives the best PSNR, by golden section on a logarithmic scale.

    INPUTS are fully sampled scans, undersampled by --mask; without any, simulated ones.
    """
    from mriinv.config import build_config

    config = build_config(recipe, run_file, combination(inputs, given), assignments)
    from mriinv.tuning import require_writable, write_run_file
    from mriinv.tuning import tune as search

    if out is not None:
        require_writable(out)
    with progress() as observer:
        tuned = search(config, parameter, bounds, monitor=observer("tuning", 0, 0) if observer else None)
    if out is not None and tuned.better:
        write_run_file(out, config, tuned)
    click.echo(json.dumps(plain(tuned.as_dict()), indent=2) if as_json else tuning_text(tuned))
    if out is not None and not tuned.better:
        click.echo(f"error: {out} is not written: no value is better than the setting as it was", err=True)
        context.exit(1)
