"""A diffusion prior: the denoiser, and with it the score, of images at every noise level (paper, section IV-C)."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.models import DRUNet
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from mriinv import ComponentSettings, NoiseRange, Prior, from_channels, setting, to_channels

MULTIPLE = 8  # the DRUNet halves the matrix three times


class Diffusion(Prior):
    r"""D_σ(x) = c_skip·x + c_out·F(c_in·x, log σ), whose score (D_σ(x) − x)/σ² a diffusion follows.

    F is a DRUNet (Zhang 2021) on real and imaginary part with 64, 128, 256 and 512 channels and four residual blocks
    per resolution, as published: 32.6 million parameters. The factors (Karras 2022, table 1) give its input and its
    target unit variance at every level, with :math:`\sigma_d` = `data_std`:

    .. math:: c_\text{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
        c_\text{out} = \frac{\sigma\,\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_\text{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}

    "Time-conditional" means that the noise map of the DRUNet carries ¼ log σ. It has no biases, so a constant image is
    a further input; without one its output would be homogeneous in image and map. Any matrix size is accepted: the
    image is extended by zeros to the next multiple of 8. The default range of levels holds those of eq. 24 for Λ = 25.
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
        self.network = DRUNet(in_channels=3, out_channels=2, nc=s.widths, nb=s.blocks, pretrained=None)

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return D_σ(x), with σ held within `noise_range`."""
        with torch.set_grad_enabled(create_graph):
            level = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device)
            level = level.clamp(*self.noise_range).expand(len(image)).view(-1, 1, 1)
            data_std = self.settings.data_std
            total = (level.square() + data_std**2).sqrt()
            estimate = self._network(image / total, 0.25 * level.log())
            return (data_std / total) ** 2 * image + (level * data_std / total) * estimate

    def _network(self, image: Tensor, level_map: Tensor) -> Tensor:
        channels = to_channels(image)
        ones = torch.ones_like(channels[:, :1])
        channels = torch.cat([channels, ones, level_map.unsqueeze(1) * ones], dim=1)
        rows, columns = image.shape[-2:]
        channels = functional.pad(channels, (0, -columns % MULTIPLE, 0, -rows % MULTIPLE))
        # forward() would cut sizes that are no multiple of 8 into overlapping tiles
        weights = next(self.network.parameters())
        out = self.network.forward_unet(channels.to(weights.dtype, memory_format=torch.channels_last))
        return from_channels(out[..., :rows, :columns].to(image.real.dtype))
