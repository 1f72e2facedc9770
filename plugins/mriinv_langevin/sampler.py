"""Langevin dynamics on C(x) = ½‖Ax − b‖² + E(x) (paper, eq. 11 and 16)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mriinv import Chain, Level, Prior, Sampler, SettingsError, Target, largest_curvature, setting
from mriinv_langevin.chains import Curvature, LangevinChain

SAFE = 0.5  # α = 0.5/h, where α < 2/h is stable
FLAT = 1e-4  # of ‖A‖², the least curvature that a preconditioner takes a prior to have


class Langevin(Sampler):
    r"""Unadjusted Langevin dynamics for the density exp(−C/T), in the two forms of the paper.

    - ``form="eq16"``, the default, x ← x − α∇C(x) + ε√α·z with T = ε²/2; α = 1 is eq. 16 as printed. Along an
      eigenvalue h of the Hessian of C its stationary variance is ε²/(h(2 − αh)) per real component, that is T/h in the
      limit α → 0 and 2/(2 − αh) times as much for a finite step; stable for 0 < αh < 2, where h ≤ ‖A‖² + λmax(∇²E).
    - ``form="eq11"``, x ← x − (ε²/2)∇C(x) + εz with T = 1. Stationary variance 1/(h(1 − ε²h/4)), stable for ε²h < 4.

    z has unit variance per real component. The stationary laws are exact for a Gaussian posterior; the bias by the step
    is part of them, and of the standard deviation over samples. A step that is set is compared with the limit before
    the chains start, with the curvature of E measured where they do.
    """

    name = "langevin"
    requires = (frozenset({"gradient"}),)

    class Settings(Sampler.Settings):
        levels: int = setting(1, "noise levels of an annealing, one step each; 1: none", ge=1)
        burn_in: int = setting(100, "steps at the last level before the first sample", ge=0)
        form: Literal["eq16", "eq11"] = setting("eq16", "which equation of the paper")
        epsilon: float | None = setting(
            None,
            "ε; none: √(2T) (eq16)",
            gt=0,
            unit="std per real component, image scale 1",
        )
        step_size: float | None = setting(
            None,
            "α of eq. 16, 1 as published; none: 0.5/(‖A‖² + curvature of E), at most 1, measured at each noise level",
            gt=0,
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        if s.form == "eq11" and (s.epsilon is None or s.step_size is not None):
            raise SettingsError(
                "langevin: form eq11 takes its step from epsilon alone: set epsilon, leave step_size out"
            )
        if s.epsilon is not None and s.temperature != 1:
            raise SettingsError("langevin: epsilon sets the temperature: leave one of them out")

    def temperature(self, target: Target) -> Tensor:
        epsilon = self.settings.epsilon
        if epsilon is None:
            return super().temperature(target)
        value = 0.5 * epsilon**2 if self.settings.form == "eq16" else 1.0
        problem = target.problem
        return torch.full((problem.batch,), value, dtype=torch.float64, device=problem.data.device)

    def prior_at(self, prior: Prior, noise_std: Tensor) -> Prior:
        """Return the prior as for an image where ε, and not the noise, sets the temperature."""
        return super().prior_at(prior, noise_std) if self.settings.epsilon is None else prior.at_noise(noise_std)

    def check(self, target: Target, image: Tensor, generator: torch.Generator) -> None:
        s = self.settings
        step = 0.5 * s.epsilon**2 if s.form == "eq11" else s.step_size
        if step is None:
            return
        curvature, _ = largest_curvature(lambda x: target.prior.gradient(x, target.level), image, generator)
        largest = target.problem.operator.norm_bound**2 + float(curvature.max())
        if not step * largest < 2:
            found, limit = ("epsilon", 2 / largest**0.5) if s.form == "eq11" else ("step_size", 2 / largest)
            raise SettingsError(
                f"solver.{found}: found {getattr(s, found):g}; stable below {limit:.3g}, since ‖A‖² and the curvature "
                f"of the energy together are {largest:.3g}"
            )

    def prepared(self, target: Target, image: Tensor, generator: torch.Generator) -> Sampler:
        s = self.settings
        if s.step_size is not None or s.form == "eq11":
            return self
        alpha, _ = stable_step(target, image, generator)
        return self.changed(step_size=float(alpha.min()))

    def chain(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> LangevinChain:
        s = self.settings
        temperature = self.temperature(target).repeat(len(image) // target.problem.batch)
        curvature = None
        if s.form == "eq11":
            alpha = torch.full_like(temperature, 0.5 * s.epsilon**2)
        elif s.step_size is not None:
            alpha = torch.full_like(temperature, s.step_size)
        else:
            alpha, curvature = stable_step(target, image, generator, previous)
        noise = 2 * alpha * temperature
        return LangevinChain(target, image, generator, step_size=alpha, noise=noise, curvature=curvature)


def measured_curvature(
    target: Target, image: Tensor, generator: torch.Generator, previous: Chain | None = None
) -> Curvature:
    """Measure the curvature of E on one chain of each image.

    At least 1e-4 of ‖A‖², and as it was in `previous` where that had the same level.
    """
    batch, floor = target.problem.batch, FLAT * target.problem.operator.norm_bound**2
    own = target.level[:batch] if isinstance(target.level, Tensor) and target.level.ndim else target.level
    known = None
    if isinstance(previous, LangevinChain) and previous.curvature is not None:
        known = previous.curvature
        if _same(previous.target.level, own, batch):
            return Curvature(known.largest[-len(image) :], known.direction)
    curvature, direction = largest_curvature(
        lambda x: target.prior.gradient(x, own),
        image[:batch],
        generator,
        iterations=8 if known is None else 1,
        initial=None if known is None else known.direction[:batch],
    )
    return Curvature(curvature.double().clamp_min(floor).repeat(len(image) // batch), direction)


def _same(before: Level, now: Level, batch: int) -> bool:
    """Say whether two chains have the same level."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return torch.equal(before[:batch], now)
    return before is now


def stable_step(
    target: Target, image: Tensor, generator: torch.Generator, previous: Chain | None = None
) -> tuple[Tensor, Curvature]:
    """Return α = 0.5/(‖A‖² + curvature of E), at most 1, per state, and what `measured_curvature` says."""
    curvature = measured_curvature(target, image, generator, previous)
    return (SAFE / (target.problem.operator.norm_bound**2 + curvature.largest)).clamp(max=1.0), curvature
