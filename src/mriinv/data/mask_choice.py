"""A sampling mask as a user asks for it: by name, or from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_serializer, model_validator

from mriinv.core.component import StrictModel
from mriinv.core.types import Mask
from mriinv.data.acquisition import Acquisition
from mriinv.data.mask_file import SUFFIXES, read_mask
from mriinv.data.masks import MaskKind, draw_mask
from mriinv.numerics.noise import SEED_LIMIT


class MaskChoice(StrictModel):
    """A retrospective sampling mask, drawn or from a file; ``poisson-2d:4`` stands for a name and an acceleration."""

    name: str = Field(description="poisson-2d, random-1d or equispaced-1d; or a file, npy or npz")
    acceleration: float = Field(4.0, gt=1, description="grid locations over sampled ones, centre included")
    acs: int | None = Field(None, ge=0, description="fully sampled centre in lines; none: the mask's default")
    seed: int | None = Field(None, ge=0, lt=SEED_LIMIT, description="none: the seed of the run")

    @property
    def file(self) -> Path | None:
        """Where the mask is; None for one that is drawn."""
        path = Path(self.name)
        return path if path.suffix in SUFFIXES else None

    @property
    def kind(self) -> MaskKind:
        """What is drawn, but for the seed."""
        return MaskKind(self.name, self.acceleration, self.acs)

    @property
    def label(self) -> str:
        return self.name if self.file else f"{self.name} {self.acceleration:g}"

    @model_serializer(mode="wrap")
    def _as_given(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"name": self.name} if self.file else serialise(self)

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        given = {"name": value} if isinstance(value, str) else value
        name = given.get("name") if isinstance(given, Mapping) else None
        if not isinstance(name, str) or ":" not in name or Path(name).suffix in SUFFIXES:
            return given
        if given.get("acceleration") is not None:
            raise ValueError(f"{name} has its acceleration, and another one is given beside it")
        name, _, acceleration = name.rpartition(":")
        return {**given, "name": name, "acceleration": acceleration}

    @model_validator(mode="after")
    def _a_file_is_what_it_is(self) -> MaskChoice:
        if self.file and (given := self.model_fields_set & {"acceleration", "acs"}):
            raise ValueError(f"{self.name} is a file, which has its own {' and '.join(sorted(given))}")
        return self

    def mask(self, grid: tuple[int, int], extent: tuple[int, int, int, int] | None = None) -> Mask:
        """Return the mask on `grid` (y, x) for data acquired in `extent` (see `draw_mask`); without a seed, seed 0.

        Raises
        ------
        InputError : it cannot be drawn, or the file does not hold a mask for this grid
        """
        return draw_mask(self.kind, grid, extent, self.seed or 0) if self.file is None else read_mask(self.file, grid)

    def mask_for(self, acquisition: Acquisition) -> Mask:
        """Return the mask for an acquisition, as `mask` does."""
        y, x = acquisition.kspace.shape[-2:]
        return self.mask((y, x), acquisition.extent)
