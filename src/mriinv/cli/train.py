"""``mriinv train``."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from mriinv.cli.group import device_option, file_type, main, prior_choice, progress, seed_option, set_option
from mriinv.errors import SettingsError


@main.command()
@click.option("--prior", metavar="NAME", help="What to train.")
@click.option("--trainer", metavar="NAME", help="[default: the prior's, else maximum-likelihood]")
@click.option("--config", "run_file", type=file_type, help="YAML file with the fields of a training.")
@click.option("--heads", type=file_type, help="Label volumes (NIfTI, npz) or their folder; else procedural heads.")
@click.option(
    "--scans",
    type=file_type,
    multiple=True,
    help="Instead of heads: fully sampled scans, or folders or patterns of them.",
)
@click.option("--validate", type=file_type, multiple=True, help="Scan to choose checkpoints on, full k-space.")
@click.option("--weights", metavar="NAME|FILE", help="Weights to start from  [default: none]")
@click.option("--out", type=file_type, help="Folder of weights, checkpoint and log; a checkpoint in it is resumed.")
@click.option(
    "--max-time",
    metavar="MINUTES",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this long; run again to go on.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that render heads  [default: 0]")
@device_option
@click.option("--devices", type=click.IntRange(min=1), help="Share every update among so many  [default: 1]")
@click.option("--precision", metavar="32-true|bf16-mixed", help="Of the networks in training  [default: 32-true]")
@click.option("--plot", is_flag=True, help="Draw curves.png at the end; does only that after the last update.")
@click.option("--tensorboard", is_flag=True, help="Write the log to OUT/tensorboard as well.")
@seed_option
@set_option
def train(
    run_file: Path | None,
    heads: Path | None,
    scans: tuple[Path, ...],
    validate: tuple[Path, ...],
    weights: str | None,
    max_time: float | None,
    workers: int,
    plot: bool,
    tensorboard: bool,
    assignments: tuple[str, ...],
    **given: Any,
) -> None:
    """Train a prior on simulated measurements of simulated heads, or of your own scans."""
    from mriinv.config import build_train_config
    from mriinv.inputs import readable_scans

    if run_file is None and (missing := [f"--{name}" for name in ("prior", "out") if not given[name]]):
        raise SettingsError(f"train: found no {' and no '.join(missing)}; expected both, or --config with them")
    options = {**given, "prior": prior_choice(given["prior"], weights)}
    images = {**({"heads": heads} if heads else {}), **({"scans": readable_scans(scans)} if scans else {})}
    options |= {"data": images} if images else {}
    options |= {"validation": {"scans": validate}} if validate else {}
    config = build_train_config(run_file, options, assignments)
    from mriinv.training.session import run_training, training_command

    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes, one for each device
    with progress() if first else nullcontext() as observer:
        done = run_training(
            config,
            max_time=float("inf") if max_time is None else 60 * max_time,
            command=training_command(sys.argv[2:]),
            workers=workers,
            plot=plot,
            tensorboard=tensorboard,
            monitor=observer("training", 0, 0) if observer else None,
        )
    if first:
        click.echo(f"{done.step} updates in {done.seconds / 60:.1f} min; weights and log in {config.out}")
