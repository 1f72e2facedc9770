"""The diffusion prior: its parametrisation, its graph and its training."""

import pytest
import torch

from mriinv import SettingsError, complex_noise, denoising_score_matching, log_uniform, make_prior
from mriinv.testing.priors import check_capabilities

SMALL = {"widths": [4, 4, 8, 8], "blocks": 1}


def images(*shape, dtype=torch.complex64):
    return complex_noise(shape, 0.3, torch.Generator().manual_seed(1), dtype)


def active(**settings):
    """Return a prior whose network is at work; an untrained one returns zero."""
    prior = make_prior("diffusion", weights="none", **SMALL, **settings)
    torch.nn.init.normal_(prior.network.m_tail.weight, std=0.1, generator=torch.Generator().manual_seed(3))
    return prior


def test_default_is_the_published_network():
    """32 639 232 parameters for two channels in and out, and 3·3·64 more for each map of the level."""
    with torch.device("meta"):
        prior = make_prior("diffusion", weights="none")
    assert sum(p.numel() for p in prior.parameters()) == 32_639_232 + 8 * 9 * 64
    assert prior.noise_range[0] < 0.0317 and prior.noise_range[1] > 9.845  # eq. 24 from t = 0.001 to 1


def test_network_sees_unit_variance_and_the_level_as_maps():
    """Against the network on a matrix that it takes whole."""
    prior, x = active(data_std=0.5, noise_range=[0.01, 10.0]), images(2, 32, 40)
    level = torch.tensor([0.1, 2.0])
    total = (level**2 + 0.25).sqrt()
    scaled = x / total.view(-1, 1, 1)
    share = 7 * (level / 0.01).log() / torch.tensor(1000.0).log()  # knots 2 and 3, knots 5 and 6
    maps = torch.zeros(2, 8, 32, 40)
    for one, (first, above) in enumerate(((2, share[0] - 2), (5, share[1] - 5))):
        assert 0 < above < 1
        maps[one, first], maps[one, first + 1] = 1 - above, above
    channels = torch.cat([torch.stack([scaled.real, scaled.imag], dim=1), maps], dim=1)
    real, imaginary = prior.network.forward_unet(channels).unbind(1)
    skip, out = (factor.view(-1, 1, 1) for factor in (0.25 / total**2, 0.5 * level / total))
    torch.testing.assert_close(
        prior.denoise(x, level), skip * x + out * torch.complex(real, imaginary), rtol=1e-4, atol=1e-5
    )


def test_training_starts_at_the_wiener_filter():
    prior, x = make_prior("diffusion", weights="none", **SMALL), images(2, 9, 7)
    torch.testing.assert_close(prior.denoise(x, 0.4), 0.09 / (0.16 + 0.09) * x)


def test_any_matrix_is_extended_by_zeros():
    prior, x = make_prior("diffusion", weights="none", **SMALL), images(1, 13, 20)
    check_capabilities(prior, images(2, 1, 3))
    prior.network.forward_unet, whole = _recorder(prior.network.forward_unet)
    result = prior.denoise(x, 0.2)
    assert whole[0].shape == (1, 10, 16, 24) and not whole[0][:, :, 13:].any() and not whole[0][:, :, :, 20:].any()
    torch.testing.assert_close(whole[0][0, 0, :13, :20], (x / (0.04 + 0.09) ** 0.5).real[0])
    assert result.shape == x.shape


def _recorder(function):
    seen = []

    def call(channels):
        seen.append(channels)
        return function(channels)

    return call, seen


def test_levels_beyond_the_range_are_the_nearest_in_it():
    prior, x = active(noise_range=[0.1, 1.0]), images(1, 8, 8)
    torch.testing.assert_close(prior.denoise(x, 0.01), prior.denoise(x, 0.1))
    torch.testing.assert_close(prior.denoise(x, 7.0), prior.denoise(x, 1.0))
    assert not torch.equal(prior.denoise(x, 0.1), prior.denoise(x, 1.0))


def test_derivative_in_the_image_by_differences():
    prior = active().double()
    x, v, w = images(3, 1, 12, 10, dtype=torch.complex128)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.denoise(leaf, 0.3, create_graph=True), leaf, w)
    step = 1e-6
    ahead, behind = (prior.denoise(x + sign * step * v, 0.3) for sign in (1, -1))
    expected = (w.conj() * (ahead - behind)).real.sum() / (2 * step)
    torch.testing.assert_close((gradient.conj() * v).real.sum(), expected, rtol=1e-6, atol=0)


def test_graphs_only_where_they_are_asked_for():
    prior, x = make_prior("diffusion", weights="none", **SMALL).requires_grad_(), images(1, 8, 8)
    assert not prior.denoise(x, 0.3).requires_grad
    assert prior.denoise(x, 0.3, create_graph=True).requires_grad
    assert not prior.denoise(x.requires_grad_(), 0.3).requires_grad


def test_training_approaches_the_wiener_filter_at_every_level():
    """White Gaussian images of another variance than data_std: the best loss is known, q/(q + σ²) at each level."""
    prior = (
        make_prior("diffusion", weights="none", data_std=0.3, noise_range=[0.02, 2.0], **SMALL).train().requires_grad_()
    )
    optimiser = torch.optim.Adam(prior.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)

    def loss():
        x = complex_noise((16, 8, 8), 0.1, generator)
        return denoising_score_matching(prior, x, log_uniform(16, *prior.noise_range, generator), generator)

    def average():
        with torch.no_grad():
            return float(torch.stack([loss() for _ in range(40)]).mean())

    before = average()
    for _ in range(150):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    levels = log_uniform(100_000, *prior.noise_range, generator)
    best = float((0.01 / (0.01 + levels**2)).mean())
    assert average() < best + 0.35 * (before - best)


@pytest.mark.parametrize("wrong", [{"widths": [4, 4, 4]}, {"noise_range": [0.1, 0.1]}, {"data_std": 0.0}])
def test_settings_are_checked(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        make_prior("diffusion", weights="none", **wrong)
