"""Unrolled networks of deepinv, with the network that all baselines share."""

from __future__ import annotations

from typing import Any, cast

import deepinv
import torch
from torch import Tensor, nn

from mriinv import (
    FollowsNoise,
    ImageNetwork,
    InverseProblem,
    Monitor,
    NetworkSettings,
    NoiseSettings,
    Operator,
    Prior,
    Solution,
    from_channels,
    setting,
    to_channels,
    to_deepinv_physics,
)

INITIAL_GAIN = 0.1  # of VarNet's untrained network: the reconstruction starts near that of the data alone
INITIAL_STEP = 20.0  # γ of MoDL's data step; its authors start at λ = 1/γ = 0.05


class _Residual(nn.Module):
    """What the network takes off an image, g·f(x), or what is left, x − g·f(x), on two-channel images."""

    def __init__(self, settings: NetworkSettings, *, denoises: bool) -> None:
        super().__init__()
        self.network, self.denoises = ImageNetwork(settings), denoises
        self.gain = nn.Parameter(torch.tensor(1.0 if denoises else INITIAL_GAIN))
        self.strength: Tensor | float = 1.0  # a factor on g

    def residual(self, x: Tensor) -> Tensor:
        return self.gain * to_channels(self.network(from_channels(x)))

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x - self.strength * self.residual(x) if self.denoises else self.residual(x)


class _Scaled(Operator):
    """c·A, with one factor c per image."""

    name = "scaled"

    def __init__(self, base: Operator, factor: Tensor) -> None:
        self._base, self._factor = base, factor
        self.norm_bound = base.norm_bound * float(factor.max())

    def forward(self, image: Tensor) -> Tensor:
        return self._factor * self._base.forward(image)

    def adjoint(self, data: Tensor) -> Tensor:
        return self._base.adjoint(self._factor * data)


class _Unrolled(Prior):
    """A reconstruction by one of deepinv's unrolled networks."""

    provides = frozenset({"reconstruction"})
    model: nn.Module
    steps: int

    def reconstruct(
        self, problem: InverseProblem, *, initial: Tensor | None = None, monitor: Monitor | None = None
    ) -> Solution:
        """Return the last iterate; the number of iterations is fixed, so that none has to converge."""
        start = problem.back_projection() if initial is None else initial
        operator, data = self._data(problem)
        image = from_channels(self._run(to_channels(data), to_deepinv_physics(operator, data), to_channels(start)))
        if monitor is not None:
            monitor(self.steps, {})
        done = torch.ones(problem.batch, dtype=torch.bool, device=image.device)
        return Solution(image, done, torch.full_like(done, self.steps, dtype=torch.int64))

    def _data(self, problem: InverseProblem) -> tuple[Operator, Tensor]:
        return problem.operator, problem.data

    def _run(self, data: Tensor, physics: nn.Module, start: Tensor) -> Tensor:
        raise NotImplementedError


class MoDL(_Unrolled, FollowsNoise):
    """MoDL (Aggarwal 2019) of deepinv: u = argmin ½γ_k‖Au − b‖² + ½‖u − x_k‖², then x_{k+1} = D(u), from Aᴴb.

    D(x) = x − g f(x) with one network f for all iterations; γ_k, one per iteration, are learned too. deepinv solves for
    u by conjugate gradients and differentiates it implicitly, so that memory grows with the networks only. For data of
    other noise than in training γ_k is divided by the strength of `FollowsNoise`, and g multiplied by it where it is
    below 1: a network that is taken more than once adds noise.
    """

    name = "modl"
    variance_share = 0.5
    provides = _Unrolled.provides | {"denoiser"}
    adjustable = frozenset({"data_noise_std"})

    class Settings(NetworkSettings, NoiseSettings):
        iterations: int = setting(5, "unrolled iterations", ge=1, le=100)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps = self.settings.iterations
        model = deepinv.models.MoDL(_Residual(self.settings, denoises=True), num_iter=self.steps)
        with torch.no_grad():
            for step in model.params_algo["stepsize"]:
                step.fill_(INITIAL_STEP)
        self.model = model

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        """Return D(x), as which the network may be trained before; the level is not asked for."""
        with torch.set_grad_enabled(create_graph):
            return from_channels(to_channels(image) - self._denoiser.residual(to_channels(image)))

    def _run(self, data: Tensor, physics: nn.Module, start: Tensor) -> Tensor:
        self._denoiser.strength = self.strength(start).clamp_max(1)  # in every call: copies share the network
        return self.model(data, physics, init=(start, start))

    def _data(self, problem: InverseProblem) -> tuple[Operator, Tensor]:
        """Return A/√s and b/√s, with which γ_k is γ_k/s for the strength s."""
        factor = self.strength(problem.data).rsqrt()
        return _Scaled(problem.operator, factor), factor * problem.data

    @property
    def _denoiser(self) -> _Residual:
        (shared,) = cast(nn.ModuleList, self.model.prior)
        return cast(_Residual, shared.denoiser)


class VarNet(_Unrolled):
    """VarNet (Hammernik 2018) of deepinv: x_{k+1} = x_k − η_k Aᴴ(Ax_k − b) − g f(x_k), always from x_0 = Aᴴb.

    deepinv shares the network f between the cascades; η_k are learned, one per cascade.
    """

    name = "varnet"

    class Settings(NetworkSettings):
        cascades: int = setting(10, "unrolled gradient steps", ge=1, le=100)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps = self.settings.cascades
        self.model = deepinv.models.VarNet(_Residual(self.settings, denoises=False), num_cascades=self.steps)

    def _run(self, data: Tensor, physics: nn.Module, start: Tensor) -> Tensor:
        return self.model(data, physics)
