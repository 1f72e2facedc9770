"""Langevin dynamics on C(x) = ½‖Ax − b‖² + E(x) (paper, eq. 11 and 16)."""

from __future__ import annotations

from typing import Any, Literal

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
    SettingsError,
    complex_noise,
    largest_curvature,
    setting,
)

REPORT_EVERY = 10
UNKNOWN_NOISE_EPSILON = 0.01  # √2 times the noise that energies are trained at


class Langevin(Sampler):
    r"""Unadjusted Langevin dynamics for the density exp(−C/T), in the two forms of the paper.

    - ``form="eq16"``, the default, x ← x − α∇C(x) + ε√α·z with T = ε²/2; α = 1 is eq. 16 as printed. Along an
      eigenvalue h of the Hessian of C its stationary variance is ε²/(h(2 − αh)) per real component, that is T/h in the
      limit α → 0 and 2/(2 − αh) times as much for a finite step; stable for 0 < αh < 2, where h ≤ ‖A‖² + λmax(∇²E).
      The data term of eq. 6 is the log-likelihood when T is the variance η² of the noise, which is the default of ε.
    - ``form="eq11"``, x ← x − (ε²/2)∇C(x) + εz with T = 1. Stationary variance 1/(h(1 − ε²h/4)), stable for ε²h < 4.

    z has unit variance per real component. The stationary laws are exact for a Gaussian posterior; the bias by the step
    is part of them, and of the standard deviation over samples.
    """

    name = "langevin"
    requires = (frozenset({"gradient"}),)

    class Settings(ComponentSettings):
        form: Literal["eq16", "eq11"] = setting("eq16", "which equation of the paper")
        epsilon: float | None = setting(
            None,
            "ε; none: √2·η for noise η of the data, 0.01 when that is unknown (eq16)",
            gt=0,
            unit="std per real component, image scale 1",
        )
        step_size: float | None = setting(
            None,
            "α of eq. 16, 1 as published; none: 0.5/(‖A‖² + curvature of E), at most 1, measured at the start",
            gt=0,
        )
        samples: int = setting(16, "independent chains, one sample each", ge=1)
        iterations: int = setting(100, "steps of each chain", ge=1)
        batch: int = setting(4, "chains advanced at once (memory)", ge=1)
        start: Literal["sense", "noise"] = setting("sense", "first state: the SENSE image, or Gaussian noise (paper)")
        noise_level: float | None = setting(
            None, "level of a noise-conditional energy; none: its lowest", gt=0, unit="std per real component"
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        if s.form == "eq11" and (s.epsilon is None or s.step_size is not None):
            raise SettingsError(
                "langevin: form eq11 takes its step from epsilon alone: set epsilon, leave step_size out"
            )

    def temperature(self, problem: InverseProblem) -> Tensor:
        epsilon = self._epsilon(problem)
        return 0.5 * epsilon**2 if self.settings.form == "eq16" else torch.ones_like(epsilon)

    def first_state(self, problem: InverseProblem, generator: torch.Generator) -> Tensor:
        if self.settings.start == "sense":
            return problem.sense()
        back_projection = problem.back_projection()
        return complex_noise(back_projection.shape, 1.0, generator, back_projection.dtype)

    def prepared(self, problem: InverseProblem, prior: Prior, image: Tensor, generator: torch.Generator) -> Langevin:
        s = self.settings
        if s.step_size is not None or s.form == "eq11":
            return self
        curvature, _ = largest_curvature(lambda x: prior.gradient(x, s.noise_level), image, generator)
        alpha = min(1.0, 0.5 / (problem.operator.norm_bound**2 + float(curvature.max())))
        return Langevin(**{**s.model_dump(), "step_size": alpha})

    def advance(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Tensor,
        steps: int,
        generator: torch.Generator,
        monitor: Monitor | None = None,
    ) -> Tensor:
        sampler = self.prepared(problem, prior, image, generator)
        epsilon = self._epsilon(problem).to(image.real.dtype).view(-1, 1, 1)
        alpha = sampler.settings.step_size
        drift, noise_std = (0.5 * epsilon**2, epsilon) if alpha is None else (alpha, epsilon * alpha**0.5)
        back_projection, level = problem.back_projection(), self.settings.noise_level
        for step in range(1, steps + 1):
            gradient = problem.data_gradient(image, back_projection) + prior.gradient(image, level)
            image = image - drift * gradient + noise_std * complex_noise(image.shape, 1.0, generator, image.dtype)
            if step % REPORT_EVERY == 0 or step == steps:
                size = float(gradient.abs().square().mean().sqrt())
                if not size < float("inf"):
                    smaller = "epsilon" if alpha is None else f"step_size than {alpha:.3g}"
                    raise MriinvError(f"langevin diverged after {step} steps; set a smaller solver.{smaller}")
                if monitor is not None:
                    monitor(step, {"gradient_rms": size})
        return image

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
        sampler: Langevin | None = None
        draws: list[Tensor] = []
        while len(draws) < s.samples:
            count = min(together, s.samples - len(draws))
            start = self.first_state(problem, generator) if initial is None else initial
            sampler = sampler or self.prepared(problem, prior, start, generator)
            report = None if monitor is None else _shifted(monitor, len(draws) // together * s.iterations)
            state = sampler.advance(problem, prior, start.repeat(count, 1, 1), s.iterations, generator, report)
            draws += list(state.view(count, problem.batch, *state.shape[1:]))
        stack = torch.stack(draws).unsqueeze(1)
        done = torch.full((problem.batch,), s.iterations, device=stack.device)
        return Samples(stack.mean((0, 1)), torch.ones_like(done, dtype=torch.bool), done, draws=stack)

    def _epsilon(self, problem: InverseProblem) -> Tensor:
        """Return ε per image."""
        epsilon = self.settings.epsilon
        if epsilon is None and problem.noise_std is not None:
            return 2**0.5 * torch.as_tensor(problem.noise_std)
        value = UNKNOWN_NOISE_EPSILON if epsilon is None else epsilon
        return torch.full((problem.batch,), value, dtype=problem.data.real.dtype, device=problem.data.device)


def _shifted(monitor: Monitor, offset: int) -> Monitor:
    return lambda step, values: monitor(offset + step, values)
