"""Simulated scans as files: what ``mriinv simulate`` does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from pydantic import Field, field_validator

from mriinv import __version__
from mriinv.core.component import StrictModel
from mriinv.data.fastmri import write_fastmri
from mriinv.data.heads import HeadSource, LabelMapHeads, ProceduralHeads, Protocol
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.masks import draw_mask
from mriinv.data.readers.base import DAMAGE
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import InputError
from mriinv.numerics.noise import SEED_LIMIT

IDENTITY = "mriinv_simulation"  # attribute of a file: the configuration that made it


class SimulationConfig(StrictModel):
    """Everything that determines a set of simulated scans."""

    out: Path = Field(Path("simulated"), description="folder of the scans")
    count: int = Field(1, ge=1, le=10**4, description="number of volumes, each a head of its own")
    slices: int = Field(1, ge=1, le=1024, description="slices of a volume")
    shape: tuple[int, int] = Field((256, 256), description="matrix size (y, x)")
    coils: int = Field(8, ge=1, le=128, description="number of receivers")
    noise_std: float = Field(0.005, ge=0, description="per real component; the 99th percentile of the image is 1")
    coloured: bool = Field(False, description="noise that is correlated between receivers")
    heads: Path | None = Field(None, description="label volume or a folder of them; none: procedural heads")
    plane: str | None = Field(None, description="axial, coronal or sagittal; none: any")
    pixel: float | None = Field(None, description="size of a pixel in mm; none: any")
    thickness: float | None = Field(None, description="of a slice in mm; none: any")
    gap: float = Field(0.0, description="between slices, in mm")
    contrast: str | None = Field(None, description="t1, t2, pd or flair; none: any")
    lesions: bool = Field(False, description="lesions in the white matter")
    mask: MaskChoice | None = Field(None, description="undersampling; none: fully sampled")
    coil_maps: bool = Field(False, description="write the true coil maps, which else have to be estimated")
    seed: int = Field(0, ge=0, lt=SEED_LIMIT - 10**4, description="of the first volume; the next ones count up")

    @field_validator("mask")
    @classmethod
    def _is_drawn(cls, mask: MaskChoice | None) -> MaskChoice | None:
        if mask is not None and mask.file:
            raise ValueError(f"{mask.name} is a file; simulated scans take masks by name")
        return mask

    @property
    def protocol(self) -> Protocol:
        """What the heads are drawn for."""
        return Protocol(self.plane, self.pixel, self.thickness, self.gap, self.contrast, self.lesions)


@dataclass(frozen=True)
class SimulatedScan:
    """A file of simulated k-space; `kept` when an earlier run had written it."""

    path: Path
    sequence: str
    kept: bool


def simulate_scans(config: SimulationConfig, *, replace: bool = False) -> Iterator[SimulatedScan]:
    """Write ``sim_0000.h5`` … in the layout of fastMRI, one volume per seed, giving each when it is there.

    A file that the same configuration made before is kept, so that an interrupted simulation goes on where it was.

    Parameters
    ----------
    replace : overwrite files, whatever made them

    Raises
    ------
    InputError : a file that something else made, a protocol or a number out of range, heads that cannot be read
    """
    heads: HeadSource = (
        ProceduralHeads(config.protocol) if config.heads is None else LabelMapHeads(config.heads, config.protocol)
    )
    common = config.model_dump(mode="json", exclude={"out", "count", "seed"})
    paths = {config.seed + index: config.out / f"sim_{index:04}.h5" for index in range(config.count)}
    made = {seed: None if replace else _sequence(path, _identity(common, seed)) for seed, path in paths.items()}
    for seed, path in paths.items():
        sequence = made[seed]
        if sequence is None:
            sequence = _write(config, heads, seed, path, _identity(common, seed))
        yield SimulatedScan(path, sequence, made[seed] is not None)


def _identity(common: dict[str, Any], seed: int) -> str:
    return json.dumps({**common, "seed": seed, "version": __version__}, sort_keys=True)


def _sequence(path: Path, identity: str) -> str | None:
    """Return the sequence of a scan that is there already, None where there is no file."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get(IDENTITY) == identity:
                return str(file.attrs["sequence"])
    except DAMAGE:
        pass
    expected = "no file, or the scan that this very simulation writes; choose another folder, or replace it"
    raise InputError(path, "", "a file that another simulation or program made", expected)


def _write(config: SimulationConfig, heads: HeadSource, seed: int, path: Path, identity: str) -> str:
    acquisition = simulate_acquisition(
        heads=heads,
        shape=config.shape,
        coils=config.coils,
        noise_std=config.noise_std,
        seed=seed,
        slices=config.slices,
        coloured=config.coloured,
        coil_maps=config.coil_maps,
    )
    choice = config.mask
    mask = None
    if choice is not None:
        own = seed if choice.seed is None else choice.seed
        mask = draw_mask(choice.kind, config.shape, seed=own)
    sequence = acquisition.header["sequence"]
    write_fastmri(path, acquisition, mask=mask, attributes={IDENTITY: identity, "sequence": sequence})
    return sequence
