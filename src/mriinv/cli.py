"""The command line. Torch is imported by the commands that compute, not by this module."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv import __version__
from mriinv.errors import MriinvError, UnknownNameError
from mriinv.manifest import KINDS
from mriinv.registry import registry
from mriinv.report import text

if TYPE_CHECKING:
    from mriinv.core.solver import Monitor
    from mriinv.run import InputReport

INTERRUPTED = 130


class _Group(click.Group):
    """Prints the errors that users can act on without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except MriinvError as error:
            click.echo(f"error: {error}", err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mriinv")
def main() -> None:
    """MRI reconstruction by name: an operator, a prior and a solver from the registry."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


_set = click.option("--set", "assignments", multiple=True, metavar="PART.SETTING=VALUE", help="Change one setting.")
_device = click.option("--device", metavar="auto|cpu|cuda[:n]", help="Where to compute  [default: auto]")
_seed = click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random  [default: 0]")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_file = click.Path(path_type=Path)


@main.command()
@click.argument("inputs", nargs=-1, type=_file)
@click.option("--recipe", metavar="NAME", help="Named combination to start from  [default: deepen-map]")
@click.option("--config", "run_file", type=_file, help="YAML run file; options override it.")
@click.option("--prior", metavar="NAME")
@click.option("--solver", metavar="NAME")
@click.option("--operator", metavar="NAME", help="[default: sense]")
@click.option("--weights", metavar="NAME|FILE", help="Weights of the prior  [default: the catalogue's first]")
@click.option("--samples", type=click.IntRange(min=1), help="Posterior samples, for solvers that draw them.")
@click.option("--mask", metavar="NAME", help="Undersample: poisson-2d, random-1d or equispaced-1d.")
@click.option("--acceleration", type=float, help="Of the mask, centre included  [default: 4]")
@click.option("--calibration", type=int, help="Fully sampled centre of the mask, in lines.")
@click.option("--slices", metavar="I|I:J", help="Only slice I, or slices I to J-1.")
@click.option("--out", type=_file, help="Folder of result files and figures  [default: result]")
@click.option("--dry-run", is_flag=True, help="Print what would run, and stop.")
@_device
@_seed
@_set
@_json
@click.pass_context
def run(
    context: click.Context,
    inputs: tuple[Path, ...],
    recipe: str | None,
    run_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Reconstruct k-space files, or without any a simulated scan.

    INPUTS are fastMRI multi-coil HDF5 or npz files. Each gives one HDF5 with the images and everything that made
    them, and one PNG of its middle slice.
    """
    from mriinv.config import build_config

    options, assignments = _run_options(inputs, given, assignments)
    config = build_config(recipe, run_file, options, assignments)
    if dry_run:
        from mriinv.plan import plan

        planned = plan(config)
        click.echo(json.dumps(text.plain(planned), indent=2) if as_json else text.plan_text(planned))
        return
    from mriinv.run import execute

    reports: list[InputReport] = []
    try:
        with _progress() as observer:
            for report in execute(config, observer):
                reports.append(report)
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


def _run_options(
    inputs: tuple[Path, ...], given: dict[str, Any], assignments: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Turn command-line options into fields of the configuration."""
    options = {name: given[name] for name in ("solver", "operator", "slices", "out", "device", "seed")}
    options["input"] = list(inputs) or None
    mask = {"name": given["mask"], "acceleration": given["acceleration"], "calibration": given["calibration"]}
    options["mask"] = {key: value for key, value in mask.items() if value is not None} or None
    options["prior"] = _prior_choice(given["prior"], given["weights"])
    if given["samples"] is not None:
        assignments = (*assignments, f"solver.samples={given['samples']}")
    return options, assignments


def _prior_choice(name: str | None, weights: str | None) -> str | dict[str, str] | None:
    """Return the field of the configuration that ``--prior`` and ``--weights`` stand for."""
    return name if weights is None else {"weights": weights, **({"name": name} if name else {})}


@main.command()
@click.option("--prior", metavar="NAME", help="What to train.")
@click.option("--trainer", metavar="NAME", help="[default: maximum-likelihood]")
@click.option("--config", "run_file", type=_file, help="YAML file with the fields of a training.")
@click.option("--heads", type=_file, help="Folder of label maps (*.npz); without it, procedural heads.")
@click.option("--validate", "scans", type=_file, multiple=True, help="Fully sampled scan to choose checkpoints on.")
@click.option("--weights", metavar="NAME|FILE", help="Weights to start from  [default: none]")
@click.option("--out", type=_file, help="Folder of weights, checkpoint and log; a checkpoint in it is resumed.")
@click.option(
    "--max-time",
    metavar="MINUTES",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this long; run again to go on.",
)
@_device
@_seed
@_set
def train(
    run_file: Path | None,
    heads: Path | None,
    scans: tuple[Path, ...],
    weights: str | None,
    max_time: float | None,
    assignments: tuple[str, ...],
    **given: Any,
) -> None:
    """Train a prior on simulated measurements of simulated heads."""
    from mriinv.config import build_train_config

    options = {**given, "prior": _prior_choice(given["prior"], weights)}
    config = build_train_config(run_file, options, assignments, heads=heads, scans=scans)
    from mriinv.training.session import run_training, training_command

    with _progress() as observer:
        progress = run_training(
            config,
            max_time=float("inf") if max_time is None else 60 * max_time,
            command=training_command(sys.argv[2:]),
            monitor=observer("training", 0, 0) if observer else None,
        )
    click.echo(f"{progress.step} updates in {progress.seconds / 60:.1f} min; weights and log in {config.out}")


@main.command("list")
@click.argument("kind", required=False, type=click.Choice([*KINDS, "recipe"]))
@_json
def list_(kind: str | None, as_json: bool) -> None:
    """List components and recipes."""
    rows = [
        {"kind": one, "name": name, "summary": c.entry.summary, "from": c.plugin.distribution}
        for one in KINDS
        for name, c in registry().components(one).items()
    ]
    rows += [{"kind": "recipe", "name": n, "summary": r.summary, "from": ""} for n, r in registry().recipes.items()]
    rows = [row for row in rows if kind in (None, row["kind"])]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for heading in dict.fromkeys(row["kind"] for row in rows):
        click.secho(f"{heading}s", bold=True)
        for row in rows:
            if row["kind"] == heading:
                origin = "" if row["from"] in ("", "mriinv") else f"  [{row['from']}]"
                click.echo(f"  {row['name']:<{width}}  {row['summary']}{origin}")


@main.command()
@click.argument("name")
@_json
def info(name: str, as_json: bool) -> None:
    """Show components and recipes of a name: settings with defaults and units, capabilities, reference, weights."""
    found = _find(name)
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
        return
    click.echo("\n\n".join(text.description_text(one) for one in found))


def _find(name: str) -> list[dict[str, Any]]:
    """Return what is known of every component and recipe called `name`."""
    found = []
    for kind in KINDS:
        with suppress(UnknownNameError):
            component = registry().find(kind, name)
            cls = registry().load(kind, component.qualified)
            found.append(text.describe_component(component, cls.Settings.model_fields))
    if name in registry().recipes:
        found.append({"recipe": name, **registry().recipe(name).model_dump(exclude_none=True)})
    if not found:
        known = [n for kind in KINDS for n in registry().components(kind)]
        raise UnknownNameError("component or recipe", name, [*known, *registry().recipes])
    return found


@main.command()
@_json
def plugins(as_json: bool) -> None:
    """Show installed plug-ins, and for one that fails, why."""
    rows = []
    for plugin in registry().plugins:
        with suppress(MriinvError):  # the failure is in plugin.problem, which is shown
            registry().activate(plugin)
        rows.append(
            {
                "name": plugin.name,
                "distribution": f"{plugin.distribution} {plugin.version}",
                "status": "failed" if plugin.problem else "ok",
                "components": plugin.components,
                "problem": plugin.problem,
            }
        )
    if as_json:
        click.echo(json.dumps({"plugins": rows, "remarks": registry().remarks}, indent=2))
        return
    for plugin, row in zip(registry().plugins, rows, strict=True):
        what = plugin.problem or ", ".join(plugin.components)
        click.echo(f"{row['status']:<7} {row['name']:<12} {row['distribution']:<24} {what}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], Monitor] | None]:
    """Give an observer that draws progress with the current objective; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", now="")

        def observe(source: str, number: int, count: int) -> Monitor:
            part = f" slice {number + 1}/{count}" if count else ""
            display.update(task, description=Path(source).name + part)

            def monitor(iteration: int, values: Any) -> None:
                shown = "  ".join(f"{name} {value:.5g}" for name, value in list(values.items())[:3])
                display.update(task, now=f"iteration {iteration}  {shown}")

            return monitor

        yield observe
