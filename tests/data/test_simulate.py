"""The simulated scan: its noise is what it states and its reference is its image."""

from __future__ import annotations

import pytest
import torch

from mriinv.core.problem import reference_scale
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import InputError
from mriinv.numerics.fft import ifft2c


@pytest.mark.parametrize(("shape", "coils"), [((64, 48), 4), ((65, 51), 8)])
def test_contents(shape: tuple[int, int], coils: int) -> None:
    scan = simulate_acquisition(shape=shape, coils=coils, seed=3)
    assert scan.kspace.shape == (1, coils, *shape) and scan.kspace.dtype == torch.complex64
    assert scan.fully_sampled and scan.mask.shape == (1, *shape)
    assert scan.coil_maps is None  # so that calibration is really done
    assert scan.reference is not None and scan.reference.shape == (1, *shape)
    torch.testing.assert_close(reference_scale(scan.reference), torch.ones(1))
    assert scan.source == "simulated scan (seed 3)"
    assert scan.header["simulated"] == "yes" and scan.header["seed"] == "3"


def test_noise_has_the_stated_standard_deviation() -> None:
    noisy, clean = (simulate_acquisition(shape=(96, 96), noise_std=std, seed=1) for std in (0.05, 0.0))
    noise = noisy.kspace - clean.kspace
    assert noisy.noise_std == 0.05
    for part in (noise.real, noise.imag):
        assert 0.97 < float(part.std()) / 0.05 < 1.03
        assert abs(float(part.mean())) < 0.001


def test_coil_images_combine_to_the_reference() -> None:
    """The maps have unit sum of squares, so the root sum of squares of the coil images is |x|."""
    scan = simulate_acquisition(shape=(80, 72), noise_std=0.0)
    assert scan.reference is not None
    combined = ifft2c(scan.kspace).abs().square().sum(1).sqrt()
    torch.testing.assert_close(combined, scan.reference.abs(), atol=1e-5, rtol=0)


def test_seed_determines_the_scan() -> None:
    first, again, other = (simulate_acquisition(shape=(48, 48), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.kspace, again.kspace)
    assert not torch.allclose(first.kspace, other.kspace, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"shape": (8, 64)}, "shape"),
        ({"coils": 0}, "coils"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"noise_std": float("nan")}, "noise_std"),
        ({"seed": -1}, "seed"),
    ],
)
def test_errors(arguments: dict, field: str) -> None:
    with pytest.raises(InputError, match=field):
        simulate_acquisition(**arguments)
