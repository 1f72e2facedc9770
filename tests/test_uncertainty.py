"""Coverage and its companions against closed forms of Gaussian samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm, t

from mriinv.core.problem import Samples
from mriinv.errors import InputError
from mriinv.metrics import psnr
from mriinv.uncertainty import (
    LEVELS,
    Deviations,
    correlation,
    coverage,
    deviations,
    error_by_std,
    histogram,
    pooled_quantile,
    predicted_psnr,
    quantile,
    rms,
)

SHAPE = (120, 100)


def samples_of(draws: torch.Tensor) -> Samples:
    """Wrap ``(draw, y, x)`` as samples of two chains where there are two."""
    stack = draws.view(2 if len(draws) % 2 == 0 else 1, -1, 1, *draws.shape[1:])
    return Samples(stack.mean((0, 1)), torch.ones(1, dtype=torch.bool), torch.ones(1), draws=stack)


def gaussian(draws: int, narrow: float = 1.0, seed: int = 0, bias: float = 0.0) -> tuple[Samples, torch.Tensor]:
    """Return samples with Gaussian magnitudes of a std that varies, and a reference that is one more wider draw."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, *SHAPE, generator=generator, dtype=torch.float64)

    std = 0.01 + 0.09 * torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    phase = torch.exp(1j * noise(1)[0])
    reference = 10 + bias + std * noise(1)
    return samples_of((10 + narrow * std * noise(draws)) * phase), reference.to(torch.complex128)


@pytest.mark.parametrize("draws", [2, 4, 16, 100])
def test_gaussian_samples_cover_what_their_level_says(draws):
    found = deviations(*gaussian(draws))
    assert len(found.error) == SHAPE[0] * SHAPE[1] and found.draws == draws
    for level in LEVELS:
        tolerance = 4 * (level * (1 - level) / len(found.error)) ** 0.5
        assert coverage([found], level) == pytest.approx(level, abs=tolerance)
        assert pooled_quantile([found], level) == pytest.approx(t.ppf(0.5 + level / 2, draws - 1), rel=0.08)


def test_samples_that_are_too_narrow_by_two_have_the_coverage_of_their_law():
    found = deviations(*gaussian(100, narrow=0.5))
    spread = ((1 + 0.25 / 100) / (0.25 * (1 + 1 / 100))) ** 0.5  # of error/std, for so many draws
    for level in LEVELS:
        expected = 2 * norm.cdf(quantile(level, 100) / spread) - 1
        assert coverage([found], level) == pytest.approx(expected, abs=0.02)
    assert coverage([found], 0.9) == pytest.approx(0.59, abs=0.02)
    assert pooled_quantile([found], 0.9) / quantile(0.9, 100) == pytest.approx(spread, rel=0.03)
    std, error = rms([found])
    assert error / std == pytest.approx(spread, rel=0.03)


def test_the_quantile_is_students_and_the_normal_one_for_many_draws():
    assert quantile(0.9, 16) == pytest.approx(t.ppf(0.95, 15), rel=1e-10)
    assert quantile(0.9, 10**6) == pytest.approx(norm.ppf(0.95), rel=1e-5)


def test_the_phase_of_the_reference_does_not_matter_but_its_support_does():
    samples, reference = gaussian(20)
    support = torch.zeros(1, *SHAPE, dtype=torch.bool)
    support[:, 10:50] = True
    spoilt = torch.where(support, reference * 1j, 1e6 + 0j)
    scale = reference.abs().flatten().kthvalue(round(0.99 * reference.numel())).values
    inside = deviations(samples, reference * 1j, support)
    assert torch.equal(inside.error, ((samples.draws.abs().mean((0, 1)) - reference.abs())[support]) / scale)
    z = deviations(samples, spoilt, support).z  # free of the unit, which the reference outside sets
    torch.testing.assert_close(z, inside.z)
    torch.testing.assert_close(deviations(samples, reference).z.view(1, *SHAPE)[support], inside.z)


def test_a_standard_deviation_of_zero_is_right_only_without_error():
    draws = torch.ones(4, 1, 4, dtype=torch.complex128)
    draws[:, 0, 3] = torch.tensor([1, 2, 3, 4])
    reference = torch.tensor([[[1.0, 2.0, 0.0, 2.5]]], dtype=torch.complex128)
    found = deviations(samples_of(draws), reference)
    assert found.z.tolist() == [0, -np.inf, np.inf, 0]
    assert coverage([found], 0.95) == 0.5 and coverage([found], 0.95, 1e9) == 0.5
    assert pooled_quantile([found], 0.5) == 0 and pooled_quantile([found], 0.51) == np.inf
    assert histogram([found], torch.tensor([-1.0, 1.0])).tolist() == [0.25]


