"""What makes posterior samples say how uncertain they are, stored beside the weights that it was fitted for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError
from torch import Tensor

from mriinv.core.component import StrictModel, refused
from mriinv.core.problem import Samples
from mriinv.core.types import Support
from mriinv.data.acquisition import Sampling
from mriinv.errors import InputError
from mriinv.files import reason, write_text
from mriinv.uncertainty import predicted_psnr, quantile

MAX_BYTES = 2**20
UNRELATED = {"temperature", "samples", "batch", "long_run"}  # settings that leave the law of a draw at a given T

Level = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class MaskCoverage(StrictModel):
    """Share of pixels inside their intervals by level, under one mask: means over the slices."""

    mask: str
    fitted: bool = Field(description="whether temperature and scale were fitted on this mask")
    before: dict[Level, Share] = Field(description="at factor 1")
    after: dict[Level, Share] = Field(description="at the fitted temperature")
    conformal: dict[Level, Share] | None = Field(None, description="the same, with the scale fitted for such masks")


class Calibration(StrictModel):
    """What makes the samples of one sampler, with one weight file, say how uncertain they are."""

    format: Literal["mriinv-calibration-1"] = "mriinv-calibration-1"
    prior: str
    prior_settings: dict[str, JsonValue] = Field(description="those that may differ from the training")
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    operator: str = Field(description="that measured what it was fitted on")
    solver: str
    solver_settings: dict[str, JsonValue] = Field(description="without those that leave the law of a draw alone")
    draws: Annotated[int, Field(ge=2)] = Field(description="of each slice")
    temperature: Positive = Field(description="factor, the sampler's setting of this name")
    scale: dict[Sampling, dict[Level, Positive]] | None = Field(
        None, description="κ of the conformal intervals by level, for masks in 2D and of lines"
    )
    psnr_margin: dict[Level, Finite] | None = Field(None, description="dB by level, predicted − guaranteed PSNR")
    slices: Annotated[int, Field(ge=1)]
    source: str
    seed: Annotated[int, Field(ge=0)]
    coverage: tuple[MaskCoverage, ...]
    remarks: tuple[str, ...] = ()

    @property
    def checksum(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def applies(self, sampling: Sampling) -> bool:
        """Say whether such masks have intervals: those of the scale, or without one all that leave something out."""
        return sampling != "full" if self.scale is None else sampling in self.scale

    def half_width(self, samples: Samples, level: float, sampling: Sampling) -> Tensor:
        """Return half the width of the interval of `level` around the mean magnitude, ``(batch, y, x)``.

        κ·s√(1 + 1/n) with the standard deviation s of the n magnitudes, under a mask of this kind
        (`Acquisition.sampling`). κ is that of Gaussian magnitudes (`uncertainty.quantile`), times what the conformal
        scale is of it for the draws of the fit. `InputError` for a level or a kind of mask that was not fitted, and for
        a single draw.
        """
        if samples.count < 2:
            raise InputError("calibration", "samples", "one draw", "two at least, for a standard deviation")
        kappa = quantile(level, samples.count)
        if self.scale is not None:
            fitted = _fitted(f"scale.{sampling}", self.scale.get(sampling), level)
            kappa *= fitted / quantile(level, self.draws)
        return kappa * samples.predicted_error

    def psnr_bound(self, samples: Samples, level: float, support: Support | None) -> float:
        """Return the PSNR (dB) that the mean image reaches on `support` with probability `level`, without a reference.

        `support` is that of the operator, as in the fit, or None where it has none; both cropped as the result is.
        """
        return predicted_psnr(samples, support) - _fitted("psnr_margin", self.psnr_margin, level)

    def mismatch(self, checksum: str, operator: str, prior: Mapping[str, object], sampler: Mapping[str, object]) -> str:
        """Say what differs from what was calibrated: weights, operator, or settings of prior and sampler; or ""."""
        if checksum != self.weights_sha256:
            return "it was fitted for other weights"
        if operator != self.operator:
            return f"operator: found {operator}; it was fitted for {self.operator}"
        known = sampler.keys() - UNRELATED | self.solver_settings.keys()  # a setting may be newer than the file
        for stored, now, names in ((self.prior_settings, prior, ()), (self.solver_settings, sampler, known)):
            for name in sorted({*stored, *names}):
                if name not in stored or now.get(name) != stored[name]:
                    return f"{name}: found {now.get(name)}; it was fitted for {stored.get(name, 'none')}"
        return ""


def _fitted(name: str, values: Mapping[float, float] | None, level: float) -> float:
    if values and level in values:
        return values[level]
    known = ", ".join(f"{one:g}" for one in values or ())
    missing = "none: calibrate with --conformal, on such masks and enough slices"
    raise InputError("calibration", name, f"no level {level:g}", known or missing)


def calibration_path(weights: Path) -> Path:
    """Return where the calibration of a weight file is stored: beside it."""
    return weights.with_suffix(".calibration.json")


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write `calibration` as JSON, atomically."""
    write_text(path, calibration.model_dump_json(indent=2) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Read what `write_calibration` wrote (`InputError` for anything else)."""
    try:
        if not path.is_file():
            raise InputError(path, "", "no file" if not path.exists() else "no regular file", "a calibration")
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(path, "", f"that it cannot be read ({reason(error)})", "a calibration") from None
    if len(content) > MAX_BYTES:
        raise InputError(path, "", f"more than {MAX_BYTES} bytes", "a calibration")
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise InputError(path, "", "no JSON", "a calibration") from None
        raise InputError(path, ".".join(map(str, first["loc"])), *refused(first)) from None
