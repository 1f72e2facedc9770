"""Sampling masks that somebody else made, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mriinv.core.types import Mask
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
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                if FIELD not in archive:
                    raise InputError(path, FIELD, f"entries {', '.join(archive) or 'none'}", f"an entry '{FIELD}'")
                loaded = archive[FIELD]
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None)  # NumPy's advice on pickled objects helps nobody
        expected = f"npy, or npz with '{FIELD}'; no pickled objects"
        raise InputError(path, "", "no readable mask" + (f" ({why})" if why else ""), expected) from None
    y, x = grid
    shape = (1,) * (3 - loaded.ndim) + loaded.shape
    if shape not in ((1, y, x), (1, 1, x)):
        expected = f"({y}, {x}) as k-space, or ({x},) for whole columns"
        raise InputError(path, FIELD, f"shape {loaded.shape}", expected)
    if loaded.dtype.kind not in "biuf" or not ((loaded == 0) | (loaded == 1)).all():
        raise InputError(path, FIELD, f"{loaded.dtype} with other values than 0 and 1", "0 and 1, or false and true")
    if not loaded.any():
        raise InputError(path, FIELD, "no sampled location", "at least one")
    return torch.from_numpy(np.array(loaded == 1).reshape(shape))