def test_slices_weigh_the_same_whatever_their_size():
    large = Deviations(torch.full((900,), 3.0), torch.ones(900), 50)
    small = Deviations(torch.tensor([0.1, 0.2, 5.0]), torch.ones(3), 50)
    assert coverage([large, small], 0.9) == pytest.approx(1 / 3)
    assert pooled_quantile([large, small], 1 / 3) == pytest.approx(0.2)
    assert pooled_quantile([large, small], 0.34) == 3 and pooled_quantile([large, small], 5 / 6) == 3
    assert pooled_quantile([large, small], 0.84) == 5 and pooled_quantile([large, small], 1.0) == 5
    assert rms([large, small])[1] == pytest.approx(((9 + (0.01 + 0.04 + 25) / 3) / 2) ** 0.5)


def test_the_histogram_is_the_density_of_z():
    edges = torch.linspace(-4, 4, 41)
    found = [deviations(*gaussian(12, seed=seed)) for seed in range(4)]
    density = histogram(found, edges)
    expected = np.diff(t.cdf(edges, 11)) / 0.2
    assert np.abs(density.numpy() - expected).max() < 0.02
    shifted = histogram([deviations(*gaussian(12, bias=-0.1))], edges)
    assert float((shifted * (edges[1:] + edges[:-1])).sum()) > 1


def test_correlation_and_bins_show_where_errors_are():
    true, blind = deviations(*gaussian(200)), deviations(*gaussian(200))
    blind = Deviations(blind.error, blind.std[torch.randperm(len(blind.std))], 200)
    # |error| = u|z| with u uniform between 0.01 and 0.1, and z normal and independent
    mean, variance, c = 0.055, 0.09**2 / 12, (2 / np.pi) ** 0.5
    expected = c * variance**0.5 / (variance + mean**2 - (c * mean) ** 2) ** 0.5
    assert correlation([true]) == pytest.approx(expected, abs=0.03)
    assert abs(correlation([blind])) < 0.03
    std, error = error_by_std([true], bins=6)
    assert ((error / std - 1).abs() < 0.08).all() and std[-1] > 3 * std[0]
    flat = Deviations(true.error, torch.ones_like(true.std), 200)
    assert np.isnan(correlation([flat]))


def test_the_predicted_psnr_is_that_of_calibrated_samples():
    samples, reference = gaussian(50)
    samples = samples_of(samples.draws.flatten(0, 1)[:, 0].abs().to(torch.complex128))
    true = float(psnr(samples.image, reference, data_range=float(samples.image.abs().max())))
    assert predicted_psnr(samples) == pytest.approx(true, abs=0.1)
    support = torch.zeros(1, *SHAPE, dtype=torch.bool)
    support[:, :60] = True
    part = samples.magnitude_std[support].square().mean() * (1 + 1 / 50)
    expected = 10 * torch.log10(samples.image.abs().max() ** 2 / part)
    assert predicted_psnr(samples, support) == pytest.approx(float(expected))


def wrong_inputs():
    samples, reference = gaussian(4)
    half = torch.ones(1, *SHAPE, dtype=torch.bool)
    return [
        ("at least two draws", samples_of(samples.draws[0, :1, 0]), reference, None),
        ("that of the draws", samples, reference[:, :-1], None),
        ("at least one", samples, reference, ~half),
        ("that of the reference", samples, reference, half[:, 1:]),
        ("finite values", samples, reference * float("nan"), None),
    ]


@pytest.mark.parametrize(("message", "samples", "reference", "support"), wrong_inputs())
def test_what_cannot_be_compared_is_refused(message, samples, reference, support):
    with pytest.raises(InputError, match=message):
        deviations(samples, reference, support)


def test_predicted_psnr_of_two_draws():
    draws = torch.tensor([1.0, 3.0j], dtype=torch.complex128).view(2, 1, 1)
    assert predicted_psnr(samples_of(draws)) == pytest.approx(10 * np.log10(2.5 / (2 * 1.5)))
