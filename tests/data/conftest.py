"""Writers of small k-space files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

Writer = Callable[..., Path]


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:  # given a name, NumPy would append .npz
        np.savez(file, **{"ksp" if name == "kspace" else name: value for name, value in arrays.items()})
    return path


@pytest.fixture
def write_hdf5() -> Writer:
    return hdf5


@pytest.fixture
def write_npz() -> Writer:
    return npz


@pytest.fixture(params=[hdf5, npz], ids=["hdf5", "npz"])
def write(request: pytest.FixtureRequest) -> Writer:
    """Write the same arrays once as HDF5 and once as npz."""
    return request.param
