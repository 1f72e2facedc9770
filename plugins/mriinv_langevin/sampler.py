"""Langevin dynamics on C(x) = ½‖Ax − b‖² + E(x) (paper, eq. 11 and 16)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mriinv import (
    ComponentSettings,
    InverseProblem,
    Monitor,
    MriinvError,
    Prior,
    Sampler,
    Samples,
    complex_noise,
    largest_curvature,
    setting,
)

REPORT_EVERY = 10


class Langevin(Sampler):
    r"""Unadjusted Langevin dynamics, x ← x − (step/2)·∇C(x)/T + √step·z for the density exp(−C/T).

    z has unit variance per real component. The paper's two forms are settings of it:

    - ``form="eq16"``, the default, x ← x − α∇C(x) + ε√α·z: temperature T = ε²/2, step = αε². With α = 1 it is eq. 16
      as printed. Along an eigenvalue h of the Hessian of C its stationary variance is ε²/(h(2 − αh)) (T/h for α → 0),
      and it is stable for 0 < αh < 2; since ‖A‖ ≤ 1, h ≤ 1 + λmax(∇²E).
    - ``form="eq11"``, x ← x − (ε²/2)∇C(x) + εz: T = 1, step = ε². Stationary variance 1/(h(1 − ε²h/4)), stable for
      ε²h < 4.

    Both are biased by the step; the formulas are exact for a Gaussian posterior (methods of the discretised chain).
    """

    name = "langevin"
    requires = (frozenset({"gradient"}),)

    class Settings(ComponentSettings):
        form: Literal["eq16", "eq11"] = setting("eq16", "which equation of the paper")
        epsilon: float = setting(0.01, "ε, the noise of a step", gt=0, unit="std per real component, image scale 1")
        step: float | None = setting(
            None, "α of eq. 16, 1 as published; none: min(1, 1.4/(‖A‖² + curvature of E)), measured at the start"
        )
        samples: int = setting(16, "independent chains, one sample each", ge=1)
        iterations: int = setting(100, "steps of each chain", ge=1)
        batch: int = setting(4, "chains advanced at once (memory)", ge=1)
        start: Literal["sense", "noise"] = setting("sense", "first state: the SENSE image, or Gaussian noise (paper)")
        noise_level: float | None = setting(
            None, "level of a noise-conditional energy; none: its lowest", unit="std per real component"
        )

    def advance(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Tensor,
        steps: int,
        generator: torch.Generator,
        monitor: Monitor | None = None,
    ) -> Tensor:
        s = self.settings
        alpha = self.stable_step(problem, prior, image, generator)
        drift = alpha if s.form == "eq16" else 0.5 * s.epsilon**2
        noise_std = s.epsilon * (alpha**0.5 if s.form == "eq16" else 1.0)
        back_projection = problem.back_projection()
        for step in range(1, steps + 1):
            gradient = problem.data_gradient(image, back_projection).add_(prior.gradient(image, s.noise_level))
            noise = complex_noise(image.shape, noise_std, generator, image.dtype)
            image = noise.add_(image).sub_(gradient, alpha=drift)
            if step % REPORT_EVERY == 0 or step == steps:
                size = float(gradient.abs().square().mean().sqrt())
                if not size < float("inf"):
                    raise MriinvError(f"langevin diverged after {step} steps of {alpha:.3g}; set a smaller solver.step")
                if monitor is not None:
                    monitor(step, {"gradient_rms": size})
        return image

    def stable_step(self, problem: InverseProblem, prior: Prior, image: Tensor, generator: torch.Generator) -> float:
        """Return α of eq. 16: the setting, or min(1, 1.4/(‖A‖² + λ)) with λ the curvature of E at `image`."""
        s = self.settings
        if s.step is not None or s.form == "eq11":
            return s.step or 1.0
        probe, _ = largest_curvature(lambda x: prior.gradient(x, s.noise_level), image, generator)
        return min(1.0, 1.4 / (problem.operator.norm_bound**2 + float(probe.max())))

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Samples:
        assert prior is not None
        s = self.settings
        # chains of one image share maps and data, and advance as one batch; several images are a batch already
        together = min(s.batch, s.samples) if problem.batch == 1 else 1
        draws = []
        for first in range(0, s.samples, together):
            count = min(together, s.samples - first)
            state = self._start(problem, initial, generator).repeat(count, 1, 1)
            report = None if monitor is None else _shifted(monitor, first // together * s.iterations)
            state = self.advance(problem, prior, state, s.iterations, generator, report)
            draws += list(state.view(count, problem.batch, *state.shape[1:]))
        stack = torch.stack(draws).unsqueeze(1)
        done = torch.full((problem.batch,), s.iterations)
        return Samples(stack.mean((0, 1)), torch.ones_like(done, dtype=torch.bool), done, draws=stack)

    def _start(self, problem: InverseProblem, initial: Tensor | None, generator: torch.Generator) -> Tensor:
        if initial is not None:
            return initial
        if self.settings.start == "sense":
            return problem.sense()
        shape = problem.back_projection().shape
        return complex_noise(shape, 1.0, generator, problem.data.dtype)


def _shifted(monitor: Monitor, offset: int) -> Monitor:
    return lambda step, values: monitor(offset + step, values)
