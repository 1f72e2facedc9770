"""The DEEPEN energy E: C^m -> R+ in its published and its residual form."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from mriinv import ComponentSettings, FeatureNetwork, NetworkEnergy, PublishedNetwork, setting

NOISE_EXPONENT = 7 / 6  # fitted to three scans, whose noise differs 15-fold
LEAST_NOISE = 5e-4  # per real component, image scale 1; data without any noise need a prior as well


@dataclass(frozen=True)
class View:
    """An image that is as likely as another: shifted in its periodic field of view, mirrored, with another phase."""

    shift: int  # pixels along both axes
    axes: tuple[int, ...]  # mirrored
    phase: complex

    def of(self, image: Tensor) -> Tensor:
        return self.phase * image.roll((self.shift, self.shift), (-2, -1)).flip(self.axes)

    def adjoint(self, view: Tensor) -> Tensor:
        return (self.phase.conjugate() * view).flip(self.axes).roll((-self.shift, -self.shift), (-2, -1))


VIEWS = (View(0, (), 1), View(1, (-1,), 1j), View(2, (-2,), -1), View(3, (-2, -1), -1j))


class DeepenEnergy(NetworkEnergy):
    r"""Energy of a complex image, the negative log-prior of the posterior C(x) = ½‖Ax − b‖² + E(x) (paper, eq. 6).

    ``form="residual"``, the default,

    .. math:: E_σ(x) = w\,γ\,e^{s}\,σ_0^2\,\tfrac12 ‖F_θ(x/σ, \log σ)‖^2

    is, up to the factor in front and (σ/σ₀)², a potential whose gradient step denoises: denoising score matching trains
    x − ∇(½‖σF(x/σ)‖²) to be the clean image. s is learned and carries the η² that the paper absorbs into the energy,
    for the noise η₀ of the training; the factor γ follows the noise of the data (`at_noise`). Smooth, any matrix size.
    With ``conditional`` the energy is meant for every level σ in `noise_range`; the posterior is the one at
    σ₀ = ``noise_range[0]``, and higher levels serve to approach it (`mm-cg`). Without it σ = σ₀ = 0.1 is a fixed scale
    of the input.

    A network learns only roughly that an image is as likely when it is shifted, mirrored or of another phase. With
    `views` the energy is the mean over that many such images, for as many times the cost.

    ``form="published"`` is section III-B: five convolutions, ReLU, linear, |·|. Its gradient is piecewise constant,
    so no Lipschitz constant of it exists; solvers rely on backtracking. It has no noise level.
    """

    name = "deepen"
    provides = frozenset({"energy", "gradient", "denoiser", "noise-conditional"})
    adjustable = frozenset({"weight", "data_noise_std", "views"})

    class Settings(ComponentSettings):
        form: Literal["residual", "published"] = setting("residual", "residual (default) or the form of the paper")
        widths: tuple[PositiveInt, ...] | None = setting(
            None,
            "channels per resolution, finest first (one: no U-Net); none: 32 and 64, published form 64",
            min_length=1,
        )
        blocks: int = setting(2, "convolutions per resolution on the way down, and again on the way up", ge=1)
        unshuffle: Literal[1, 2] = setting(2, "1: full resolution; 2: work on 2x2 patches as channels")
        conditional: bool = setting(True, "whether the energy depends on a noise level")
        noise_range: tuple[float, float] = setting(
            (0.008, 0.15), "trained noise levels, lowest first", unit="std per real component, image scale 1"
        )
        activation: Literal["silu", "softplus", "relu"] | None = setting(
            None, "nonlinearity between convolutions; none: silu, published form relu"
        )
        head: Literal["sum", "flatten"] = setting("sum", "published form: linear layer shared by all pixels, or not")
        matrix: tuple[int, int] = setting((320, 320), "published form with head=flatten: matrix size", unit="pixels")
        initial_scale: float = setting(0.3, "e^s before training", gt=0)
        weight: float = setting(
            1.0, "w, a factor on the energy at reconstruction; 1 is what was learned", gt=0, tune=(0.1, 10.0)
        )
        data_noise_std: float | None = setting(
            0.007,
            "noise η₀ of the measurements in training; none: do not follow the noise of the data",
            gt=0,
            unit="std per real component, image scale 1",
        )
        views: Literal[1, 2, 4] = setting(1, "shifted, mirrored and rephased images whose energies are averaged")

        @field_validator("noise_range")
        @classmethod
        def _rises_from_above_zero(cls, levels: tuple[float, float]) -> tuple[float, float]:
            if not 0 < levels[0] < levels[1]:
                raise ValueError("expected 0 < lowest < highest")
            return levels

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        self.noise_factor: float | Tensor = 1.0  # γ of the data at hand
        self.residual = s.form == "residual"
        self.network: FeatureNetwork | PublishedNetwork
        if self.residual:
            self.network = FeatureNetwork(
                s.widths or (32, 64), s.blocks, s.unshuffle, s.conditional, s.activation or "silu"
            )
            self.log_scale = nn.Parameter(torch.tensor(math.log(s.initial_scale)))
        else:
            self.network = PublishedNetwork((s.widths or (64,))[0], s.activation or "relu", s.head, s.matrix)
            self.provides = self.provides - {"denoiser"}
        self.noise_range = s.noise_range if s.conditional and self.residual else None
        if self.noise_range is None:
            self.provides = self.provides - {"noise-conditional"}
        else:
            self.reference_level = self.noise_range[0]
        self.views = VIEWS[: s.views]

    @classmethod
    def settings_for_noise(cls, noise_std: float) -> dict[str, Any]:
        return {"data_noise_std": noise_std}

    def at_noise(self, noise_std: Tensor) -> DeepenEnergy:
        """Return the energy times γ = (η/η₀)^`NOISE_EXPONENT`, η ≥ `LEAST_NOISE` (the parameters are shared).

        With an exact prior the factor would be (η/η₀)², as eq. 6 absorbs the variance; since the prior is not, its
        error does not shrink with the noise, and an exponent little above 1 is what real scans ask for.
        """
        trained = self.settings.data_noise_std
        if trained is None:
            return self
        other = copy.copy(self)
        other.noise_factor = (noise_std.double().clamp_min(LEAST_NOISE) / trained) ** NOISE_EXPONENT
        return other

    def temperature(self, noise_std: Tensor) -> Tensor:
        """Return γη₀², where E/T is the energy of the training again; the likelihood is then that of noise η₀√γ."""
        if self.settings.data_noise_std is None:
            return noise_std.square()
        return self.settings.data_noise_std**2 * torch.ones_like(noise_std) * self.noise_factor

    def factor(self) -> Tensor:
        weight = torch.as_tensor(self.settings.weight * self.noise_factor, dtype=torch.float64)
        return weight * self.log_scale.double().exp() * self.reference_level**2 if self.residual else weight

    def potential(self, image: Tensor, level: Tensor) -> Tensor:
        """Return what the network makes of each image, the mean over its views."""
        return torch.stack([super(DeepenEnergy, self).potential(view.of(image), level) for view in self.views]).mean(0)

    def potential_and_gradient(self, image: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return `potential` and its gradient, one view after the other."""
        potential, gradient = torch.zeros(len(image), dtype=torch.float64, device=image.device), torch.zeros_like(image)
        for view in self.views:
            value, slope = super().potential_and_gradient(view.of(image), level)
            potential += value / len(self.views)
            gradient += view.adjoint(slope) / len(self.views)
        return potential, gradient
