"""What a file holds, whether it can be reconstructed, and what is missing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mriinv.compose import make_operator
from mriinv.data.acquisition import Acquisition, Sampling
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import Scan, open_scan
from mriinv.data.results import FORMAT, attributes, is_result, read_result
from mriinv.data.suspicions import suspicions
from mriinv.errors import MriinvError

OPERATOR, RECIPE, MASK = "sense", "cg-sense", "poisson-2d"  # of the commands that are suggested


@dataclass(frozen=True)
class SliceCheck:
    """One slice of k-space as it was acquired.

    Attributes
    ----------
    index : slice of the file
    sampling : `Acquisition.sampling`
    zero_padded : whether it is a full rectangle in a larger grid
    acquired : the smallest rectangle that holds every sample (y, x)
    acceleration : locations in the grid over samples; 1 where no more than padding is missing
    centre : width of the fully sampled square in the middle of the grid, in samples
    noise_std : per real component, after whitening; None when unknown
    noise_estimated : whether it was estimated from the data
    dynamic_range : largest magnitude in k-space over `noise_std`, in dB
    """

    index: int
    sampling: Sampling
    zero_padded: bool
    acquired: tuple[int, int]
    acceleration: float
    centre: int
    noise_std: float | None
    noise_estimated: bool
    dynamic_range: float | None


@dataclass(frozen=True)
class CheckReport:
    """What is known of a file.

    Attributes
    ----------
    path : the file
    found : what it says of itself
    slices : those that were read, of k-space
    problems : what makes a reconstruction impossible
    remarks : what else is worth knowing
    commands : what could be typed next
    reconstructible : whether every slice that was read can be reconstructed
    is_result : whether it is a result, which needs no reconstruction
    """

    path: Path
    found: dict[str, Any] = field(default_factory=dict)
    slices: list[SliceCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    reconstructible: bool = False
    is_result: bool = False


def check_scan(path: str | Path, *, every_slice: bool = False) -> CheckReport:
    """Open a file as a run would, read its middle slice or all of them, and calibrate the operator on what is there.

    A result file is described as well; it is nothing to reconstruct. Nothing that is wrong with the file raises.
    """
    path = Path(path)
    try:
        if path.is_file() and is_result(path):
            return _check_result(path)
        with open_scan(path) as scan:
            return _check_kspace(path, scan, range(len(scan)) if every_slice else [len(scan) // 2])
    except MriinvError as error:
        return CheckReport(path, problems=[str(error)])


def _check_kspace(path: Path, scan: Scan, indices: Sequence[int]) -> CheckReport:
    slices: list[SliceCheck] = []
    problems: list[str] = []
    remarks: dict[int, list[str]] = {}
    prepared: Acquisition | None = None
    for index in indices:
        try:
            acquisition = scan.read(index)
            remarks[index] = [*suspicions(acquisition)]
            prepared = prepare_acquisition(acquisition)
            remarks[index] = [*prepared.remarks]
            if crop := _image_size(prepared):
                remarks[index].append(f"the scanner's images have {crop[0]} × {crop[1]} pixels: --crop")
            slices.append(_check_slice(index, acquisition, prepared))
            remarks[index] += make_operator(OPERATOR, prepared).notes
        except MriinvError as error:
            problems.append(str(error))
    usable = None if problems else prepared
    return CheckReport(
        path,
        scan.describe(),
        slices,
        problems,
        _gathered(remarks, len(indices)),
        [] if usable is None else _commands(path, usable),
        usable is not None,
    )


def _check_slice(index: int, acquisition: Acquisition, prepared: Acquisition) -> SliceCheck:
    y, x = acquisition.kspace.shape[-2:]
    mask = acquisition.mask[0].expand(y, x)
    top, bottom, left, right = acquisition.extent
    noise = None if prepared.noise_std is None else float(prepared.noise_std)
    return SliceCheck(
        index,
        acquisition.sampling,
        acquisition.gapless and not acquisition.fully_sampled,
        (bottom - top, right - left),
        1.0 if acquisition.gapless else acquisition.acceleration,
        _centre_width(mask),
        noise,
        acquisition.noise_std is None,
        20 * math.log10(float(prepared.kspace.abs().max()) / noise) if noise else None,
    )


def _centre_width(mask: Tensor) -> int:
    """Return the side of the largest fully sampled square around the middle of `mask` (y, x)."""
    width = 0
    while width < min(mask.shape):
        top, left = (size // 2 - (width + 1) // 2 for size in mask.shape)
        if not mask[top : top + width + 1, left : left + width + 1].all():
            break
        width += 1
    return width


def _commands(path: Path, prepared: Acquisition) -> list[str]:
    """Return commands that work on a scan that can be reconstructed."""
    run = f"mriinv run {shlex.quote(str(path))}"
    if crop := _image_size(prepared):
        run += f" --crop {crop[0]} {crop[1]}"
    commands = [f"{run} --recipe {RECIPE}"]
    if prepared.gapless:
        try:
            undersampled = prepared.undersampled(MaskChoice(name=MASK).mask_for(prepared))
            make_operator(OPERATOR, undersampled)
            commands.append(f"{run} --recipe {RECIPE} --mask {MASK}")
        except MriinvError:
            pass  # too small for the mask, or for calibration in it
    return commands


def _image_size(acquisition: Acquisition) -> tuple[int, int] | None:
    """Return the matrix (y, x) of the scanner's images where the header has one, and the k-space is larger."""
    matrix = acquisition.header.get("recon_matrix", "")
    if not matrix:
        return None
    y, x, _ = map(int, matrix.split("x"))
    rows, columns = acquisition.kspace.shape[-2:]
    return (y, x) if (y, x) != (rows, columns) and y <= rows and x <= columns else None


def _gathered(remarks: Mapping[int, Iterable[str]], count: int) -> list[str]:
    """Return every remark once, with the slices that it is on unless these are all `count` of them."""
    slices: dict[str, list[str]] = {}
    for index, texts in remarks.items():
        for text in texts:
            slices.setdefault(text, []).append(str(index))
    return [text if len(on) == count else f"slice {', '.join(on)}: {text}" for text, on in slices.items()]


def _check_result(path: Path) -> CheckReport:
    result = read_result(path, arrays=())
    found: dict[str, Any] = {
        "path": str(path),
        "format": FORMAT,
        "complete": result.complete,
        "slices": len(result.slices),
        "matrix": list(result.image.shape[1:]),
        "method": " + ".join(filter(None, (_name(result.settings, part) for part in ("prior", "solver")))),
        "mask": _name(result.settings, "mask") or "as acquired",
        "source": result.provenance.get("source"),
        **{f"mean {name}": float(f"{values.nanmean():.4g}") for name, values in result.metrics.items()},
    }
    missing = sorted(set(attributes(path)["slices"].tolist()) - set(result.slices))
    notes = [f"incomplete, without slice {', '.join(map(str, missing))}"] if missing else []
    notes += _gathered(result.remarks, len(result.slices))
    finite = bool(result.image.isfinite().all())
    problems = [] if finite else ["the images hold NaN or infinity"]
    return CheckReport(path, found, problems=problems, remarks=notes, is_result=True)


def _name(settings: Any, part: str) -> str:
    """Return what was chosen for a part of a run; "" for nothing."""
    choice = settings.get(part)
    return str(choice["name"]) if choice else ""
