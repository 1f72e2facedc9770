"""A quadratic energy."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, Prior, setting


class Quadratic(Prior):
    """E(x) = ½·weight·‖x‖². The gradient is left to autograd."""

    name = "toy-quadratic"
    provides = frozenset({"energy"})

    class Settings(ComponentSettings):
        weight: float = setting(0.01, "factor on ½‖x‖²", ge=0, unit="of ‖A‖², which is at most 1")

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        values = torch.view_as_real(image).flatten(1).double()
        return 0.5 * self.settings.weight * values.square().sum(1)
