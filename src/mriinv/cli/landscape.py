"""``mriinv landscape``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mriinv.cli.group import (
    acceleration_option,
    centre_option,
    combination,
    device_option,
    file_type,
    main,
    seed_option,
    set_option,
)

if TYPE_CHECKING:
    from mriinv.landscape import Landscape


@main.command()
@click.argument("scan", required=False, type=file_type)
@click.option("--prior", default="deepen", show_default=True, metavar="NAME", help="Any that has an energy.")
@click.option("--weights", metavar="NAME|FILE", help="Weights of the prior  [default: the catalogue's first]")
@click.option("--mask", default="poisson-2d", show_default=True, metavar="NAME|FILE", help="What SENSE sees.")
@acceleration_option
@centre_option
@click.option("--slice", "only", type=click.IntRange(min=0), help="Of the scan  [default: the middle one]")
@click.option("--points", type=click.IntRange(min=3), default=21, show_default=True, help="Of either axis.")
@click.option("--energy", is_flag=True, help="Draw the energy too, without the data.")
@click.option("--out", type=file_type, default=Path("landscape.png"), show_default=True, help="PNG; CSV beside it.")
@device_option
@seed_option
@set_option
def landscape(
    scan: Path | None, only: int | None, points: int, energy: bool, assignments: tuple[str, ...], **given: Any
) -> None:
    """Draw the cost around the truth: is the fully sampled image its minimum? (Fig. 2 of the paper)

    SCAN is fully sampled; without one a scan is simulated, as by `mriinv run`. To the image x of all samples are added
    Gaussian noise z and the structure s by which the SENSE image of the undersampled scan differs from it; the cost of
    x + α_z z + α_s s is drawn over α_z and α_s, and beside it the image where it is lowest. The CSV has all values.
    """
    from mriinv.compose import make_prior, resolve_device
    from mriinv.config import build_config
    from mriinv.errors import SettingsError
    from mriinv.landscape import case_landscape, scan_case
    from mriinv.report.paper_figures import figure2

    out: Path = given["out"]
    if out.suffix != ".png":
        raise SettingsError(f"--out {out}: expected a name that ends with .png")
    options = {**given, "slices": only}
    config = build_config(None, None, combination((scan,) if scan else (), options), assignments)
    chosen = config.prior
    assert chosen is not None
    prior = make_prior(chosen.name, weights=chosen.weights, **chosen.settings).to(resolve_device(config.device))
    case = scan_case(config)
    found: dict[str, Landscape] = {}
    for what in ("cost", "energy") if energy else ("cost",):
        one = case_landscape(prior, case, seed=config.seed, data=what == "cost", points=points)
        alpha_z, alpha_s = (round(alpha, 4) + 0.0 for alpha in one.minimiser)  # -0.0 becomes 0.0
        click.echo(
            f"{what} of {prior.name}: lowest at α_z = {alpha_z:.4f} (standard deviation of the added noise; the image "
            f"scale is 1), α_s = {alpha_s:.3f} (0: reference, 1: SENSE)" + ", at the border" * one.at_border
        )
        found[what] = one
    cost = found["cost"]
    reference = case.reference[0] / case.problem.scale
    figure2(out, reference, cost.noise, cost.structure, [(f"{prior.name}: {what}", f) for what, f in found.items()])
    _write_values(out.with_suffix(".csv"), found)
    click.echo(f"{out}, {out.with_suffix('.csv')}")


def _write_values(path: Path, found: dict[str, Landscape]) -> None:
    """Write a row for every point of the grid."""
    from mriinv.files import write_csv

    grid = found["cost"]
    rows = [
        [f"{alpha_z:.6g}", f"{alpha_s:.6g}", *(f"{one.values[i, j]:.9g}" for one in found.values())]
        for i, alpha_z in enumerate(grid.gaussian.tolist())
        for j, alpha_s in enumerate(grid.structural.tolist())
    ]
    write_csv(path, [["alpha_z", "alpha_s", *found], *rows])
