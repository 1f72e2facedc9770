"""ELDER: an explicit energy that is learned through its own gradient descent (paper, section III-B.5)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mriinv import (
    EnergySettings,
    FeatureNetwork,
    InverseProblem,
    Monitor,
    NetworkEnergy,
    Solution,
    energy_network,
    equilibrium,
    largest_curvature,
    normal_map,
    per_image,
    setting,
    unroll,
)

STABLE = 1.9  # of the 2 at which a gradient step no longer contracts
CURVATURE_ITERATIONS = 3
START = 0.03  # factor on the initial weights of the last layer: x_K begins near SENSE


class ELDER(NetworkEnergy):
    r"""An energy, and K steps of gradient descent on the posterior cost with it (paper, eq. 22),

    .. math:: x_{k+1} = x_k − α\,\big(A^H(Ax_k − b) + ∇E_θ(x_k)\big), \qquad x_0 = \text{SENSE},

    trained for the error of x_K. The learned step is α = softplus(a), kept below 1.9/(‖A‖² + L), where L is the
    curvature of E at x₀ as three power iterations find it: steps far above 2/(‖A‖² + L) diverge.

    ``form="residual"``, the default, is E(x) = e^s σ₀² ½‖F_θ(x/σ₀)‖² with the network of DEEPEN's default energy.
    ``form="published"`` is five convolutions, ReLU, linear, |·|. With ReLU its gradient is piecewise constant in x: the
    gradient through the iterations then has no curvature terms, and no curvature bounds the step.

    ``gradient="unrolled"`` goes back through all K steps, each recomputed in its turn, and through ∇E itself.
    ``gradient="implicit"`` iterates until the relative change is below `tolerance` and differentiates at the fixed
    point, as Zou's deep equilibrium does; allow more iterations for it.
    """

    name = "elder"
    provides = frozenset({"energy", "gradient", "denoiser", "reconstruction"})
    adjustable = frozenset({"iterations", "gradient", "tolerance", "data_noise_std"})

    class Settings(EnergySettings):
        initial_scale: float = setting(0.3, "e^s before training", gt=0)
        initial_step: float = setting(1.0, "step α before training", gt=0)
        iterations: int = setting(30, "gradient steps K; with gradient=implicit their largest number", ge=1)
        gradient: Literal["unrolled", "implicit"] = setting("unrolled", "how the error reaches the parameters")
        tolerance: float = setting(1e-4, "gradient=implicit: relative change at which an image stops", gt=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        self.residual = s.form == "residual"
        self.network = energy_network(s)
        if self.residual:
            self.log_scale = nn.Parameter(torch.tensor(math.log(s.initial_scale)))
        else:
            self.provides = self.provides - {"denoiser"}
        last = self.network.outlet if isinstance(self.network, FeatureNetwork) else self.network.linear
        with torch.no_grad():
            last.weight.mul_(START)
        self.raw_step = nn.Parameter(torch.tensor(math.log(math.expm1(s.initial_step))))

    def scale(self) -> Tensor:
        return self.reference_level**2 * self.log_scale.double().exp() if self.residual else torch.ones(()).double()

    def reconstruct(
        self, problem: InverseProblem, *, initial: Tensor | None = None, monitor: Monitor | None = None
    ) -> Solution:
        s = self.settings
        start = problem.sense() if initial is None else initial
        projected = problem.back_projection()
        limit = self._largest_step(problem, start)

        def size() -> Tensor:
            return torch.minimum(nn.functional.softplus(self.raw_step), limit).to(start.real.dtype)

        def step(x: Tensor) -> Tensor:
            _, gradient = self.energy_and_gradient(x, create_graph=torch.is_grad_enabled())
            descent = normal_map(problem.operator, x) - projected + gradient
            return x - per_image(size(), x) * descent

        if s.gradient == "implicit":
            done = equilibrium(step, start, tolerance=s.tolerance, max_iterations=s.iterations)
        else:
            done = unroll(step, start, s.iterations, self.parameters())
        if monitor is not None:
            monitor(len(done.change), {"change": float(done.change[-1].mean())})
        steps = size().detach().double().expand_as(done.change)
        return Solution(done.image, done.converged, done.iterations, {"change": done.change, "step": steps})

    def _largest_step(self, problem: InverseProblem, image: Tensor) -> Tensor:
        """Return 1.9/(‖A‖² + L) per image."""
        generator = torch.Generator(image.device).manual_seed(0)
        with torch.no_grad():
            curvature, _ = largest_curvature(self.gradient, image, generator, iterations=CURVATURE_ITERATIONS)
        return STABLE / (problem.operator.norm_bound**2 + curvature)
