"""Whitening, cropping and their order: closed forms, the forward model, and sigpy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from mriinv import (
    Acquisition,
    InputError,
    complex_noise,
    make_mask,
    relative_norm,
    simulate_acquisition,
)
from mriinv.data.compression import compress_coils
from mriinv.data.geometry import Geometry
from mriinv.data.preparation import Preparation, crop, prepare_acquisition, whiten, without_dead_coils
from mriinv.numerics.fft import fft2c, ifft2c
from mriinv.numerics.images import centre_crop
from mriinv_sense.operator import SenseOperator
from support import random

COILS = 4


def covariance(coils: int = COILS) -> torch.Tensor:
    mixing = torch.eye(coils) + 0.4 * random(coils, coils)
    return 0.02 * mixing @ mixing.mH


def acquisition(y: int, x: int, mask: torch.Tensor | None = None, **changes: object) -> Acquisition:
    """A consistent scan without noise: k-space = mask · F(maps · reference)."""
    mask = torch.ones(1, y, x, dtype=torch.bool) if mask is None else mask
    maps, image = random(1, COILS, y, x, seed=1), random(1, y, x, seed=2)
    fields = {"coil_maps": maps, "reference": image, "source": "scan", **changes}
    return Acquisition(fft2c(maps * image[:, None]) * mask[:, None], mask, **fields)  # type: ignore[arg-type]


def assert_consistent(scan: Acquisition) -> None:
    """The forward model of the scan must map its reference to its k-space."""
    assert scan.reference is not None
    assert_close(SenseOperator(scan.coil_maps, scan.mask).forward(scan.reference), scan.kspace)


def test_whitening_matrix_is_the_scaled_inverse_root():
    psi = covariance()
    identity = torch.eye(COILS, dtype=psi.dtype)[None, :, None]  # four samples, one per coil
    one = Acquisition(identity, torch.ones(1, 1, COILS, dtype=torch.bool), noise_covariance=psi)
    matrix = whiten(one).kspace[0, :, 0]
    variance = psi.diagonal().real.mean()
    assert_close(matrix, matrix.mH)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    assert_close(matrix @ psi @ matrix.mH, variance * torch.eye(COILS, dtype=psi.dtype))


def test_whitened_noise_is_white_with_the_stated_level():
    psi = covariance()
    noise = torch.linalg.cholesky(psi) @ random(COILS, 200 * 200, std=0.5**0.5)
    scan = replace(acquisition(200, 200), kspace=noise.view(1, COILS, 200, 200), noise_covariance=psi)
    white = whiten(scan)
    samples = white.kspace[0].flatten(1)
    assert white.noise_std == pytest.approx(float(psi.diagonal().real.mean() / 2) ** 0.5)
    assert white.noise_covariance is None
    expected = 2 * white.noise_std**2 * torch.eye(COILS, dtype=psi.dtype)
    assert_close(samples @ samples.mH / samples.shape[1], expected, atol=0.02 * expected.abs().max(), rtol=0)
    (remark,) = white.remarks
    assert "equal and independent" in remark


def test_whitening_agrees_with_sigpy():
    util = pytest.importorskip("sigpy.mri.util")
    psi = covariance()
    scan = replace(acquisition(12, 10), noise_covariance=psi)
    ours = whiten(scan).kspace[0].flatten(1)
    theirs = torch.from_numpy(util.whiten(scan.kspace[0].numpy(), psi.numpy())).flatten(1)
    assert_close(ours.mH @ ours, psi.diagonal().real.mean() * theirs.mH @ theirs)  # equal but for a unitary matrix


def test_whitening_keeps_the_forward_model():
    assert_consistent(whiten(replace(acquisition(12, 11), noise_covariance=covariance())))


def test_noise_that_is_white_already():
    scan = replace(acquisition(8, 8), noise_covariance=0.08 * torch.eye(COILS, dtype=torch.complex128))
    white = whiten(scan)
    assert white.kspace is scan.kspace
    assert white.noise_std == pytest.approx(0.2)
    assert (white.noise_covariance, white.remarks) == (None, ())
    assert whiten(white) is white


def spoiled(row: int, column: int, value: complex) -> torch.Tensor:
    psi = torch.eye(COILS, dtype=torch.complex128)
    psi[row, column] = value
    return psi


@pytest.mark.parametrize(
    ("psi", "found"),
    [
        (spoiled(2, 2, 0), "no noise in coil 2"),
        (spoiled(0, 1, 0.5), "not Hermitian"),
        (spoiled(1, 1, float("nan")), "NaN"),
        (torch.ones(COILS, COILS, dtype=torch.complex128), "eigenvalues"),
        (torch.zeros(COILS, COILS, dtype=torch.complex128), "no noise in coil 0, 1, 2, 3"),
        (-torch.eye(COILS, dtype=torch.complex128), "no noise|eigenvalues"),
    ],
)
def test_covariances_that_cannot_be_inverted(psi, found):
    with pytest.raises(InputError, match=f"scan: noise_covariance: found .*({found})"):
        whiten(replace(acquisition(8, 8), noise_covariance=psi))


@pytest.mark.parametrize("method", ["svd", "geometric"])
def test_what_whitening_did_to_the_coils_is_cropped_too(method):
    """The metric of geometric coils differs along the axis that they were compressed along."""
    full = simulate_acquisition(shape=(72, 64), coils=8, noise_std=0.002, coloured=True, seed=3)
    parts = [
        crop(compress_coils(whiten(full), 6, method), (60, 56)),
        compress_coils(crop(whiten(full), (60, 56)), 6, method),
    ]
    late, early = (SenseOperator.from_acquisition(part).reference_image(part) for part in parts)
    assert relative_norm(late - early, early).item() < 0.02


def test_coils_without_noise_and_data_are_left_out():
    full = simulate_acquisition(shape=(48, 40), coils=5, coloured=True, coil_maps=True, seed=2)
    alive = torch.arange(5) != 3
    covariance = full.noise_covariance * alive[:, None] * alive
    dead = replace(full, kspace=full.kspace * alive[:, None, None], noise_covariance=covariance)
    prepared = prepare_acquisition(dead)
    without = replace(
        full,
        kspace=full.kspace[:, alive],
        coil_maps=full.coil_maps[:, alive],
        noise_covariance=covariance[alive][:, alive],
    )
    expected = prepare_acquisition(without)
    assert torch.equal(prepared.kspace, expected.kspace) and torch.equal(prepared.coil_maps, expected.coil_maps)
    assert "left out without noise and without data: coil 3" in prepared.remarks
    with pytest.raises(InputError, match="no noise in coil 3"):  # data without noise are a contradiction
        prepare_acquisition(replace(full, noise_covariance=covariance))


@pytest.mark.parametrize(("size", "wanted"), [(8, 5), (8, 4), (9, 4), (9, 5), (7, 7), (5, 8)])
def test_centre_crop_keeps_the_origin(size, wanted):
    image = torch.zeros(2, size, 3)
    image[:, size // 2, 1] = 1
    cropped = centre_crop(image, (wanted, 1))
    assert cropped.shape == (2, min(size, wanted), 1)
    assert cropped[0, cropped.shape[1] // 2, 0] == 1


@pytest.mark.parametrize("wanted", [(8, 6), (7, 5), (20, 6), (8, 20)])
def test_crop_of_a_fully_sampled_scan_crops_its_image(wanted):
    scan = acquisition(13, 12, geometry=Geometry((1.0, 1.0), 5.0, (1.0, 2.0, 3.0)))
    cropped = crop(scan, wanted)
    expected = (min(13, wanted[0]), min(12, wanted[1]))
    assert (
        cropped.kspace.shape[-2:] == cropped.mask.shape[-2:] == expected == Preparation(crop=wanted).cropped([13, 12])
    )
    assert_close(ifft2c(cropped.kspace), centre_crop(ifft2c(scan.kspace), wanted))
    assert_consistent(cropped)
    assert cropped.geometry == scan.geometry
    assert cropped.remarks[0] == f"image cropped from 13×12 to {expected[0]}×{expected[1]} (y×x)"
    assert len(cropped.remarks) == 1 + (expected != wanted)


LINES = torch.tensor([[[0, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0]]]).bool()


@pytest.mark.parametrize("mask", [LINES, LINES.expand(1, 14, 12)], ids=["lines", "2D"])
def test_crop_along_the_readout_of_undersampled_lines(mask):
    cropped = crop(acquisition(14, 12, mask), (7, 6))
    assert cropped.kspace.shape[-2:] == (7, 12)
    assert torch.equal(cropped.mask, mask[:, :7])
    assert_consistent(cropped)
    assert cropped.remarks == (
        "image cropped from 14×12 to 7×12 (y×x)",
        "k-space is not fully sampled along x: there it is the reconstructed image that is cropped",
    )


def test_crop_of_undersampled_rows():
    cropped = crop(acquisition(12, 14, LINES.transpose(1, 2).expand(1, 12, 14)), (6, 7))
    assert cropped.kspace.shape[-2:] == (12, 7)
    assert_consistent(cropped)


def test_crop_leaves_what_it_cannot_or_need_not_crop():
    scan = acquisition(12, 12, torch.eye(12, dtype=torch.bool)[None])
    cropped = crop(scan, (6, 6))
    assert cropped.kspace is scan.kspace
    assert len(cropped.remarks) == 2
    assert crop(scan, (12, 12)) == scan
    larger = crop(scan, (12, 20))
    assert larger.kspace is scan.kspace
    assert larger.remarks == ("the image is 12×12 (y×x), smaller than the crop to 12×20, and is not extended",)


def test_crop_keeps_the_noise_level():
    noise = random(1, COILS, 128, 96, std=0.3)
    cropped = crop(replace(acquisition(128, 96), kspace=noise), (64, 48)).kspace
    assert torch.view_as_real(cropped).std() == pytest.approx(0.3, rel=0.02)
    neighbours = (cropped[..., 1:] * cropped[..., :-1].conj()).mean().abs()
    assert neighbours < 0.05 * 0.3**2 * 2


def test_preparation_in_order():
    full = simulate_acquisition(shape=(96, 64), coils=6, noise_std=0.0, seed=1)
    psi = covariance(6).to(torch.complex64) * 0.01
    noise = torch.linalg.cholesky(psi) @ complex_noise((6, 96 * 64), 0.5**0.5, torch.Generator().manual_seed(0))
    scan = replace(full, kspace=full.kspace + noise.view(full.kspace.shape), noise_std=None, noise_covariance=psi)
    prepared = prepare_acquisition(scan, Preparation(crop=(64, 64), coils=4))
    assert prepared.kspace.shape == (1, 4, 64, 64)
    assert prepared.noise_std == pytest.approx(float(psi.diagonal().real.mean() / 2) ** 0.5)
    assert [remark.split()[0] for remark in prepared.remarks] == ["noise", "image", "4"]
    unwhitened = prepare_acquisition(scan, Preparation(whiten=False))
    assert unwhitened.kspace is scan.kspace
    assert torch.equal(unwhitened.noise_covariance, psi)


def test_noise_level_is_estimated_only_where_it_is_unknown():
    scan = simulate_acquisition(shape=(96, 96), noise_std=0.01)
    assert prepare_acquisition(scan) is scan
    prepared = prepare_acquisition(replace(scan, noise_std=None))
    assert prepared.noise_std == pytest.approx(0.01, rel=0.1)
    (remark,) = prepared.remarks
    assert remark.startswith("noise level not in the file: estimated as 0.0")
    image = torch.zeros(96, 96, dtype=torch.complex64)
    image[30:60, 20:70] = 1
    noiseless = replace(scan, kspace=fft2c(image).expand(1, 2, 96, 96), coil_maps=None, noise_std=None)
    silent = prepare_acquisition(noiseless)
    assert silent.noise_std is None
    assert silent.remarks == ("noise level not in the file and not to be found in the data",)


@pytest.mark.parametrize("factor", [1e-18, 1e18])
def test_squares_beyond_single_precision(factor):
    full = simulate_acquisition(shape=(96, 64), coils=6, noise_std=0.01, seed=1)
    for method, mask in (("svd", "poisson-2d"), ("geometric", "random-1d")):
        scan = replace(full.undersampled(make_mask(mask, (96, 64), 3)), noise_std=None)
        small, large = (
            prepare_acquisition(replace(scan, kspace=one), Preparation(coils=3, compression=method))
            for one in (scan.kspace, factor * scan.kspace)
        )
        torch.testing.assert_close(large.kspace / factor, small.kspace, rtol=1e-3, atol=1e-4)
        assert large.remarks[-1] == small.remarks[-1] and "nan" not in large.remarks[-1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_kspace_that_is_not_finite(value):
    scan = simulate_acquisition(shape=(32, 32))
    bad = scan.kspace.clone()
    bad[0, 0, 3, 4] = value
    with pytest.raises(InputError, match="kspace: found NaN or infinity"):
        prepare_acquisition(replace(scan, kspace=bad))


def test_prepared_scans_can_be_undersampled():
    scan = prepare_acquisition(simulate_acquisition(shape=(96, 64)), Preparation(crop=(64, 48)))
    assert scan.undersampled(make_mask("poisson-2d", (64, 48), 3)).acceleration == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("wrong", [{"coils": 0}, {"crop": (0, 3)}, {"compression": "pca"}, {"cropp": (3, 3)}])
def test_wrong_settings(wrong):
    with pytest.raises(ValidationError):
        Preparation(**wrong)


def test_coils_with_noise_stay_whether_they_have_data_or_not():
    full = simulate_acquisition(shape=(48, 40), coils=5, coloured=True, seed=2)
    silent = replace(full, kspace=full.kspace * (torch.arange(5) != 3)[:, None, None])
    assert without_dead_coils(silent) is silent


def test_noise_is_estimated_before_the_crop():
    scan = replace(simulate_acquisition(shape=(128, 96), noise_std=0.01), noise_std=None)
    whole, centre = (prepare_acquisition(scan, Preparation(crop=size)).noise_std for size in (None, (48, 40)))
    assert centre == whole
