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
    Poisson discs (0.06 for `mm-cg`, 0.09 for `muse-mm`), and follows the noise of the measurements linearly.
    """

    name = "muse"
    provides = frozenset({"energy", "gradient", "denoiser"})
    adjustable = frozenset({"weight"})
    reference_level = 0.1  # brings noise of the trained levels to the size that networks work at
    trained_noise = 0.007

    class Settings(NetworkSettings):
        weight: float = setting(0.06, "w, the factor on the energy at noise 0.007", gt=0, tune=(0.01, 10.0))

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ImageNetwork(self.settings)

    def scale(self) -> Tensor:
        return torch.tensor(self.reference_level**2 * self.settings.weight, dtype=torch.float64)
