"""A diffusion prior: the denoiser, and with it the score, of images at every noise level (paper, section IV-C)."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.models import DRUNet
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from mriinv import ComponentSettings, NoiseRange, Prior, from_channels, setting, to_channels

MULTIPLE = 8  # the DRUNet halves the matrix three times
LEVEL_MAPS = 8


class Diffusion(Prior):
    r"""D_σ(x) = c_skip·x + c_out·F(c_in·x, log σ), whose score (D_σ(x) − x)/σ² a diffusion follows.

    F is a DRUNet (Zhang 2021) on real and imaginary part with 64, 128, 256 and 512 channels and four residual blocks
    per resolution, as published: 32.6 million parameters. The factors (Karras 2022, table 1) give its input and its
    target unit variance at every level, with :math:`\sigma_d` = `data_std`:

    .. math:: c_\text{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
        c_\text{out} = \frac{\sigma\,\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_\text{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}

    "Time-conditional" means that constant maps beside the image carry the level: hat functions of log σ, of which the
    two next to σ share 1. A network without biases, as this is, has to turn its gain a thousandfold over the range of
    levels; with a single map of log σ it left images with little noise nearly as they were after the same training.
    Any matrix size is accepted: the image is extended by zeros to the next multiple of 8. The default range of levels
    holds those of eq. 24 for Λ = 25.
    """

    name = "diffusion"
    provides = frozenset({"denoiser", "noise-conditional"})
    noise_range: tuple[float, float]

    class Settings(ComponentSettings):
        widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = setting(
            (64, 128, 256, 512), "channels per resolution, finest first"
        )
        blocks: int = setting(4, "residual blocks per resolution on the way down, and again on the way up", ge=1)
        noise_range: NoiseRange = setting(
            (0.008, 10.0), "trained noise levels, lowest first", unit="std per real component, image scale 1"
        )
        data_std: float = setting(0.3, "σ_d, rms of real and imaginary part of the images, image scale 1", gt=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        self.noise_range = s.noise_range
        # deepinv counts the map of the noise level beside the channels of the image
        self.network = DRUNet(2 + LEVEL_MAPS - 1, 2, nc=s.widths, nb=s.blocks, pretrained=None)
        _initialise(self.network)

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return D_σ(x), with σ held within `noise_range`."""
        with torch.set_grad_enabled(create_graph):
            level = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device)
            level = level.clamp(*self.noise_range).expand(len(image)).view(-1, 1, 1)
            data_std = self.settings.data_std
            total = (level.square() + data_std**2).sqrt()
            estimate = self._network(image / total, self._level_maps(level))
            return (data_std / total) ** 2 * image + (level * data_std / total) * estimate

    def _level_maps(self, level: Tensor) -> Tensor:
        """Return the hat functions of log σ at each level, ``(batch, map, 1, 1)``."""
        lowest, highest = (math.log(bound) for bound in self.noise_range)
        position = (LEVEL_MAPS - 1) * (level.log() - lowest) / (highest - lowest)
        knots = torch.arange(LEVEL_MAPS, device=level.device, dtype=level.dtype).view(-1, 1, 1)
        return (1 - (position.unsqueeze(1) - knots).abs()).clamp_min(0)

    def _network(self, image: Tensor, level_maps: Tensor) -> Tensor:
        rows, columns = image.shape[-2:]
        channels = torch.cat([to_channels(image), level_maps.expand(-1, -1, rows, columns)], dim=1)
        channels = functional.pad(channels, (0, -columns % MULTIPLE, 0, -rows % MULTIPLE))
        # forward() would cut sizes that are no multiple of 8 into overlapping tiles
        weights = next(self.network.parameters())
        out = self.network.forward_unet(channels.to(weights.dtype, memory_format=torch.channels_last))
        return from_channels(out[..., :rows, :columns].to(image.real.dtype))


def _initialise(network: DRUNet) -> None:
    """Start from convolutions that keep the variance, and from an output of zero.

    deepinv starts all of them at a fifth of that, which minutes of training do not make up for.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    torch.nn.init.zeros_(network.m_tail.weight)
