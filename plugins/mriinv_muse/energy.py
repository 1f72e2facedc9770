"""The MuSE energy: half the square of what a denoising network removes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mriinv import ImageNetwork, NetworkEnergy, NetworkSettings, setting


class MuseEnergy(NetworkEnergy):
    r"""Multi-scale energy of an image (paper, eq. 17; Chand and Jacob 2024),

    .. math:: E(x) = w\,\frac{η}{η_0}\,\tfrac12 ‖x − ψ_θ(x)‖^2, \qquad ψ_θ(x) = x − σ_0 f_θ(x/σ_0),

    with f the network and σ₀ = 0.1. Training by `denoising` lets ∇(½‖x − ψ(x)‖²) predict white noise of any level up
    to 0.1, without being told the level. Such a gradient is σ² times a score, and no single weight is right for all
    levels: w, which also holds the η² that eq. 6 absorbs, was tuned on two simulated heads at noise η₀ = 0.007 and 4×
    Poisson discs (0.06 for `mm-cg`, 0.09 for `muse-mm`), and follows the noise of the measurements linearly, from
    2η₀ on as ½(η/η₀)².
    """

    name = "muse"
    provides = frozenset({"energy", "gradient", "denoiser"})
    adjustable = frozenset({"weight", "data_noise_std"})
    variance_share = 0.5
    reference_level = 0.1  # brings noise of the trained levels to the size that networks work at

    class Settings(NetworkSettings):
        weight: float = setting(0.06, "w, the factor on the energy at noise η₀", gt=0, tune=(0.01, 10.0))
        data_noise_std: float | None = setting(
            0.007,
            "η₀, whatever the noise in training; none: w whatever the noise of the data, as published",
            gt=0,
            unit="std per real component, image scale 1",
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ImageNetwork(self.settings)

    def scale(self) -> Tensor:
        return torch.tensor(self.reference_level**2 * self.settings.weight, dtype=torch.float64)
