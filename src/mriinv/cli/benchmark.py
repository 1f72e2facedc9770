"""``mriinv benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv.cli.group import device_option, file_type, main, together

if TYPE_CHECKING:
    from mriinv.benchmark.cells import Record
    from mriinv.benchmark.session import Benchmark


@main.group()
def benchmark() -> None:
    """Make the tables and figures of the paper: train what is missing, evaluate what is missing.

    The same command again goes on where it was interrupted. What is compared is a plan: small (for a few processor
    cores), paper (as published, for a GPU), or a YAML file like these.
    """


TEST_HELP = "Fully sampled scan or folder, a test set each; else scans kept back from --train, or simulated heads."
_options = together(
    click.option("--plan", default="small", show_default=True, metavar="small|paper|FILE", help="What to compare."),
    click.option("--train", "data", type=file_type, help="Label maps, or fully sampled scans; else heads of ours."),
    click.option("--test", type=file_type, multiple=True, help=TEST_HELP),
    click.option("--out", type=file_type, default=Path("benchmark"), show_default=True, help="Folder of it all."),
    click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Of each training, not the plan's."),
    click.option("--methods", metavar="A,B", default="", help="Only these methods of the plan."),
    click.option("--weights", multiple=True, metavar="METHOD=NAME|FILE", help="Weights instead of a training."),
    click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="At the same time."),
    click.option("--dry-run", is_flag=True, help="Print what would be trained and evaluated, and stop."),
    device_option,
)


@benchmark.command()
@_options
def table1(dry_run: bool, **given: Any) -> None:
    """All methods under all masks."""
    _table("table1", dry_run, given)


@benchmark.command()
@_options
def table2(dry_run: bool, **given: Any) -> None:
    """Methods trained for one mask and tested on another."""
    _table("table2", dry_run, given)


@benchmark.command()
@click.argument("number", type=click.IntRange(2, 5))
@_options
def figure(number: int, dry_run: bool, **given: Any) -> None:
    """NUMBER 2: energies; 3: reconstructions; 4: with another mask than trained for; 5: posterior samples."""
    made = _benchmark(given)
    from mriinv.benchmark import figures

    if dry_run:
        _print(*made.overview(figures.wanted(made, number)))
        return
    paths, records = figures.draw(made, number)
    _print(*paths)
    _exit(records)


def _table(name: str, dry_run: bool, given: dict[str, Any]) -> None:
    plan, made = given["plan"], _benchmark(given)
    from mriinv.benchmark import tables

    wanted = getattr(made, name)()
    if dry_run:
        _print(*made.overview(wanted))
        return
    records = made.evaluate(wanted)
    summary = f"Plan {plan}: {made.plan.summary}"
    _print(*tables.write_tables(made.out / name, getattr(tables, name)(records), records, summary))
    _exit(records)


def _exit(records: list[Record]) -> None:
    """Say how many evaluations failed, and exit with 1 if any did."""
    if failed := [record for record in records if record["error"]]:
        stored = sum(record["file"] is not None and record["file"].is_file() for record in failed)
        first = f"remove the files of {stored} in cells, and " if stored else ""
        _say(f"{len(failed)} of {len(records)} evaluations failed; to try them again {first}run the command again")
        click.get_current_context().exit(1)


def _benchmark(given: dict[str, Any]) -> Benchmark:
    from mriinv.benchmark.plan import load_plan
    from mriinv.benchmark.session import Benchmark
    from mriinv.errors import SettingsError

    weights = {}
    for assignment in given.pop("weights"):
        method, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--weights {assignment}: expected METHOD=NAME or METHOD=FILE")
        weights[method] = value
    methods = tuple(name.strip() for name in given.pop("methods").split(",") if name.strip())
    plan, device = load_plan(given.pop("plan")), given.pop("device") or "auto"
    return Benchmark(plan=plan, methods=methods, weights=weights, device=device, say=_say, **given)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _print(*lines: object) -> None:
    for line in lines:
        click.echo(str(line))
