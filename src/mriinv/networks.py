"""Networks inside priors: those of the paper, and the multi-resolution one of DEEPEN's default energy."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from mriinv.core.component import ComponentSettings, setting
from mriinv.core.following import NoiseSettings
from mriinv.core.types import Image, PerImage
from mriinv.errors import InputError
from mriinv.numerics.channels import from_channels, to_channels
from mriinv.numerics.images import per_image
from mriinv.numerics.pullback import Pullback, chained, with_pullback

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "softplus": nn.Softplus, "relu": nn.ReLU}


def conv3x3(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    """Return a 3×3 convolution that keeps the matrix size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def with_level(channels: Tensor, log_level: Tensor) -> Tensor:
    """Append the constant images 1 and log σ to ``(batch, channel, y, x)``."""
    level = log_level.to(channels.dtype).view(-1, 1, 1, 1).expand(-1, 1, *channels.shape[-2:])
    return torch.cat([channels, torch.ones_like(level), level], dim=1)


def _channels(image: Image) -> Tensor:
    """Return complex ``(batch, y, x)`` as real ``(batch, 2, y, x)`` (`InputError` for other images)."""
    if image.ndim != 3 or not image.is_complex():
        raise InputError("network", "image", f"{image.dtype} {tuple(image.shape)}", "complex (batch, y, x)")
    return to_channels(image)


def _precision(channels: Tensor) -> torch.dtype:
    """Return the type that convolutions of `channels` compute in, which autocast may lower."""
    device = channels.device.type
    lower = torch.is_autocast_enabled(device) and channels.dtype == torch.float32
    return torch.get_autocast_dtype(device) if lower else channels.dtype


def _half_square(features: Tensor) -> PerImage:
    return 0.5 * features.double().square().sum(dim=(1, 2, 3))


