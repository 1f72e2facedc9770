"""Results in the formats of other programs: BART, NIfTI, PNG."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from matplotlib.image import imsave
from torch import Tensor

from mriinv.data.geometry import Geometry
from mriinv.data.results import EXPORT_MARK, Result, is_export, partial_path, read_result
from mriinv.errors import InputError, UnknownNameError
from mriinv.files import atomic_path, unwritable
from mriinv.numerics.images import display_limit

BART_AXES, BART_COIL, BART_SLICE = 16, 3, 13
SCANNER, UNKNOWN = 1, 0  # codes of NIfTI for what coordinates refer to
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ENDS = {  # of the names of the files of a format: what they append to the stem of a result, and the suffix
    "cfl": (r"(_std|_maps)?", r"\.(cfl|hdr)"),
    "nii": (r"(_std)?", r"\.nii"),
    "nii.gz": (r"(_std)?", r"\.nii\.gz"),
    "png": (r"_\d{3,}", r"\.png"),
}
STRAY = 0.05  # of the slice distance, by which a slice may miss its place in the stack; and of a unit vector

Writer = Callable[[Result, Path], list[Path]]  # the path lacks the suffix


def export_result(path: str | Path, format: str, out: str | Path | None = None) -> list[Path]:
    """Write a result in another format and return the files; those of an earlier export to it are replaced or removed.

    So are those of the incomplete result that a complete one took the place of.

    ``cfl``: BART; the complex images with the axes y, x, slice as READ, PHS1, SLICE, and the coil maps, ``_maps``.
    ``nii``, ``nii.gz``: NIfTI; magnitudes with the axes x, y, slice. Where the slices have a known place, that gives
    their order and the coordinates, the scanner's (codes 1). Otherwise the codes are 0, and voxel sizes are in mm or,
    where these are unknown as well, 1 without a unit.
    ``png``: a grey image per slice, ``_<slice>``; magnitudes from 0 to the 99.5th percentile of the exported slices.

    Files are named after the result, ``<stem>.partial`` when it is incomplete. With posterior samples there is a second
    file ``_std``, the pixelwise standard deviation of what is in the first: of complex values in cfl, of magnitudes in
    NIfTI.

    Parameters
    ----------
    path : a result file
    format : one of `FORMATS`
    out : folder of the files, made when missing; None for that of the result

    Raises
    ------
    UnknownNameError : no such format
    InputError : no result file, no finished slice, slices that do not form a volume, a file of somebody else in the
        place of one to be written, or a place that cannot be written
    """
    write, path = find_writer(format), Path(path)
    result = read_result(path, arrays=("std", "magnitude_std", "coil_maps"))
    if not result.slices:
        raise InputError(path, "", "no finished slice", "at least one")
    named = path if result.complete or path.stem.endswith(".partial") else partial_path(path)
    base = (path.parent if out is None else Path(out)) / named.stem
    written = write(result, base)
    for file in _exports(path, base, [format]):
        if file not in written:
            _remove(file)
    return written


def remove_exports(path: Path) -> None:
    """Remove what was exported from a result beside it, in any format."""
    for file in _exports(path, path.with_suffix(""), ENDS):
        _remove(file)


def _exports(path: Path, base: Path, formats: Iterable[str]) -> list[Path]:
    """Return what was exported from a result under the name `base`, but for what belongs to another result."""
    partial_too = "" if partial_path(path).exists() else r"(\.partial)?"
    found = []
    for appended, suffix in (ENDS[format] for format in formats):
        own_name = re.compile(rf"({re.escape(base.name)}{partial_too}{appended}){suffix}")
        for file in sorted(base.parent.iterdir()):  # the header of a pair, by which it is known, after its values
            named_as = own_name.fullmatch(file.name)
            another = named_as and named_as[1] != path.stem and path.with_name(f"{named_as[1]}.h5").exists()
            if named_as and not another and is_export(file):
                found.append(file)
    return found


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(file, error) from None


def find_writer(format: str) -> Writer:
    """Return what writes `format` (`UnknownNameError` when nothing does)."""
    if format not in FORMATS:
        raise UnknownNameError("export format", format, FORMATS)
    return FORMATS[format]


def _write_cfl(result: Result, base: Path) -> list[Path]:
    _require_consecutive(result, base)
    written = _cfl(base, "", result.image)
    for name, suffix in (("std", "_std"), ("coil_maps", "_maps")):
        if name in result.arrays:
            written += _cfl(base, suffix, result.arrays[name])
    return written


def _cfl(base: Path, suffix: str, values: Tensor) -> list[Path]:
    """Write ``(slices, [coil,] y, x)`` as a pair; the header comes last, so that it never lacks its data."""
    slices, *coil, y, x = values.shape
    sizes = [y, x] + [1] * (BART_AXES - 2)
    sizes[BART_COIL], sizes[BART_SLICE] = coil[0] if coil else 1, slices
    data, header = _beside(base, f"{suffix}.cfl"), _beside(base, f"{suffix}.hdr")
    _require_free(header if header.exists() else data, base, suffix)
    with atomic_path(header) as unfinished_header, atomic_path(data) as unfinished_data:
        values.numpy().swapaxes(-1, -2).astype("<c8").tofile(unfinished_data)  # column-major: y runs fastest
        unfinished_header.write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n# Creator\n{EXPORT_MARK}\n")
    return [data, header]


def _write_nifti(result: Result, base: Path, suffix: str) -> list[Path]:
    _require_consecutive(result, base)
    geometry = [result.geometry[index] for index in result.slices if index in result.geometry]
    sized = len(geometry) == len(result.slices)
    order, affine = list(range(len(result.slices))), None
    if sized and all(one.centre is not None and one.axes is not None for one in geometry):
        order, affine = _placement(geometry, result.image.shape[1:], base)
    volumes = {"": result.image.abs()}
    if "magnitude_std" in result.arrays:
        volumes["_std"] = result.arrays["magnitude_std"]
    written = []
    for kind, values in volumes.items():
        image = nibabel.Nifti1Image(values[order].numpy().astype(np.float32).transpose(2, 1, 0), None)
        if sized:
            y, x = geometry[0].pixel
            image.header.set_xyzt_units("mm")
            image.header.set_zooms((x, y, geometry[0].spacing))
        if affine is not None:
            columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
            rigid = np.allclose(columns.T @ columns, np.eye(3), atol=1e-3)
            image.set_qform(affine, SCANNER if rigid else UNKNOWN)  # its quaternion cannot express a sheared stack
            image.set_sform(affine, SCANNER)
        written.append(_beside(base, kind + suffix))
        _require_free(written[-1], base, kind)
        image.header["descrip"] = EXPORT_MARK.encode()
        data = image.to_bytes()
        with atomic_path(written[-1]) as unfinished:
            unfinished.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data)
    return written


def _require_free(path: Path, base: Path, suffix: str) -> None:
    """Refuse to replace what was not exported here, such as k-space, and to take the place of exports of others."""
    other = _beside(base, f"{suffix}.h5")
    if suffix and other.exists():
        raise InputError(
            path, "", f"the place of exports of {other.name}", "another folder, or name, for one of the two"
        )
    if path.exists() and not is_export(path):
        expected = "another folder, or the file out of the way"
        raise InputError(path, "", "a file that was not exported by mriinv", expected)


def _placement(geometry: list[Geometry], shape: tuple[int, ...], base: Path) -> tuple[list[int], np.ndarray]:
    """Return the order of slices with known places, and what takes voxels (x, y, slice) to RAS coordinates in mm.

    Slices are put in order because interleaved ones are often numbered as they were acquired. The step between them
    is measured from the first centre to the last; `Geometry.spacing` serves a single slice.
    """
    centres, axes = (np.array([getattr(one, name) for one in geometry]) for name in ("centre", "axes"))
    along_y, along_x, across = axes[0]
    order = np.argsort(centres @ across, kind="stable")
    centres, number = centres[order], np.arange(len(order))[:, None]
    step = (centres[-1] - centres[0]) / number[-1] if len(order) > 1 else geometry[0].spacing * across
    stray = np.abs(centres - centres[0] - number * step).max()
    if not stray < STRAY * np.linalg.norm(step) or np.abs(axes - axes[0]).max() > STRAY:
        expected = "one such stack, alone (--slices of a run); png takes any slices"
        raise InputError(base.name, "geometry", "slices in no evenly spaced stack", expected)
    y, x = geometry[0].pixel
    affine = np.eye(4)
    affine[:3, :3] = np.stack([x * along_x, y * along_y, step], axis=1)
    affine[:3, 3] = centres[0] - affine[:3, :3] @ [shape[1] // 2, shape[0] // 2, 0]
    return order.tolist(), LPS_TO_RAS @ affine


def _write_png(result: Result, base: Path) -> list[Path]:
    magnitude = result.image.abs().numpy()
    window = display_limit(result.image)
    written = []
    for index, values in zip(result.slices, magnitude, strict=True):
        written.append(_beside(base, f"_{index:03d}.png"))
        _require_free(written[-1], base, f"_{index:03d}")
        with atomic_path(written[-1]) as unfinished:
            imsave(unfinished, values, cmap="gray", vmin=0, vmax=window, metadata={"Software": EXPORT_MARK})
    return written


def _require_consecutive(result: Result, base: Path) -> None:
    first = result.slices[0]
    if result.slices != tuple(range(first, first + len(result.slices))):
        found = ", ".join(map(str, result.slices))
        raise InputError(base.name, "slices", found, "consecutive ones, which make a volume; png takes any slices")


def _beside(base: Path, ending: str) -> Path:
    """Append to a name that may itself hold dots."""
    return base.with_name(base.name + ending)


FORMATS: dict[str, Writer] = {
    "cfl": _write_cfl,
    "nii": partial(_write_nifti, suffix=".nii"),
    "nii.gz": partial(_write_nifti, suffix=".nii.gz"),
    "png": _write_png,
}
