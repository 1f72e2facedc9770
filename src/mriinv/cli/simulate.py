"""``mriinv simulate``."""

from __future__ import annotations

from typing import Any

import click

from mriinv.cli.group import acceleration_option, centre_option, file_type, main, seed_option


@main.command()
@click.option("--out", type=file_type, help="Folder of the scans  [default: simulated]")
@click.option("--count", type=int, help="Number of volumes, each a head of its own  [default: 1]")
@click.option("--slices", type=int, help="Slices of a volume  [default: 1]")
@click.option("--shape", nargs=2, type=int, metavar="Y X", help="Matrix size  [default: 256 256]")
@click.option("--coils", type=int, help="Number of receivers  [default: 8]")
@click.option("--noise-std", type=float, help="Per real component, the image being 1  [default: 0.005]")
@click.option("--coloured", is_flag=True, default=None, help="Correlate the noise between receivers.")
@click.option("--heads", type=file_type, help="Label volumes (NIfTI, npz) or their folder; else procedural heads.")
@click.option("--plane", metavar="NAME", help="axial, coronal or sagittal  [default: any with --heads, else axial]")
@click.option("--pixel", type=float, metavar="MM", help="Size of a pixel  [default: any]")
@click.option("--thickness", type=float, metavar="MM", help="Of a slice  [default: any]")
@click.option("--gap", type=float, metavar="MM", help="Between slices  [default: 0]")
@click.option("--contrast", metavar="NAME", help="t1, t2, pd or flair  [default: any]")
@click.option("--lesions", is_flag=True, default=None, help="Put lesions into the white matter.")
@click.option("--mask", metavar="NAME", help="Undersample: poisson-2d, random-1d or equispaced-1d.")
@acceleration_option
@centre_option
@click.option("--coil-maps", is_flag=True, default=None, help="Write the true coil maps too.")
@click.option("--replace", is_flag=True, help="Overwrite files that are there.")
@seed_option
def simulate(mask: str | None, acceleration: float | None, acs: int | None, replace: bool, **given: Any) -> None:
    """Write simulated multi-coil k-space of random heads in the HDF5 layout of fastMRI.

    The same command again goes on where it was interrupted.
    """
    from mriinv.core.component import validated
    from mriinv.errors import SettingsError
    from mriinv.simulation import SimulationConfig, simulate_scans

    fields = {name: value for name, value in given.items() if value is not None}
    choice = {"name": mask, "acceleration": acceleration, "acs": acs}
    choice = {name: value for name, value in choice.items() if value is not None}
    if choice and mask is None:
        raise SettingsError(f"--{next(iter(choice))} needs --mask")
    config = validated(SimulationConfig, {**fields, **({"mask": choice} if choice else {})})
    for scan in simulate_scans(config, replace=replace):
        click.echo(f"{scan.path}  {scan.sequence}{'  (kept)' if scan.kept else ''}")
