"""Masks from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mriinv.data.mask_file import read_mask
from mriinv.errors import InputError

GRID = (6, 8)
POINTS = np.arange(48).reshape(GRID) % 3 == 0
COLUMNS = np.arange(8) % 2 == 0


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize(
    ("mask", "shape"),
    [(POINTS, (1, *GRID)), (POINTS[None], (1, *GRID)), (COLUMNS, (1, 1, 8)), (COLUMNS[None], (1, 1, 8))],
)
def test_points_and_columns(tmp_path: Path, mask: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    np.save(tmp_path / "mask.npy", mask.astype(dtype))
    np.savez(tmp_path / "mask.npz", mask=mask.astype(dtype))
    for suffix in (".npy", ".npz"):
        found = read_mask(tmp_path / f"mask{suffix}", GRID)
        assert found.dtype == torch.bool and torch.equal(found, torch.from_numpy(mask.reshape(shape)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (POINTS.T, r"mask: found shape \(8, 6\); expected \(6, 8\) as k-space, or \(8,\)"),
        (np.ones((2, *GRID)), r"found shape \(2, 6, 8\)"),
        (255 * POINTS.astype(int), "int64 with other values than 0 and 1"),
        (POINTS * 1j, "found complex128; expected bool, integers or real numbers"),
        (np.full(8, np.nan), "float64 with other values"),
        (0 * COLUMNS, "found no sampled location"),
        (np.array([None] * 8), "no readable mask; expected npy, or npz with 'mask'; no pickled objects"),
    ],
)
def test_what_is_no_mask(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(InputError, match=message):
        read_mask(tmp_path / "mask.npy", GRID)


def test_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", sampling=COLUMNS)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00((((")
    for name, message in (
        ("other.npz", "mask: found entries sampling; expected an entry 'mask'"),
        ("text.npy", "no readable mask"),
        ("header.npy", "no readable mask"),
        ("none.npy", r"no readable mask \(No such file or directory\)"),
    ):
        with pytest.raises(InputError, match=message):
            read_mask(tmp_path / name, GRID)
