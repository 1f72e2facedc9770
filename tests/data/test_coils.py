"""Simulated coils: the fields, coupling and noise of loops; maps that are normalised, smooth and different."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ellipe, ellipk

from mriinv.data.coils import AXIAL, CoilArray, mutual_inductance, simulate_coil_maps, transverse_field
from mriinv.errors import InputError
from mriinv.numerics.noise import coloured_noise

CORONAL = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def maps(shape: tuple[int, int], coils: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return simulate_coil_maps(shape, coils, torch.Generator().manual_seed(seed), dtype)


def array(coils: int, seed: int = 0, shape: tuple[int, int] = (64, 64)) -> CoilArray:
    return CoilArray.draw(shape, coils, torch.Generator().manual_seed(seed))


def loop(radius: float, height: float, segments: int = 400) -> torch.Tensor:
    """Return the corners ``(segment, 3)`` of a circle about the x axis."""
    t = 2 * math.pi * torch.arange(segments, dtype=torch.float64) / segments
    return torch.stack([torch.full_like(t, height), radius * t.cos(), radius * t.sin()], -1)


@pytest.mark.parametrize("coils", [1, 4, 8, 13, 32])
@pytest.mark.parametrize("shape", [(64, 64), (65, 48), (31, 90), (1, 1)])
def test_unit_sum_of_squares(shape: tuple[int, int], coils: int) -> None:
    c = maps(shape, coils)
    assert c.shape == (coils, *shape) and c.dtype == torch.complex64
    torch.testing.assert_close(c.abs().square().sum(0), torch.ones(shape))


def test_double_precision() -> None:
    c = maps((40, 33), 6, dtype=torch.complex128)
    torch.testing.assert_close(c.abs().square().sum(0), torch.ones(40, 33, dtype=torch.float64), atol=1e-12, rtol=0)


def test_field_on_the_axis_of_a_loop() -> None:
    """Biot–Savart: B = 2π a² / (a² + s²)^(3/2) in units of μ₀/4π, with the softening added to the square distance."""
    at = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [-1.5, 0.0, 0.0]], dtype=torch.float64)
    field = transverse_field(loop(0.7, 0.0)[None], at)[0]
    expected = 2 * math.pi * 0.7**2 / (0.7**2 + at[:, 0] ** 2 + 0.35**2) ** 1.5
    torch.testing.assert_close(field.real, expected, rtol=1e-3, atol=0)
    assert field.imag.abs().max() < 1e-12


def test_field_turns_with_the_loop() -> None:
    """With y along the axis of the loop instead of x, −iB_y takes the place of B_x."""
    at = torch.tensor([[0.3, -0.4, 0.2]], dtype=torch.float64)
    turned = loop(0.7, 0.1)[None].roll(1, -1)
    torch.testing.assert_close(
        transverse_field(turned, at.roll(1, -1)).imag, -transverse_field(loop(0.7, 0.1)[None], at).real
    )


@pytest.mark.parametrize(("a", "b", "apart"), [(0.5, 0.5, 0.4), (0.3, 0.6, 0.5), (0.5, 0.4, 1.5)])
def test_mutual_inductance_of_coaxial_loops(a: float, b: float, apart: float) -> None:
    """Maxwell's formula with complete elliptic integrals."""
    m = 4 * a * b / ((a + b) ** 2 + apart**2)
    expected = (
        4 * math.pi * math.sqrt(a * b) * ((2 / math.sqrt(m) - math.sqrt(m)) * ellipk(m) - 2 / math.sqrt(m) * ellipe(m))
    )
    inductance = mutual_inductance(torch.stack([loop(a, 0.0), loop(b, apart)]))
    assert float(inductance[0, 1]) == pytest.approx(expected, rel=0.01)
    torch.testing.assert_close(inductance, inductance.T)
    torch.testing.assert_close(
        inductance[0, 0], torch.tensor(4 * math.pi * a * (math.log(400 * a) - 2)).double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("coils", [4, 8, 16, 32])
def test_coupling_mixes_some_of_each_signal(coils: int) -> None:
    """(I + κ)⁻¹ up to the phases of the receivers: κ is imaginary, symmetric and without diagonal."""
    for seed in range(5):
        a = array(coils, seed)
        inverse = torch.linalg.inv(a.mixing)
        phases = inverse.diagonal()
        torch.testing.assert_close(phases.abs(), torch.ones(coils, dtype=torch.float64))
        coupling = inverse / phases - torch.eye(coils)
        torch.testing.assert_close(coupling.real, torch.zeros(coils, coils, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(coupling, coupling.T)
        share = a.mixing.abs() / a.mixing.diagonal().abs()[:, None]
        assert 0.01 < float(share.fill_diagonal_(0).max()) < 0.7


@pytest.mark.parametrize("coils", [4, 8, 32])
def test_smooth(coils: int) -> None:
    c = maps((192, 160), coils)
    for axis in (-2, -1):
        assert c[:, 24:-24, 20:-20].diff(dim=axis).abs().max() < 0.06
        assert c[:, 4:-4, 4:-4].diff(n=2, dim=axis).abs().max() < 0.02  # no kinks from the interpolation


@pytest.mark.parametrize("axes", [AXIAL, CORONAL])
def test_slices_are_cuts_through_one_field(axes: tuple) -> None:
    a = CoilArray.draw((64, 48), 8, torch.Generator().manual_seed(2), axes)
    heights = tuple(0.05 * i for i in range(-4, 5))
    stack = a.maps(heights)
    assert stack.shape == (9, 8, 64, 48)
    assert torch.equal(stack[4:5], a.maps())
    steps = stack[..., 8:-8, 6:-6].diff(dim=0).abs()
    assert 0.02 < float(steps.max()) < 0.25 and stack.diff(n=2, dim=0)[..., 8:-8, 6:-6].abs().max() < 0.05


def test_maps_do_not_depend_on_how_the_slices_lie() -> None:
    """One point of space in an axial and in a coronal slice through it."""
    axial = array(6, shape=(64, 64))
    coronal = CoilArray(axial.loops, axial.mixing, (64, 64), CORONAL)
    z, y = 10, 5  # pixels: up and back
    across = axial.maps((z / 32,), torch.complex128)[0, :, 32 + y]
    torch.testing.assert_close(across, coronal.maps((y / 32,), torch.complex128)[0, :, 32 - z], atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("coils", [1, 4, 8, 16, 32])
def test_noise_covariance(coils: int) -> None:
    """Hermitian, positive definite, of the given mean; correlations as in head arrays, strongest between neighbours."""
    covariance = array(coils).noise_covariance(0.3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(covariance, covariance.mH, atol=0, rtol=0)
    assert float(covariance.diagonal().real.mean()) == pytest.approx(2 * 0.3**2)
    assert torch.linalg.eigvalsh(covariance)[0] > 0.01 * 2 * 0.3**2
    if coils > 1:
        std = covariance.diagonal().real.sqrt()
        correlation = (covariance.abs() / (std[:, None] * std)).fill_diagonal_(0)
        assert 0.05 < float(correlation.max()) < 0.8
        assert correlation.sum() / (coils * (coils - 1)) < 0.35
        assert 1 < float(std.max() / std.min()) < 2.5
    if coils == 8:
        assert correlation.diagonal(1).mean() > correlation.diagonal(4).mean()


def test_coupling_is_inductive() -> None:
    """(I + κ)⁻¹ up to the phases of the receivers, κ = i Q M / √(L L) / p."""
    drawn = array(5)
    inverse = torch.linalg.inv(drawn.mixing)
    coupling = inverse / inverse.diagonal() - torch.eye(5)
    inductance = mutual_inductance(drawn.loops)
    own = inductance.diagonal().sqrt()
    expected = (inductance / (own[:, None] * own)).fill_diagonal_(0)
    factor = (coupling.imag * expected).sum() / expected.square().sum()
    torch.testing.assert_close(coupling, torch.complex(torch.zeros(5, 5).double(), factor * expected))
    assert 30 / 10 ** (25 / 20) <= factor <= 30 / 10 ** (15 / 20)


def test_received_noise_is_mixed_as_signals_are() -> None:
    drawn = array(4)
    bare = replace(drawn, mixing=torch.eye(4, dtype=drawn.mixing.dtype))
    alone, received = (one.noise_covariance(1.0, torch.Generator().manual_seed(1)) for one in (bare, drawn))
    mixed = drawn.mixing @ alone @ drawn.mixing.mH
    torch.testing.assert_close(received, mixed * (2 / mixed.diagonal().real.mean()))


def test_noise_has_the_given_covariance() -> None:
    covariance = array(4).noise_covariance(0.5, torch.Generator().manual_seed(0))
    noise = coloured_noise((3, 4, 200, 100), covariance, torch.Generator().manual_seed(1), torch.complex128)
    samples = noise.movedim(1, 0).flatten(1)
    torch.testing.assert_close(samples @ samples.mH / samples.shape[1], covariance, atol=0.01, rtol=0)
    torch.testing.assert_close(samples @ samples.T / samples.shape[1], 0 * covariance, atol=0.01, rtol=0)  # circular
    lagged = (samples[:, 1:] * samples[:, :-1].conj()).mean(1).abs()
    assert lagged.max() < 0.01  # white from sample to sample


def test_identity_covariance_is_white_noise() -> None:
    noise = coloured_noise((2, 300, 300), torch.eye(2, dtype=torch.complex64), torch.Generator().manual_seed(0))
    assert noise.dtype == torch.complex64
    np.testing.assert_allclose([noise.real.std(), noise.imag.std()], 0.5**0.5, rtol=0.01)


@pytest.mark.parametrize(
    "covariance",
    [
        torch.eye(3, dtype=torch.complex64),
        torch.tensor([[1, 1j], [1j, 1]]),
        torch.tensor([[1, 2], [2, 1]], dtype=torch.complex64),
        torch.tensor([[1, float("nan")], [0, 1]], dtype=torch.complex64),
    ],
    ids=["size", "not Hermitian", "indefinite", "NaN"],
)
def test_bad_covariance(covariance: torch.Tensor) -> None:
    with pytest.raises(InputError, match="covariance"):
        coloured_noise((2, 8, 8), covariance, torch.Generator())


def test_errors() -> None:
    with pytest.raises(InputError, match="coils: found 0"):
        maps((32, 32), 0)
    with pytest.raises(InputError, match="shape"):
        maps((0, 32), 4)
