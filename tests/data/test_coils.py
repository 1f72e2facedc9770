"""Simulated coils: normalised, smooth and different from each other."""

from __future__ import annotations

import pytest
import torch

from mriinv.data.coils import simulate_coil_maps
from mriinv.errors import InputError


def maps(shape: tuple[int, int], coils: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return simulate_coil_maps(shape, coils, torch.Generator().manual_seed(seed), dtype)


@pytest.mark.parametrize("coils", [1, 4, 8, 13, 32])
@pytest.mark.parametrize("shape", [(64, 64), (65, 48), (31, 90), (1, 1)])
def test_unit_sum_of_squares(shape: tuple[int, int], coils: int) -> None:
    c = maps(shape, coils)
    assert c.shape == (coils, *shape) and c.dtype == torch.complex64
    torch.testing.assert_close(c.abs().square().sum(0), torch.ones(shape))


def test_double_precision() -> None:
    c = maps((40, 33), 6, dtype=torch.complex128)
    torch.testing.assert_close(c.abs().square().sum(0), torch.ones(40, 33, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("coils", [4, 8, 32])
def test_smooth(coils: int) -> None:
    c = maps((192, 160), coils)[:, 24:-24, 20:-20]
    for axis in (-2, -1):
        assert c.diff(dim=axis).abs().max() < 0.06
        assert c.diff(n=2, dim=axis).abs().max() < 0.02  # no kinks from the interpolation


@pytest.mark.parametrize(("coils", "ratio"), [(4, 0.1), (8, 0.015), (16, 1e-3), (32, 1e-4)])
def test_not_collinear(coils: int, ratio: float) -> None:
    for seed in range(5):
        values = torch.linalg.svdvals(maps((64, 64), coils, seed).flatten(1))
        assert values[-1] / values[0] > ratio


def test_every_coil_sees_something_best() -> None:
    strongest = maps((96, 96), 8).abs().argmax(0)
    assert len(strongest.unique()) == 8


def test_constant_phases_differ() -> None:
    phases = maps((32, 32), 16)[:, 16, 16].angle()
    assert phases.std() > 0.5


def test_seed_determines_the_maps() -> None:
    assert torch.equal(maps((32, 40), 8, 1), maps((32, 40), 8, 1))
    assert not torch.allclose(maps((32, 40), 8, 1), maps((32, 40), 8, 2), atol=0.1)


def test_errors() -> None:
    with pytest.raises(InputError, match="coils: found 0"):
        maps((32, 32), 0)
    with pytest.raises(InputError, match="shape"):
        maps((0, 32), 4)
