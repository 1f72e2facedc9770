"""Label volumes of heads: NIfTI, or NumPy archives."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from mriinv.data.readers.base import DAMAGE
from mriinv.data.tissue import LARGEST_LABEL, classify_labels
from mriinv.errors import InputError
from mriinv.files import reason

SUFFIXES = (".npz", ".nii", ".nii.gz")
MAX_VOXELS = 2**27
ENTRY = "labels"
_DAMAGE = (*DAMAGE, ArithmeticError, MemoryError, ImageFileError, HeaderDataError, OrientationError)


class LabelVolume(NamedTuple):
    """Tissue indices, uint8 ``(x, y, z)`` from left to right, from back to front and upwards; mm of a voxel."""

    tissues: Tensor
    voxel: Tensor


def label_files(path: Path) -> list[Path]:
    """Return the label volumes that a path stands for: the file, or those in the folder."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.name.endswith(SUFFIXES) and not file.name.startswith("."))
    if not found:
        raise InputError(path, "", "no label maps", f"a file or a folder of files {', '.join(SUFFIXES)}")
    return found


def read_labels(path: Path) -> LabelVolume:
    """Read FreeSurfer labels, with SynthSeg's 5xx labels around the brain, and classify them.

    NIfTI (``.nii``, ``.nii.gz``) is turned to the nearest axes; npz holds ``labels`` in the axes of `LabelVolume`, and
    optionally ``voxel``, three sizes in mm, otherwise 1.

    Raises
    ------
    InputError : no such file, damaged, too large, not a volume of labels
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("no regular file")
        with np.errstate(all="ignore"):  # what is not finite is refused below
            labels, voxel = _read_npz(path) if path.suffix == ".npz" else _read_nifti(path)
    except _DAMAGE as error:
        expected = "NIfTI or an npz file without pickled objects"
        raise InputError(path, "", f"no readable label volume ({reason(error)})", expected) from None
    if labels.ndim != 3 or labels.size == 0:
        raise InputError(path, ENTRY, f"{labels.dtype} {labels.shape}", "an integer volume (x, y, z)")
    if labels.dtype.kind == "f" and path.suffix != ".npz" and np.array_equal(labels, np.round(labels)):
        labels = labels.clip(-1, LARGEST_LABEL + 1).astype(np.int32)  # many programs write labels as floating point
    if labels.dtype.kind not in "iu":
        raise InputError(path, ENTRY, f"{labels.dtype} {labels.shape}", "an integer volume (x, y, z)")
    if labels.min() < 0 or labels.max() > LARGEST_LABEL or not labels.any():
        found = f"labels {labels.min()} to {labels.max()}"
        raise InputError(path, ENTRY, found, f"0 for air, larger ones to {LARGEST_LABEL} for tissue")
    if not (voxel.shape == (3,) and np.isfinite(voxel).all() and ((voxel > 0.1) & (voxel < 20)).all()):
        raise InputError(path, "voxel", str(voxel.tolist()), "three sizes in mm from 0.1 to 20")
    tissues = torch.from_numpy(np.ascontiguousarray(classify_labels(labels)))
    return LabelVolume(tissues, torch.from_numpy(voxel.astype(np.float32)))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > 8 * MAX_VOXELS:
        raise InputError(path, "", f"arrays of {size} bytes", f"at most {8 * MAX_VOXELS}")
    with np.load(path, allow_pickle=False) as file:
        if ENTRY not in file:
            raise InputError(path, ENTRY, f"the arrays {', '.join(file.files) or 'none'}", f"an array '{ENTRY}'")
        return file[ENTRY], file["voxel"].astype(float, casting="same_kind") if "voxel" in file else np.ones(3)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):  # of which NIfTI-2 is a kind
        raise InputError(path, "", type(image).__name__, "NIfTI")
    shape = image.shape
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or math.prod(shape) > MAX_VOXELS:
        raise InputError(path, ENTRY, f"a volume of shape {shape}", f"three axes, at most {MAX_VOXELS} voxels")
    if image.get_data_dtype().itemsize > 8:
        raise InputError(path, ENTRY, f"voxels of type {image.get_data_dtype()}", "integers")
    if len(shape) == 4:
        image = image.slicer[..., 0]
    image = nibabel.as_closest_canonical(image)
    return np.asanyarray(image.dataobj), np.array(image.header.get_zooms()[:3], float)
