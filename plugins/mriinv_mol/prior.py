"""MoL: a deep equilibrium with a monotone network (Pramanik, Zimmerman and Jacob 2023)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mriinv import (
    FollowsNoise,
    ImageNetwork,
    InverseProblem,
    Monitor,
    NetworkSettings,
    NoiseSettings,
    Solution,
    complex_noise,
    equilibrium,
    per_image,
    regularised_inverse,
    setting,
    unroll,
)

BARRIER_EDGE = 1e-3  # e: nearer to T than this the barrier goes on linearly
START = 0.05  # factor on the initial weights of the last layer: training begins near SENSE
ASCENT_STEPS = 10
ASCENT_START = 0.01  # how far from the image the ascent starts, image scale 1


class MoL(FollowsNoise):
    r"""Monotone operator learning: the fixed point of

    .. math:: x ← (I + αλA^HA)^{-1}\big[(1 − α)x + αH_θ(x) + αλA^Hb\big],

    which solves λAᴴ(Ax − b) + x − H(x) = 0 whatever α is. Lip(H) ≤ 1 − m makes I − H m-monotone, the fixed point
    unique and robust to perturbations of b. It also makes the iteration a contraction by 1 − αm for every α ≤ 1, so
    α = 1 is the default; from monotonicity alone follows only the published α < 2m/(2 − m)², 0.055 for m = 0.1, with
    the same result after many more iterations.

    H(x) = (1 − m)(x − e^g N(x)), N an `ImageNetwork`; g and λ are learned. With N = 0 the fixed point is SENSE with
    the regularisation m/λ, on the edge of what is allowed. For data of other noise than in training λ is divided by the
    strength of `FollowsNoise`. There is no further identity term: the public code of the
    authors solves with 1.001 I, which at small α is a hidden penalty on ‖x‖².

    `penalty` is the published log-barrier on L = ‖H(u) − H(v)‖/‖u − v‖ at each reconstruction u, where v ascends on
    L: −log(T − L) with T = 1 − m, continued linearly from T − 10⁻³ on. L bounds Lip(H) from below only.

    ``gradient="implicit"`` differentiates at the fixed point, ``unrolled`` through all `iterations`.
    """

    name = "mol"
    provides = frozenset({"denoiser", "reconstruction"})
    adjustable = frozenset({"alpha", "iterations", "tolerance", "gradient", "cg_tolerance", "data_noise_std"})

    class Settings(NetworkSettings, NoiseSettings):
        network: Literal["cnn", "unet"] = setting("unet", "unet: as DEEPEN's default; cnn: full resolution (published)")
        monotonicity: float = setting(0.1, "m: H is held at Lip(H) ≤ 1 − m", gt=0, lt=1)
        alpha: float = setting(1.0, "step α; the fixed point does not depend on it", gt=0, le=1)
        initial_gain: float = setting(1.0, "e^g before training", gt=0)
        initial_data_weight: float = setting(30.0, "λ before training", gt=0)
        iterations: int = setting(
            100, "largest number of iterations, forward and backward; with gradient=unrolled their number", ge=1
        )
        tolerance: float = setting(1e-4, "gradient=implicit: relative change at which an image stops", gt=0)
        cg_tolerance: float = setting(1e-5, "residual of the data consistency, relative to the one before", gt=0)
        gradient: Literal["implicit", "unrolled"] = setting("implicit", "how the error reaches the parameters")
        barrier_weight: float = setting(1e-3, "weight of the log-barrier beside the loss; 0: no constraint", ge=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ImageNetwork(self.settings)
        *_, last = (module for module in self.network.modules() if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            last.weight.mul_(START)
        self.log_gain = nn.Parameter(torch.tensor(math.log(self.settings.initial_gain)))
        self.log_data_weight = nn.Parameter(torch.tensor(math.log(self.settings.initial_data_weight)))

    def contraction(self, image: Tensor) -> Tensor:
        """Return H(x)."""
        return (1 - self.settings.monotonicity) * (image - self.log_gain.exp() * self.network(image))

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return x − N(x), by which the network may be trained before; the level is not asked for."""
        with torch.set_grad_enabled(create_graph):
            return image - self.network(image)

    def reconstruct(
        self, problem: InverseProblem, *, initial: Tensor | None = None, monitor: Monitor | None = None
    ) -> Solution:
        s = self.settings
        start = problem.sense() if initial is None else initial
        projected = problem.back_projection()

        def step(x: Tensor) -> Tensor:
            shift = self.strength(x) * (-self.log_data_weight).exp() / s.alpha  # bracket and matrix, divided by αλ
            rhs = projected + shift * ((1 - s.alpha) * x + s.alpha * self.contraction(x))
            here = x.detach()  # what is missing is solved for: a tolerance on the whole would end the iteration early
            missing = rhs - problem.operator.gram(here) - shift * here
            return here + regularised_inverse(problem.operator, missing, shift.flatten(), tolerance=s.cg_tolerance)

        if s.gradient == "implicit":
            done = equilibrium(step, start, tolerance=s.tolerance, max_iterations=s.iterations)
        else:
            done = unroll(step, start, s.iterations, self.parameters())
        if monitor is not None:
            monitor(len(done.change), {"change": float(done.change[-1].mean())})
        return Solution(done.image, done.converged, done.iterations, {"change": done.change})

    def penalty(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return the weighted mean of the log-barrier over the images."""
        s = self.settings
        if not s.barrier_weight:
            return super().penalty(image, generator)
        other = self._ascend(image, generator)
        room = 1 - s.monotonicity - self._quotient(image, self.contraction(image), other)
        inside = -room.clamp_min(BARRIER_EDGE).log()
        outside = (BARRIER_EDGE - room).clamp_min(0) / BARRIER_EDGE
        return s.barrier_weight * (inside + outside).mean()

    def _ascend(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return v per image where ‖H(u) − H(v)‖/‖u − v‖ is large; leaves no gradient in the parameters."""
        with torch.no_grad():
            mapped = self.contraction(image)
        v = image + ASCENT_START * complex_noise(image.shape, 1.0, generator, image.dtype)
        for _ in range(ASCENT_STEPS):
            v.requires_grad_()
            with torch.enable_grad():
                (uphill,) = torch.autograd.grad(self._quotient(image, mapped, v).sum(), v)
            v = v.detach() + uphill
            v = v * per_image(_norm(image) / _norm(v), v)
        return v

    def _quotient(self, image: Tensor, mapped: Tensor, other: Tensor) -> Tensor:
        """Return ‖H(u) − H(v)‖/‖u − v‖ per image."""
        return _norm(mapped - self.contraction(other)) / _norm(image - other)


def _norm(image: Tensor) -> Tensor:
    return torch.view_as_real(image).flatten(1).norm(dim=1)
