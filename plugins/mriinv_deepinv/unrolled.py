"""Unrolled networks of deepinv, with the network that all baselines share."""

from __future__ import annotations

from typing import Any

import deepinv
import torch
from torch import Tensor, nn

from mriinv import (
    ImageNetwork,
    InverseProblem,
    Monitor,
    NetworkSettings,
    Prior,
    Solution,
    as_physics,
    from_channels,
    setting,
    to_channels,
)

INITIAL_GAIN = 0.1  # of an untrained network: the reconstruction starts near that of the data alone
INITIAL_STEP = 20.0  # γ of MoDL's data step; its authors start at λ = 1/γ = 0.05


class _Residual(nn.Module):
    """What the network takes off an image, g·f(x), or what is left, x − g·f(x), on two-channel images."""

    def __init__(self, settings: NetworkSettings, *, denoises: bool) -> None:
        super().__init__()
        self.network, self.denoises = ImageNetwork(settings), denoises
        self.gain = nn.Parameter(torch.tensor(INITIAL_GAIN))

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        residual = self.gain * to_channels(self.network(from_channels(x)))
        return x - residual if self.denoises else residual


class _Unrolled(Prior):
    """A reconstruction by one of deepinv's unrolled networks."""

    provides = frozenset({"reconstruction"})
    model: nn.Module
    steps: int

    def reconstruct(
        self, problem: InverseProblem, *, initial: Tensor | None = None, monitor: Monitor | None = None
    ) -> Solution:
        """Return the last iterate; the number of iterations is fixed, so that none has to converge."""
        physics, data = as_physics(problem.operator, problem.data), to_channels(problem.data)
        image = from_channels(self._run(data, physics, initial))
        if monitor is not None:
            monitor(self.steps, {})
        done = torch.ones(problem.batch, dtype=torch.bool, device=image.device)
        return Solution(image, done, torch.full_like(done, self.steps, dtype=torch.int64))

    def _run(self, data: Tensor, physics: nn.Module, initial: Tensor | None) -> Tensor:
        raise NotImplementedError


class MoDL(_Unrolled):
    """MoDL (Aggarwal 2019) of deepinv: u = argmin ½γ_k‖Au − b‖² + ½‖u − x_k‖², then x_{k+1} = D(u), from Aᴴb.

    D(x) = x − g f(x) with one network f for all iterations; γ_k, one per iteration, are learned too. deepinv solves for
    u by conjugate gradients and differentiates it implicitly, so that memory grows with the networks only.
    """

    name = "modl"

    class Settings(NetworkSettings):
        iterations: int = setting(5, "unrolled iterations", ge=1, le=100)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps = self.settings.iterations
        model = deepinv.models.MoDL(_Residual(self.settings, denoises=True), num_iter=self.steps)
        with torch.no_grad():
            for step in model.params_algo["stepsize"]:
                step.fill_(INITIAL_STEP)
        self.model = model

    def _run(self, data: Tensor, physics: nn.Module, initial: Tensor | None) -> Tensor:
        start = None if initial is None else (to_channels(initial),) * 2
        return self.model(data, physics, init=start)


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

    def _run(self, data: Tensor, physics: nn.Module, initial: Tensor | None) -> Tensor:
        return self.model(data, physics)
