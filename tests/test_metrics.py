from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mriinv.errors import InputError
from mriinv.metrics import evaluate, nmse, psnr, ssim, ssim_legacy


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(3, 60, 53, generator=generator), 5, stride=1)
    reference = torch.polar(smooth * torch.tensor([1.0, 20.0, 1e-4]).reshape(3, 1, 1), smooth)
    noise = torch.randn(reference.shape, generator=generator, dtype=torch.complex64)
    return reference + 0.1 * reference.abs().amax((1, 2), keepdim=True) * noise, reference


@pytest.mark.parametrize("data_range", [None, 2.0])
def test_agrees_with_skimage(pair, data_range):
    image, reference = pair
    got_psnr, got_ssim = psnr(image, reference, data_range=data_range), ssim(image, reference, data_range=data_range)
    assert got_psnr.dtype == got_ssim.dtype == torch.float64
    for i in range(len(image)):
        x, y = image[i].abs().double().numpy(), reference[i].abs().double().numpy()
        limit = data_range or y.max()
        assert got_psnr[i].item() == pytest.approx(peak_signal_noise_ratio(y, x, data_range=limit), abs=1e-6)
        assert got_ssim[i].item() == pytest.approx(structural_similarity(y, x, data_range=limit), abs=1e-6)


def test_agrees_with_fastmri_on_a_volume(pair):
    from fastmri import evaluate as fastmri  # seconds

    images, references = (t[:2] for t in pair)
    x, y = images.abs().double().numpy(), references.abs().double().numpy()
    slices = [evaluate(images[i : i + 1], references[i : i + 1], volume_maximum=y.max()) for i in range(2)]
    assert np.mean([one.ssim for one in slices]) == pytest.approx(fastmri.ssim(y, x)[0], abs=1e-9)
    for i, one in enumerate(slices):
        assert one.psnr == pytest.approx(fastmri.psnr(y[i], x[i], y.max()), abs=1e-9)
        assert one.nmse == pytest.approx(float(fastmri.nmse(y[i], x[i])), rel=1e-9)


def test_legacy_ssim_takes_a_range_of_two_for_normalised_images(pair):
    image, reference = pair
    found = ssim_legacy(image, reference)
    for i in range(len(image)):
        largest = reference[i].abs().max()
        x, y = ((t[i] / largest).abs().double().numpy() for t in pair)
        assert found[i].item() == pytest.approx(structural_similarity(y, x, data_range=2), abs=1e-6)
    assert (found > ssim(image, reference) + 0.01).all()


def test_support_averages_the_map(pair):
    image, reference = pair
    support = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
    support[:, 10:40, :25] = True
    x, y = image[0].abs().double().numpy(), reference[0].abs().double().numpy()
    _, full = structural_similarity(y, x, data_range=y.max(), full=True)
    assert ssim(image, reference, support)[0].item() == pytest.approx(full[10:40, 3:25].mean(), abs=1e-6)
    mse = np.square(x - y)[10:40, :25].mean()
    expected = mse / np.square(y)[10:40, :25].mean()
    assert nmse(image, reference, support)[0].item() == pytest.approx(expected, rel=1e-6)
    assert psnr(image, reference, support)[0].item() == pytest.approx(10 * math.log10(y.max() ** 2 / mse), abs=1e-6)


def test_phase_is_ignored_and_equality_is_perfect(pair):
    _, reference = pair
    assert torch.isinf(psnr(reference, reference)).all()
    torch.testing.assert_close(ssim(1j * reference, reference), torch.ones(3, dtype=torch.float64))


def test_evaluate_states_region_and_range(pair):
    image, reference = (t[:1] for t in pair)
    metrics = evaluate(image, reference)
    assert (metrics.region, metrics.data_range) == ("whole image", "maximum of the reference slice")
    assert str(metrics) == f"PSNR {metrics.psnr:.2f} dB, SSIM {metrics.ssim:.4f}"
    metrics = evaluate(image, reference, torch.ones_like(image, dtype=torch.bool), volume_maximum=3.0)
    assert (metrics.region, metrics.data_range) == ("support", "maximum of the reference volume")
    assert metrics.psnr == pytest.approx(float(psnr(image, reference, data_range=3.0)))


@pytest.mark.parametrize("metric", [psnr, ssim, nmse, ssim_legacy])
def test_errors(metric, pair):
    image, reference = pair
    with pytest.raises(InputError, match="equal shapes"):
        metric(image[0], reference[0])
    with pytest.raises(InputError, match="equal shapes"):
        metric(image, reference[:1])
    with pytest.raises(InputError, match="not above 0"):
        metric(image, torch.zeros_like(reference))
    with pytest.raises(InputError, match="empty region"):
        metric(image, reference, torch.zeros(1, *image.shape[1:], dtype=torch.bool))
    with pytest.raises(InputError, match="support"):
        metric(image, reference, torch.ones(image.shape[1:], dtype=torch.bool))


def test_ssim_needs_a_window():
    with pytest.raises(InputError, match="7 × 7"):
        ssim(torch.ones(1, 6, 9), torch.ones(1, 6, 9))


def test_several_slices_have_metrics_of_their_own_but_no_common_ones(pair):
    with pytest.raises(InputError, match="3 slices; expected one; psnr, ssim and nmse take several"):
        evaluate(*pair)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_a_device_are_compared_with_a_reference_elsewhere(pair):
    image, reference = pair
    support = torch.ones(1, *image.shape[1:], dtype=torch.bool)
    for metric in (psnr, ssim, nmse, ssim_legacy):
        torch.testing.assert_close(metric(image.cuda(), reference, support).cpu(), metric(image, reference, support))


def test_what_is_no_image_is_said(pair):
    image, reference = pair
    with pytest.raises(InputError, match="reference: found ndarray; expected a tensor"):
        psnr(image, reference.numpy())
    with pytest.raises(InputError, match="reference: found NaN or infinity"):
        psnr(image, reference * torch.nan)
    with pytest.raises(InputError, match=r"data_range: found shape \(2,\); expected one number, or \(3,\)"):
        psnr(image, reference, data_range=torch.ones(2))
