"""The DEEPEN energy E: C^m -> R+ in its published and its residual form."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mriinv import EnergySettings, NetworkEnergy, NoiseRange, energy_network, setting


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


VIEWS = (
    *(View(0, (), 1), View(1, (-1,), 1j), View(2, (-2,), -1), View(3, (-2, -1), -1j)),
    *(View(4, (-2, -1), 1), View(5, (-2,), 1j), View(6, (-1,), -1), View(7, (), -1j)),
)
UNKNOWN_SCALE = 0.3


class DeepenEnergy(NetworkEnergy):
    r"""Energy of a complex image, the negative log-prior of the posterior C(x) = ½‖Ax − b‖² + E(x) (paper, eq. 6).

    ``form="residual"``, the default,

    .. math:: E_σ(x) = w\,γ\,e^{s}\,σ_0^2\,\tfrac12 ‖F_θ(x/σ, \log σ)‖^2

    is, up to the factor in front and (σ/σ₀)², a potential whose gradient step denoises: denoising score matching trains
    x − ∇(½‖σF(x/σ)‖²) to be the clean image. s is learned and carries the η² that the paper absorbs into the energy,
    for the noise η₀ of the training: e^s = (η₀/σ₀)² where denoising is exact, and where training starts. The factor γ
    follows the noise of the data (`at_noise`). Smooth, any matrix size. With ``conditional`` the energy is meant for
    every level σ in `noise_range`; the posterior is the one at σ₀ = ``noise_range[0]``, and higher levels serve to
    approach it (`mm-cg`). Without it σ = σ₀ = 0.1 is a fixed scale of the input.

    A network learns only roughly that an image is as likely when it is shifted, mirrored or of another phase. With
    `views` the energy is the mean over that many such images, for as many times the cost of a gradient; `mm-cg` needs
    fewer of them.

    ``form="published"`` is section III-B: five convolutions, ReLU, linear, |·|. Its gradient is piecewise constant,
    so no Lipschitz constant of it exists; solvers rely on backtracking. It has no noise level.
    """

    name = "deepen"
    provides = frozenset({"energy", "gradient", "denoiser", "noise-conditional"})
    adjustable = frozenset({"weight", "data_noise_std", "views"})
    noise_exponent = 7 / 6  # fitted to three scans, whose noise differs 15-fold
    variance_share = 0.5

    class Settings(EnergySettings):
        conditional: bool = setting(True, "whether the energy depends on a noise level")
        noise_range: NoiseRange = setting(
            (0.005, 0.2), "trained noise levels, lowest first", unit="std per real component, image scale 1"
        )
        initial_scale: float | None = setting(
            None, "e^s before training; none: (η₀/σ₀)², that of exact denoising, 0.3 without a noise level or η₀", gt=0
        )
        head: Literal["sum", "flatten"] = setting("sum", "published form: linear layer shared by all pixels, or not")
        matrix: tuple[int, int] = setting((320, 320), "published form with head=flatten: matrix size", unit="pixels")
        weight: float = setting(
            1.0, "w, a factor on the energy at reconstruction; 1 is what was learned", gt=0, tune=(0.1, 10.0)
        )
        views: Literal[1, 2, 4, 8] | None = setting(
            None, "shifted, mirrored and rephased images whose energies are averaged; none: 4, published form 1"
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        self.residual = s.form == "residual"
        self.network = energy_network(s, conditional=s.conditional, head=s.head, matrix=s.matrix)
        self.noise_range = s.noise_range if s.conditional and self.residual else None
        if self.noise_range is None:
            self.provides = self.provides - {"noise-conditional"}
        else:
            self.reference_level = self.noise_range[0]
        chosen = {
            "initial_scale": s.initial_scale or self._exact_scale(),
            "views": s.views or (4 if self.residual else 1),
        }
        self.settings = s = s.model_copy(update=chosen)  # weights that are written say what they are of
        if self.residual:
            self.log_scale = nn.Parameter(torch.tensor(math.log(s.initial_scale)))
        else:
            self.provides = self.provides - {"denoiser"}
        self.views = VIEWS[: s.views]

    def _exact_scale(self) -> float:
        """Return (η₀/σ₀)², with which the energy of an exact denoiser is that of the images; a guess without one."""
        if self.noise_range is None or self.trained_noise is None:
            return UNKNOWN_SCALE
        return (self.trained_noise / self.reference_level) ** 2

    def one_view(self) -> DeepenEnergy:
        other = copy.copy(self)
        other.views = VIEWS[:1]
        return other

    def scale(self) -> Tensor:
        weight = torch.tensor(self.settings.weight, dtype=torch.float64)
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
