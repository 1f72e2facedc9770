"""Fixtures of the tests of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import write_hdf5, write_npz

Writer = Callable[..., Path]


@pytest.fixture(params=[write_hdf5, write_npz], ids=["hdf5", "npz"])
def write(request: pytest.FixtureRequest) -> Writer:
    """Write the same arrays once as HDF5 and once as npz."""
    return request.param
