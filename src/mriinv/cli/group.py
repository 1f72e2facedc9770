"""The command group, and what its commands share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv import __version__
from mriinv.errors import MriinvError

if TYPE_CHECKING:
    from rich.progress import Progress

    from mriinv.core.solver import Monitor

INTERRUPTED = 130


class _Group(click.Group):
    """Prints the errors that users can act on without a traceback: ours, and those of files and folders."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:  # whoever read the output has gone
            raise
        except (MriinvError, OSError) as error:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # the first of several processes speaks
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


set_option = click.option(
    "--set", "assignments", multiple=True, metavar="PART.SETTING=VALUE", help="Change one setting."
)
device_option = click.option("--device", metavar="auto|cpu|cuda[:n]", help="Where to compute  [default: auto]")
seed_option = click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random  [default: 0]")
acceleration_option = click.option("--acceleration", type=float, help="Of the mask, centre included  [default: 4]")
centre_option = click.option("--acs", type=int, help="Fully sampled centre of the mask (ACS), in lines.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
file_type = click.Path(path_type=Path)
Command = Callable[..., Any]


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator for several options, which appear in this order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


# how scans are prepared, for `combination`
preparation_options = together(
    click.option("--maps", type=file_type, help="Coil maps instead of the file's own or ESPIRiT's."),
    click.option("--crop", nargs=2, type=int, metavar="Y X", help="Crop images to this matrix, such as 320 320."),
    click.option("--coils", type=int, help="Compress to this many virtual coils."),
)
# what to reconstruct with and from which samples, for `combination`
combination_options = together(
    click.option(
        "--recipe",
        metavar="NAME",
        help="Combination to start from  [default, without --solver: the prior's first, deepen-map]",
    ),
    click.option("--config", "run_file", type=file_type, help="YAML run file; options override it."),
    click.option("--prior", metavar="NAME"),
    click.option("--solver", metavar="NAME"),
    click.option("--operator", metavar="NAME", help="[default: sense]"),
    click.option("--weights", metavar="NAME|FILE", help="Weights of the prior  [default: the catalogue's first]"),
    click.option(
        "--mask",
        metavar="NAME[:R]|FILE",
        help="Undersample: poisson-2d, random-1d, equispaced-1d, such as poisson-2d:4, or a file.",
    ),
    acceleration_option,
    centre_option,
    preparation_options,
    click.option("--slices", metavar="I|I:J", help="Only slice I, or slices I to J-1."),
    device_option,
    seed_option,
    set_option,
)


def combination(inputs: tuple[Path, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Turn the options of `combination_options` into fields of a `RunConfig`."""
    fields = {
        name: given.get(name) for name in ("solver", "operator", "slices", "calibration", "out", "device", "seed")
    }
    mask = {"name": given["mask"], "acceleration": given["acceleration"], "acs": given["acs"]}
    preparation = {name: given.get(name) for name in ("maps", "crop", "coils")}
    for name, values in (("mask", mask), ("preparation", preparation)):
        fields[name] = {key: value for key, value in values.items() if value is not None} or None
    return {**fields, "input": list(inputs) or None, "prior": prior_choice(given["prior"], given["weights"])}


def prior_choice(name: str | None, weights: str | None) -> str | dict[str, str] | None:
    """Return the field of the configuration that ``--prior`` and ``--weights`` stand for."""
    return name if weights is None else {"weights": weights, **({"name": name} if name else {})}


class ProgressLine:
    """Draws the state of the work; called with a source, slice number and count, it gives the monitor of that slice."""

    def __init__(self, display: Progress) -> None:
        self._display, self._task = display, display.add_task("", now="")

    def __call__(self, source: str, number: int, count: int) -> Monitor:
        part = f" slice {number + 1}/{count}" if count else ""
        self._display.update(self._task, description=Path(source).name + part, now="")
        self._display.start()

        def monitor(iteration: int, values: Any) -> None:
            shown = "  ".join(f"{name} {value:.5g}" for name, value in list(values.items())[:3])
            self._display.update(self._task, now=f"iteration {iteration}  {shown}")

        return monitor

    def clear(self) -> None:
        """Take the line off the screen, where something else is printed; the next call draws it again."""
        self._display.stop()


@contextmanager
def progress() -> Iterator[ProgressLine | None]:
    """Give an observer that draws progress with the current objective; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield ProgressLine(display)
