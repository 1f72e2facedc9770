"""Noise levels found in the data, against those that were put in or measured."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from statistics import fmean

import numpy as np
import pytest
import torch

from mriinv import Acquisition, complex_noise, make_mask, make_problem, open_scan, simulate_acquisition
from mriinv.data.compression import compress_coils
from mriinv.data.noise_level import estimate_noise_std, with_noise_std
from mriinv.data.preparation import whiten
from mriinv.numerics.fft import fft2c
from support import random

MASKS = [None, ("poisson-2d", 4), ("poisson-2d", 6), ("random-1d", 3), ("random-1d", 4)]


def undersampled(scan: Acquisition, mask: tuple[str, float] | None) -> Acquisition:
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    return scan if mask is None else scan.undersampled(make_mask(mask[0], shape, mask[1], seed=1))


def noise(*shape: int, std: float, seed: int = 0) -> torch.Tensor:
    return complex_noise(shape, std, torch.Generator().manual_seed(seed))


@lru_cache
def head(shape: tuple[int, int], coils: int) -> Acquisition:
    return simulate_acquisition(shape=shape, coils=coils, noise_std=0.0, seed=3)


def noisy(std: float, shape: tuple[int, int] = (192, 160), coils: int = 8) -> Acquisition:
    scan = head(shape, coils)
    return replace(scan, kspace=scan.kspace + noise(*scan.kspace.shape, std=std), noise_std=None)


@pytest.mark.parametrize(
    ("coils", "std", "mask"),
    [
        (coils, std, mask)
        for coils in (8, 16)
        for std in (0.001, 0.005, 0.02, 0.05)
        for mask in MASKS
        # with 8 coils, signal exceeds the least noise in all of k-space and in all combinations of coils
        if coils == 16 or std > 0.001 or mask is None or mask[0] != "poisson-2d"
    ],
)
def test_simulated_scans(coils, std, mask):
    scan = noisy(std, (192, 160) if coils == 8 else (160, 160), coils)
    assert estimate_noise_std(undersampled(scan, mask)).std == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("coils", [1, 4, 32])
def test_pure_noise_is_estimated_without_bias(coils, mask):
    scan = Acquisition(noise(2, coils, 120, 100, std=0.3), torch.ones(1, 1, 100, dtype=torch.bool))
    estimate = estimate_noise_std(undersampled(scan, mask))
    assert estimate.std == pytest.approx(0.3, rel=0.1)
    assert "upper bound" not in estimate.method


def test_the_median_of_powers_is_no_bias():
    scan = Acquisition(noise(8, 32, 240, 200, std=0.3), torch.ones(1, 1, 200, dtype=torch.bool))
    assert estimate_noise_std(scan).std == pytest.approx(0.3, rel=0.003)  # the median of the powers alone: 1 % less


@pytest.mark.parametrize("mask", [None, ("poisson-2d", 4), ("random-1d", 3)])
def test_coils_of_different_noise_give_the_root_mean_square(mask):
    scan = head((192, 160), 4)
    strength = torch.tensor([0.01, 0.02, 0.03, 0.04])
    added = noise(*scan.kspace.shape, std=1.0) * strength[:, None, None]
    estimate = estimate_noise_std(undersampled(replace(scan, kspace=scan.kspace + added), mask))
    assert estimate.std == pytest.approx(float(strength.square().mean().sqrt()), rel=0.15)


def test_zero_padding_is_not_background():
    scan = noisy(0.02)
    columns = torch.zeros(1, 1, 160, dtype=torch.bool)
    columns[..., 20:150] = True
    padded = replace(scan, kspace=scan.kspace * columns, mask=columns)
    assert estimate_noise_std(padded).std == pytest.approx(0.02, rel=0.1)


def test_zero_padding_along_both_axes_leaves_the_background_in_use():
    full = simulate_acquisition(shape=(64, 56), coils=4, noise_std=0.005, seed=1)
    padding = (4, 4, 8, 8)
    padded = Acquisition(
        torch.nn.functional.pad(full.kspace, padding), torch.nn.functional.pad(full.mask.expand(1, 64, 56), padding)
    )
    own, found = estimate_noise_std(full), estimate_noise_std(padded)
    assert found == own and found.method == "background of the coil images"


def test_signal_everywhere_is_said_to_give_an_upper_bound():
    steps = torch.linspace(1, 8, 96)[:, None] * torch.linspace(1, 8, 96)
    image = torch.polar(steps, 40 * torch.rand(96, 96, generator=torch.Generator().manual_seed(0)))
    full = Acquisition(fft2c(image)[None, None] + noise(1, 1, 96, 96, std=0.01), torch.ones(1, 96, 96) > 0)
    estimate = estimate_noise_std(full)
    assert estimate.std > 0.1
    assert (
        estimate.method
        == "background of the coil images; signal may reach everywhere, so this is rather an upper bound"
    )


def test_signal_as_strong_in_all_of_an_undersampled_scan_is_noticed():
    """Its quiet groups agree, and hold three times the power of the noise."""
    full = simulate_acquisition(shape=(256, 220), coils=8, noise_std=0.005, seed=1)
    estimate = estimate_noise_std(full.undersampled(make_mask("poisson-2d", (256, 220), 4.0)))
    assert estimate.std > 1.5 * 0.005 and "upper bound" in estimate.method


def test_where_the_noise_was_found():
    scan = noisy(0.02)
    assert estimate_noise_std(scan).method == "background of the coil images"
    assert estimate_noise_std(undersampled(scan, MASKS[3])).method == "background along the fully sampled axis"
    assert estimate_noise_std(undersampled(scan, MASKS[1])).method == "outer k-space"
    strong = undersampled(noisy(0.002), MASKS[1])
    assert estimate_noise_std(strong).method.startswith("outer k-space, weakest component of the coils")


def test_compression_keeps_the_noise_level():
    scan = noisy(0.02, (160, 160), 16)
    for method in ("svd", "geometric"):
        assert estimate_noise_std(compress_coils(scan, 6, method)).std == pytest.approx(0.02, rel=0.1)


def test_slices_of_different_noise_have_their_own_level():
    quiet, loud, untold = noisy(0.01), noisy(0.05), replace(noisy(0.01), kspace=torch.zeros_like(noisy(0.01).kspace))
    scan = replace(quiet, kspace=torch.cat([one.kspace for one in (quiet, loud, untold)]), reference=None)
    estimated = with_noise_std(undersampled(scan, ("random-1d", 3)))
    alone = [with_noise_std(undersampled(one, ("random-1d", 3))) for one in (quiet, loud)]
    levels = [one.noise_std for one in alone]
    usual = math.sqrt(fmean(level**2 for level in levels))
    assert estimated.noise_std.tolist() == pytest.approx([*levels, usual])
    assert levels == pytest.approx([0.01, 0.05], rel=0.2)
    low, high = (f"{level:.3g}" for level in levels)
    assert f"estimated as {low} to {high} (background" in estimated.remarks[-1]
    assert f"estimated as {low} (background" in alone[0].remarks[-1]
    both = replace(estimated, kspace=estimated.kspace[:2], noise_std=None)
    assert make_problem(both).noise_std.tolist() == pytest.approx(levels)


@pytest.mark.parametrize("mask", MASKS)
def test_coils_that_hold_nothing_of_their_own_change_nothing(mask):
    """A channel that is off, one that stands twice, and virtual coils written back as many."""
    scan = undersampled(noisy(0.002, (160, 160), 16), mask)
    expected = estimate_noise_std(scan)
    off = replace(scan, kspace=torch.cat([scan.kspace, torch.zeros_like(scan.kspace)], 1), coil_maps=None)
    assert estimate_noise_std(off) == expected
    twice = replace(scan, kspace=torch.cat([scan.kspace, scan.kspace[:, :1]], 1), coil_maps=None)
    assert estimate_noise_std(twice).std == pytest.approx(expected.std, rel=0.1)
    few = compress_coils(scan, 6)
    unitary = torch.linalg.qr(random(16, 6, dtype=torch.complex64))[0]
    many = Acquisition(torch.einsum("vc,bcyx->bvyx", unitary, few.kspace), few.mask)
    spread = estimate_noise_std(many).std / estimate_noise_std(few).std
    assert 0.9 * (6 / 16) ** 0.5 < spread < 1.1  # noise of 6 coils in 16, or of a combination of them
    assert estimate_noise_std(replace(scan, kspace=torch.zeros_like(scan.kspace))) is None


def test_no_noise_and_too_few_samples():
    image = torch.zeros(1, 2, 64, 48, dtype=torch.complex64)
    image[..., 20:40, 10:30] = 1
    every = torch.ones(1, 1, 48, dtype=torch.bool)
    assert estimate_noise_std(Acquisition(fft2c(image), every)) is None
    assert estimate_noise_std(Acquisition(torch.zeros_like(image), every)) is None
    assert estimate_noise_std(Acquisition(noise(1, 2, 8, 8, std=1.0), every[..., :8])) is None


# Of the scans at hand, those whose noise could be measured in the corners of fully sampled images.
@pytest.mark.parametrize(
    ("name", "mask"),
    [(name, mask) for name in ("bart_full8/full", "chiew_sense16/sense16") for mask in (None, *MASKS[3:])]
    + [("bart_full8/full", mask) for mask in MASKS[1:3]],
)
@pytest.mark.parametrize("whitened", [False, True])
def test_real_scans(shared_data, name, mask, whitened):
    with np.load(shared_data / f"{name}.npz") as file:
        covariance = torch.from_numpy(file["noise_cov"])
    with open_scan(shared_data / f"{name}.npz") as opened:
        scan = replace(opened.read(0), noise_covariance=covariance)
    white = whiten(scan)
    estimate = estimate_noise_std(undersampled(white if whitened else scan, mask))
    assert 0.9 < estimate.std / white.noise_std < 1.5


def test_real_scan_with_signal_to_the_edge_of_kspace(shared_data):
    with open_scan(shared_data / "chiew_sense16" / "sense16.npz") as opened:
        scan = opened.read(0)
    estimate = estimate_noise_std(undersampled(scan, MASKS[2]))
    assert "upper bound" in estimate.method
    assert estimate.std < 3 * scan.noise_std


def test_too_few_samples_for_an_estimate():
    few = Acquisition(random(4, 2, 8, 8, dtype=torch.complex64), torch.ones(1, 1, 8, dtype=torch.bool))
    assert estimate_noise_std(few) is None
