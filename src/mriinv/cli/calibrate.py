"""``mriinv calibrate``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv.cli.group import (
    centre_option,
    combination,
    device_option,
    file_type,
    main,
    preparation_options,
    progress,
    seed_option,
    set_option,
)
from mriinv.errors import SettingsError

if TYPE_CHECKING:
    from mriinv.calibration_fit import Fit
    from mriinv.data.mask_choice import MaskChoice

MASKS = ("poisson-2d:4", "poisson-2d:6", "random-1d:2", "random-1d:3")
MASK = "NAME[:ACCELERATION]|FILE"


@main.command()
@click.argument("inputs", nargs=-1, type=file_type)
@click.option("--prior", default="deepen", show_default=True, metavar="NAME")
@click.option("--weights", metavar="NAME|FILE", help="Weights of the prior  [default: the catalogue's first]")
@click.option("--solver", default="preconditioned-langevin", show_default=True, metavar="NAME", help="A sampler.")
@click.option("--operator", metavar="NAME", help="[default: sense]")
@click.option("--mask", "masks", multiple=True, default=MASKS, metavar=MASK, help=f"Fit  [default: {', '.join(MASKS)}]")
@click.option("--test-mask", "test_masks", multiple=True, metavar=MASK, help="Evaluate on this one too; repeatable.")
@centre_option
@preparation_options
@click.option(
    "--slices", type=click.IntRange(min=1), default=10, show_default=True, help="Of each scan, in its middle."
)
@click.option("--conformal", is_flag=True, help="Fit intervals, and a bound on the PSNR without reference, as well.")
@click.option("--keep-temperature", is_flag=True, help="Stay at factor 1; with --conformal fit intervals alone.")
@click.option("--out", type=file_type, default=Path("calibration"), show_default=True, help="Folder of the results.")
@click.option("--beside", is_flag=True, help="Store the calibration beside the weights too.")
@device_option
@seed_option
@set_option
def calibrate(
    inputs: tuple[Path, ...],
    masks: tuple[str, ...],
    test_masks: tuple[str, ...],
    slices: int,
    conformal: bool,
    keep_temperature: bool,
    out: Path,
    beside: bool,
    assignments: tuple[str, ...],
    **given: Any,
) -> None:
    """Fit the temperature of a sampler so that nine tenths of pixels lie in their 90 % intervals.

    INPUTS are fully sampled scans, undersampled by each --mask; without any, simulated ones, one slice each. The
    calibration is written as JSON, with a table of coverage (CSV) and a figure before and after.
    """
    from mriinv.config import build_config

    acs = given.pop("acs")
    fit, test = ([_mask(text, acs) for text in some] for some in (masks, test_masks))
    if acs is not None and all(mask.file for mask in (*fit, *test)):
        raise SettingsError(f"acs: found {acs}; every mask is a file, which has its own centre")
    options = {**given, "mask": None, "acceleration": None, "acs": None, "slices": None}
    config = build_config(None, None, combination(inputs, options), assignments)
    from mriinv.calibration import calibration_path, write_calibration
    from mriinv.calibration_fit import calibrate_weights
    from mriinv.compose import find_weights
    from mriinv.files import make_folder
    from mriinv.report.calibration_figure import calibration_figure
    from mriinv.report.text import calibration_text

    chosen = config.prior
    assert chosen is not None
    weights, is_new = find_weights(chosen.name, chosen.weights), not out.exists()
    if weights is not None and weights.path.is_file():  # a place that cannot be written is refused before the work
        for folder in (out, *([weights.path.parent] if beside else [])):
            make_folder(folder)
    try:
        with progress() as observer:
            found, fitted = calibrate_weights(
                config,
                fit,
                test,
                slices=slices,
                conformal=conformal,
                keep_temperature=keep_temperature,
                observer=observer,
            )
    except BaseException:
        if is_new:
            with suppress(OSError):  # as with a folder that was not made
                out.rmdir()
        raise
    assert weights is not None
    own_place = calibration_path(weights.path)
    places = [out / own_place.name, *([own_place] if beside else [])]
    for place in places:
        write_calibration(place, found)
    table, figure = out / "coverage.csv", out / "calibration.png"
    _write_table(table, fitted)
    calibration_figure(figure, fitted)
    click.echo(calibration_text(found))
    click.echo(", ".join(map(str, (*places, table, figure))))


def _mask(text: str, acs: int | None) -> MaskChoice:
    from mriinv.core.component import validated
    from mriinv.data.mask_choice import MaskChoice

    own = validated(MaskChoice, {"name": text})
    return own if own.file or acs is None else validated(MaskChoice, {"name": text, "acs": acs})


def _write_table(path: Path, fit: Fit) -> None:
    """Write a row for each mask and stage: coverage, correlation, root mean squares."""
    from mriinv.files import write_csv
    from mriinv.uncertainty import LEVELS, correlation, rms

    head = ["mask", "fitted", "stage", "slices", *(f"coverage_{level:.0%}".rstrip("%") for level in LEVELS)]
    rows = []
    for row in fit.coverage():
        for stage in ("before", "after", "conformal"):
            shares = getattr(row, stage)
            if shares is None:
                continue
            slices = (fit.before if stage == "before" else fit.after)[row.mask]
            numbers = (*shares.values(), correlation(slices), *rms(slices))
            rows.append([row.mask, row.fitted, stage, len(slices), *(f"{value:.6g}" for value in numbers)])
    write_csv(path, [[*head, "correlation", "rms_std", "rms_error"], *rows])