class _Block(nn.Module):
    """Two-term sum of the identity and one activated convolution: keeps gradients alive through many layers."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.activation = conv3x3(width, width), activation()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.activation(self.conv(h))

    def with_pullback(self, h: Tensor) -> tuple[Tensor, Pullback]:
        value, pullback = chained((self.conv, self.activation), h)
        return h.add_(value), lambda g: pullback(g).add_(g)


class _Level(nn.Module):
    """One resolution of the network; the levels below it see the image at half of it."""

    def __init__(self, widths: tuple[int, ...], blocks: int, activation: type[nn.Module]) -> None:
        super().__init__()
        width = widths[0]
        self.first = nn.Sequential(*[_Block(width, activation) for _ in range(blocks)])
        self.lower: nn.Module | None = None
        if len(widths) > 1:
            self.lower = nn.Sequential(
                nn.Conv2d(width, widths[1], 2, stride=2, bias=False),
                _Level(widths[1:], blocks, activation),
                nn.ConvTranspose2d(widths[1], width, 2, stride=2, bias=False),
            )
            self.last = nn.Sequential(*[_Block(width, activation) for _ in range(blocks)])

    def forward(self, h: Tensor) -> Tensor:
        h = self.first(h)
        return h if self.lower is None else self.last(h + self.lower(h))

    def with_pullback(self, h: Tensor) -> tuple[Tensor, Pullback]:
        h, first = with_pullback(self.first, h)
        if self.lower is None:
            return h, first
        coarse, lower = with_pullback(self.lower, h)
        h, last = with_pullback(self.last, h.add_(coarse))

        def pullback(g: Tensor) -> Tensor:
            g = last(g)
            return first(lower(g).add_(g))

        return h, pullback


class FeatureNetwork(nn.Module):
    """F(u, log σ), the features of u = x/σ whose half square is the energy; without biases.

    One width gives a stack of convolutions at one resolution, several a U-Net. With ``unshuffle=2`` the network works
    on the four pixels of every 2×2 patch as channels: a quarter of the cost and twice the receptive field. Any matrix
    size is accepted; the image is extended by zeros to the next multiple that the resolutions need.

    Parameters
    ----------
    widths : channels per resolution, finest first
    blocks : convolutions per resolution (before and, in a U-Net, after the coarser ones)
    conditional : append the constant images 1 and log σ to the input
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: int, unshuffle: int, conditional: bool, activation: str
    ) -> None:
        super().__init__()
        self.unshuffle, self.conditional = unshuffle, conditional
        self.multiple = unshuffle * 2 ** (len(widths) - 1)
        channels = 2 * unshuffle**2
        self.inlet = nn.Sequential(conv3x3(channels + 2 * conditional, widths[0]), ACTIVATIONS[activation]())
        self.body = _Level(widths, blocks, ACTIVATIONS[activation])
        self.outlet = conv3x3(widths[0], channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        with torch.no_grad():
            self.outlet.weight.mul_(0.05)  # start near the energy 0: inputs are large at low noise levels

    def forward(self, u: Tensor, log_level: Tensor) -> Tensor:
        """Map ``(batch, 2, y, x)`` and ``(batch,)`` to ``(batch, 2, y, x)``, in the precision of the weights."""
        h = self._input(u, log_level).to(self.outlet.weight.dtype)
        return self._join(self.outlet(self.body(self.inlet(h))), u).to(u.dtype)

    def potential(self, image: Image, level: PerImage) -> PerImage:
        """Return ½‖F(x/σ, log σ)‖² of complex images ``(batch, y, x)``, summed in float64."""
        return _half_square(self(_channels(image) / level.view(-1, 1, 1, 1), level.log()))

    @torch.no_grad()
    def potential_and_gradient(self, image: Image, level: PerImage) -> tuple[PerImage, Image]:
        """Return `potential` and its gradient ∂Re + i∂Im, J(u)ᵀF(u)/σ, without the help of autograd.

        Faster than autograd and with half of its memory. Under `torch.autocast` the network runs in its precision.
        """
        u = _channels(image) / level.view(-1, 1, 1, 1)
        h, pullback = chained((self.inlet, self.body, self.outlet), self._input(u, level.log()).to(_precision(u)))
        features = h * self._split(torch.ones_like(u[:1], dtype=h.dtype))  # patches of F; nothing beyond the image
        gradient = self._join(pullback(features)[:, : h.shape[1]], u)
        return _half_square(features), from_channels(gradient / level.view(-1, 1, 1, 1))

    def _input(self, u: Tensor, log_level: Tensor) -> Tensor:
        h = self._split(u)
        return (with_level(h, log_level) if self.conditional else h).contiguous(memory_format=torch.channels_last)

    def _split(self, u: Tensor) -> Tensor:
        """Return patches as channels, after an extension by zeros."""
        rows, columns = u.shape[-2:]
        padding = (0, -columns % self.multiple, 0, -rows % self.multiple)
        return functional.pixel_unshuffle(functional.pad(u, padding) if any(padding) else u, self.unshuffle)

    def _join(self, h: Tensor, like: Tensor) -> Tensor:
        """Return the transpose of `_split`: an image of the size of `like`."""
        rows, columns = like.shape[-2:]
        return functional.pixel_shuffle(h, self.unshuffle)[..., :rows, :columns]


class PublishedNetwork(nn.Module):
    """The published energy |N(x)|: five 3×3 convolutions and a linear layer, with ReLU between layers (sec. III-B).

    "Except the last linear layer" is read as: none after it. Without one before it, it and the fifth convolution would
    be one linear map. With ``head="flatten"`` the linear layer sees every pixel, which fits the published number of
    parameters and ties the network to one matrix size; with ``"sum"`` its weights are shared by all pixels, and any
    size will do.
    """

    def __init__(self, width: int, activation: str, head: str, matrix: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (2, *[width] * 4):
            layers += [conv3x3(inputs, width, bias=True), ACTIVATIONS[activation]()]
        self.convolutions = nn.Sequential(*layers)
        self.head, self.matrix = head, matrix
        self.linear = nn.Linear(width * (matrix[0] * matrix[1] if head == "flatten" else 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, 2, y, x)`` to N(x) ``(batch,)`` in float64."""
        return self._head(self.convolutions(x.to(self.linear.weight.dtype)))

    def potential(self, image: Image, level: PerImage) -> PerImage:
        """Return |N(x)| of complex images ``(batch, y, x)``; the level is not asked for."""
        return self(self._input(image)).abs()

    @torch.no_grad()
    def potential_and_gradient(self, image: Image, level: PerImage) -> tuple[PerImage, Image]:
        """Return `potential` and its gradient, as `FeatureNetwork.potential_and_gradient` does."""
        x = self._input(image)
        h, pullback = with_pullback(self.convolutions, x.to(_precision(x), memory_format=torch.channels_last))
        matrix = self.matrix if self.head == "flatten" else (1, 1)
        value, weight = self._head(h), self.linear.weight.to(h.dtype).view(1, -1, *matrix)
        slope = from_channels(pullback(weight.expand_as(h)).to(x.dtype))
        return value.abs(), per_image(value.sign(), image) * slope

    def _input(self, image: Image) -> Tensor:
        if self.head == "flatten" and image.shape[-2:] != self.matrix:
            raise InputError(
                "network", "image", f"matrix size {tuple(image.shape[-2:])}", f"{self.matrix} of head=flatten"
            )
        return _channels(image)

    def _head(self, h: Tensor) -> PerImage:
        h = h.flatten(1) if self.head == "flatten" else h.double().sum(dim=(-2, -1))
        weight, bias = self.linear.weight[0].double(), self.linear.bias.double()
        return h.double() @ weight + bias


class EnergySettings(NoiseSettings):
    """Settings of a network whose potential is an energy (`energy_network`), for the settings of a prior to inherit."""

    form: Literal["residual", "published"] = setting("residual", "residual (default) or the form of the paper")
    widths: tuple[PositiveInt, ...] | None = setting(
        None,
        "channels per resolution, finest first (one: no U-Net); none: 32 and 64, published form 64",
        min_length=1,
    )
    blocks: int = setting(2, "convolutions per resolution on the way down, and again on the way up", ge=1)
    unshuffle: Literal[1, 2] = setting(2, "1: full resolution; 2: work on 2x2 patches as channels")
    activation: Literal["silu", "softplus", "relu"] | None = setting(
        None, "nonlinearity between convolutions; none: silu, published form relu"
    )


def energy_network(
    settings: EnergySettings, *, conditional: bool = False, head: str = "sum", matrix: tuple[int, int] = (1, 1)
) -> FeatureNetwork | PublishedNetwork:
    """Return the network of either form.

    Parameters
    ----------
    conditional : of the residual form, whether log σ is an input
    head, matrix : of the published form
    """
    if settings.form == "published":
        return PublishedNetwork((settings.widths or (64,))[0], settings.activation or "relu", head, matrix)
    activation = settings.activation or "silu"
    return FeatureNetwork(settings.widths or (32, 64), settings.blocks, settings.unshuffle, conditional, activation)


class NetworkSettings(ComponentSettings):
    """Settings of an `ImageNetwork`, for the settings of a prior to inherit."""

    network: Literal["cnn", "unet"] = setting("cnn", "cnn: full resolution (the paper's); unet: as DEEPEN's default")
    widths: tuple[PositiveInt, ...] | None = setting(
        None, "channels, of the unet per resolution, finest first; none: 64, unet 32 and 64", min_length=1
    )
    layers: int = setting(5, "convolutions of the cnn", ge=2)
    blocks: int = setting(2, "unet: convolutions per resolution on the way down, and again on the way up", ge=1)
    unshuffle: Literal[1, 2] = setting(2, "unet: 1: full resolution; 2: work on 2x2 patches as channels")
    activation: Literal["relu", "silu", "softplus"] | None = setting(
        None, "nonlinearity between convolutions; none: relu, unet silu"
    )

    @model_validator(mode="after")
    def _cnn_has_one_width(self) -> NetworkSettings:
        if self.network == "cnn" and self.widths is not None and len(self.widths) > 1:
            raise ValueError("widths: the cnn has one; several are for network unet")
        return self


class ImageNetwork(nn.Module):
    """A network from complex images to complex images, whose real and imaginary parts are its channels.

    - ``cnn``: `layers` 3×3 convolutions with biases, an activation after each but the last (paper, section III-B).
    - ``unet``: `FeatureNetwork`, without biases.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = settings
        unet = s.network == "unet"
        activation = s.activation or ("silu" if unet else "relu")
        self.network: nn.Module
        if unet:
            self.network = FeatureNetwork(s.widths or (32, 64), s.blocks, s.unshuffle, False, activation)
            return
        width = (s.widths or (64,))[0]
        layers: list[nn.Module] = [conv3x3(2, width, bias=True)]
        for _ in range(s.layers - 2):
            layers += [ACTIVATIONS[activation](), conv3x3(width, width, bias=True)]
        self.network = nn.Sequential(*layers, ACTIVATIONS[activation](), conv3x3(width, 2, bias=True))

    def forward(self, image: Image) -> Image:
        """Map images ``(batch, y, x)``, computed in the precision of the weights, returned in that of the images."""
        channels = _channels(image)
        if isinstance(self.network, FeatureNetwork):
            return from_channels(self.network(channels, torch.zeros(len(image)).to(channels)))
        weights = next(self.network.parameters())
        return from_channels(
            self.network(channels.to(weights.dtype, memory_format=torch.channels_last)).to(channels.dtype)
        )

    def potential(self, image: Image, level: PerImage) -> PerImage:
        """Return ½‖f(x/σ)‖² per image, summed in float64."""
        return _half_square(_channels(self(image / per_image(level, image))))

    @torch.no_grad()
    def potential_and_gradient(self, image: Image, level: PerImage) -> tuple[PerImage, Image]:
        """Return `potential` and its gradient, as `FeatureNetwork.potential_and_gradient` does."""
        if isinstance(self.network, FeatureNetwork):
            return self.network.potential_and_gradient(image, level)
        u = _channels(image / per_image(level, image))
        value, pullback = with_pullback(self.network, u.to(_precision(u), memory_format=torch.channels_last))
        return _half_square(value), from_channels(pullback(value).to(u.dtype)) / per_image(level, image)
