"""The networks that priors share."""

import pytest
import torch
from torch import nn

from mriinv import FeatureNetwork, ImageNetwork, NetworkSettings, SettingsError, complex_noise
from mriinv.core.component import validated
from mriinv.networks import PublishedNetwork
from mriinv.numerics.pullback import with_pullback


def image(*shape):
    return complex_noise(shape, 1.0, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", ["cnn", "unet"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 9, 13)])
def test_image_in_image_out(network, shape):
    net = ImageNetwork(NetworkSettings(network=network, widths=(4,) if network == "cnn" else (4, 6)))
    out = net(image(*shape))
    assert out.shape == shape and out.dtype == torch.complex64
    assert net.double()(image(*shape).to(torch.complex128)).dtype == torch.complex128


def test_no_two_layers_of_the_published_energy_are_one():
    """Without an activation before the linear layer, it and the last convolution were one linear map."""
    net = PublishedNetwork(4, "relu", "sum", (8, 9))
    features = net.convolutions(torch.randn(1, 2, 8, 9, generator=torch.Generator().manual_seed(0)))
    assert (features >= 0).all() and (features == 0).any() and (features > 0).any()


def test_sizes_are_those_of_the_paper_and_of_deepen():
    def count(**settings):
        return sum(p.numel() for p in ImageNetwork(NetworkSettings(**settings)).parameters())

    assert count() == (2 * 9 + 1) * 64 + 3 * (64 * 9 + 1) * 64 + (64 * 9 + 1) * 2
    assert count(network="unet") == 131_584


def test_the_image_of_a_batch_does_not_depend_on_the_others():
    net = ImageNetwork(NetworkSettings(widths=(4,)))
    torch.testing.assert_close(net(image(3, 8, 9)), torch.cat([net(one[None]) for one in image(3, 8, 9)]))


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="layers"):
        validated(NetworkSettings, {"layers": 1}, "prior")
    with pytest.raises(SettingsError, match=r"did you mean 'network'\?"):
        validated(NetworkSettings, {"netwrk": "cnn"}, "prior")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 2, stride=2, bias=False),
        nn.ConvTranspose2d(3, 5, 2, stride=2),
        nn.SiLU(),
        nn.Softplus(),
        nn.Softplus(beta=3, threshold=2),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Softplus(), nn.Conv2d(4, 2, 3, padding=1))),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_pullback_of_a_layer_is_that_of_autograd(layer):
    layer = layer.double().requires_grad_(False)
    h = torch.randn(2, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    expected, autograd = torch.func.vjp(layer, h)
    with torch.no_grad():
        output, pullback = with_pullback(layer, h.clone())
        torch.testing.assert_close(output, expected)
        g = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(pullback(g), autograd(g)[0])


@pytest.mark.parametrize("changes", [{"dilation": 2}, {"groups": 3}])
def test_convolutions_without_a_pullback_say_so(changes):
    with pytest.raises(TypeError, match="no pullback with dilation, groups or output padding"):
        with_pullback(nn.Conv2d(3, 6, 3, **changes), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_gradient_of_the_half_square_is_that_of_autograd(unshuffle):
    """A batch of different levels, of a size that the network has to extend."""
    network = FeatureNetwork((3, 4, 5), 2, unshuffle, True, "silu").double()
    x, levels = image(2, 19, 13).to(torch.complex128).requires_grad_(), torch.tensor([0.1, 1.0], dtype=torch.float64)
    value = network.potential(x, levels)
    (expected,) = torch.autograd.grad(value.sum(), x)
    found = network.potential_and_gradient(x, levels)
    torch.testing.assert_close(found, (value.detach(), expected), rtol=1e-10, atol=1e-12)
