"""Sampling masks that somebody else made, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mriinv.core.types import Mask
from mriinv.data.array_file import stored_array
from mriinv.errors import InputError

FIELD = "mask"
SUFFIXES = (".npy", ".npz")


def read_mask(path: Path, grid: tuple[int, int]) -> Mask:
    """Return the mask of a file: zeros and ones, or bool, (y, x) or (x,) for whole columns.

    Parameters
    ----------
    path : npy, or npz with an entry ``mask``
    grid : (y, x) of the k-space that it is for; k = 0 is in the middle of both

    Returns
    -------
    bool ``(1, y, x)``, or ``(1, 1, x)`` for lines

    Raises
    ------
    InputError : no such file, a format that cannot be read, another shape, values other than 0 and 1, no sample
    """
    y, x = grid
    with stored_array(path, FIELD, what="mask", axes="(y, x)", formats=f"npy, or npz with '{FIELD}'") as entry:
        shape = (1,) * (3 - len(entry.shape)) + entry.shape
        if shape not in ((1, y, x), (1, 1, x)):
            expected = f"({y}, {x}) as k-space, or ({x},) for whole columns"
            raise InputError(path, FIELD, f"shape {entry.shape}", expected)
        values = np.asarray(entry)
    if values.dtype.kind not in "biuf":
        raise InputError(path, FIELD, str(values.dtype), "bool, integers or real numbers")
    if not ((values == 0) | (values == 1)).all():
        raise InputError(path, FIELD, f"{values.dtype} with other values than 0 and 1", "0 and 1, or false and true")
    if not values.any():
        raise InputError(path, FIELD, "no sampled location", "at least one")
    return torch.from_numpy(np.array(values == 1).reshape(shape))
