"""The denoiser of PnP-ISTA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mriinv import ImageNetwork, NetworkSettings, Prior

INPUT_SCALE = 0.1  # brings the noise closer to the size that networks work at


class CNNDenoiser(Prior):
    """D(x) = x − s f(x/s) with a network f and s = 0.1: removes white noise of the one level it was trained at.

    Five layers of 64 channels and σ = 0.01 in the paper (section III-B.3). No constraint makes it a contraction.
    """

    name = "cnn-denoiser"
    provides = frozenset({"denoiser"})

    class Settings(NetworkSettings):
        pass

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ImageNetwork(self.settings)

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return D(x); the level is the one of the training."""
        with torch.set_grad_enabled(create_graph):
            return image - INPUT_SCALE * self.network(image / INPUT_SCALE)
