"""Langevin dynamics that the geometry of the problem and the energy itself correct."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import Chain, Sampler, SettingsError, Target, largest_curvature, per_image, setting
from mriinv_langevin.chains import KineticChain, LangevinChain, MetropolisChain, Shifted
from mriinv_langevin.sampler import measured_curvature, stable_step

EXACT = 1e-6  # tolerance of conjugate gradients under the Metropolis correction, which trusts M


class MALA(Sampler):
    r"""Metropolis-adjusted Langevin: y = x − τ∇C(x) + √(2τT)·z, accepted by the explicit energy.

    exp(−C/T) is stationary whatever the step. On the way down the noise levels steps are not adjusted; in the burn-in
    the step adapts to an acceptance of 0.574 (Roberts 1998), afterwards it is fixed. It shrinks with the number of
    pixels, as N^(−1/3): prefer `preconditioned-langevin` for images.
    """

    name = "mala"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(Sampler.Settings):
        levels: int = setting(1, "noise levels of an annealing, one step each; 1: none", ge=1)
        burn_in: int = setting(100, "steps at the last level before the first sample; the step adapts here", ge=0)
        step_size: float | None = setting(None, "τ; none: adapted in the burn-in", gt=0)

    def chain(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> LangevinChain:
        common, fixed = (target, image, generator), self.settings.step_size
        temperature = self.temperature(target).repeat(len(image) // target.problem.batch)
        if fixed is not None and not passing:
            tau = torch.full_like(temperature, fixed)
            return MetropolisChain(*common, temperature=temperature, step_size=tau, adapt=False)
        tau, curvature = stable_step(*common, previous)
        if passing:
            return LangevinChain(*common, step_size=tau, noise=2 * tau * temperature, curvature=curvature)
        tau = _adapted(previous, tau, target.problem.batch)
        return MetropolisChain(*common, temperature=temperature, step_size=tau, adapt=True, curvature=curvature)


class PreconditionedLangevin(Sampler):
    r"""Langevin dynamics in the geometry of the problem, M = (AᴴA + λI)⁻¹ with λ the curvature of E:

    .. math:: p' = p − \sqrt{2τ}\,∇C(x),\quad q = ρp' + \sqrt{(1 − ρ^2)T}\,M^{-1/2}z,\quad
        x ← x + \sqrt{τ/2}\,M(p' + q),\quad p ← q

    What A measures well and what it does not move at the same speed, and the momentum p carries a chain along what
    neither A nor E determines well: (1 + ρ)/(1 − ρ) times as fast as without. One solve by conjugate gradients gives
    drift and noise together, M^{-1/2}z = Aᴴz₁ + √λ z₂, exact for any number of coils (perturb and solve). The law of a
    Gaussian posterior is exact at every τ ≤ 1 and ρ (`KineticChain`); of other posteriors it is wrong by τ². The levels
    of the annealing are passed without momentum. ``metropolis`` takes steps of plain Langevin dynamics and corrects
    them, at the price of a τ that shrinks with the number of pixels.

    All this holds where the systems are solved: a note says where conjugate gradients stopped far from it, as they do
    for λ of a few thousandths and less (a weak energy, hardly any noise).
    """

    name = "preconditioned-langevin"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(Sampler.Settings):
        levels: int = setting(40, "noise levels of the annealing, one step each; 1: none", ge=1)
        burn_in: int = setting(
            20, "steps at the last level before the first sample; what is left of the start falls by √ρ in each", ge=0
        )
        step_size: float | None = setting(None, "τ; none: 1, with metropolis adapted in the burn-in", gt=0, le=1)
        shift: float | None = setting(
            None, "λ; none: the largest curvature of the energy, measured at each noise level", gt=0
        )
        persistence: float = setting(
            0.7, "ρ, share of the momentum that a step at the last level keeps; unused with metropolis", ge=0, lt=1
        )
        metropolis: bool = setting(False, "accept or reject by the energy, so that exp(−C/T) is stationary")
        cg_iterations: int = setting(
            15, "most conjugate-gradient iterations in a step; with metropolis ten times as many", ge=1
        )
        cg_tolerance: float = setting(
            1e-3, f"residual at which they stop, relative; {EXACT:g} at most with metropolis", gt=0
        )

    def check(self, target: Target, image: Tensor, generator: torch.Generator) -> None:
        s = self.settings
        if s.shift is None or s.metropolis:
            return
        curvature, _ = largest_curvature(lambda x: target.prior.gradient(x, target.level), image, generator)
        limit = 0.5 * (s.step_size or 1.0) * float(curvature.max())
        if not s.shift > limit:
            raise SettingsError(
                f"solver.shift: found {s.shift:g}; stable above {limit:.3g}, half τ times the curvature of the energy"
            )

    def prepared(self, target: Target, image: Tensor, generator: torch.Generator) -> Sampler:
        if self.settings.shift is not None:
            return self
        return self.changed(shift=float(measured_curvature(target, image, generator).largest.max()))

    def chain(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> LangevinChain:
        s, common, problem = self.settings, (target, image, generator), target.problem
        temperature = self.temperature(target).repeat(len(image) // problem.batch)
        curvature = None if s.shift else measured_curvature(*common, previous)
        shift = torch.full_like(temperature, s.shift) if curvature is None else curvature.largest
        tau = torch.full_like(temperature, s.step_size or 1.0)
        if s.metropolis and not passing:
            return MetropolisChain(
                *common,
                temperature=temperature,
                step_size=tau if s.step_size else _adapted(previous, tau, problem.batch),
                adapt=s.step_size is None,
                preconditioner=Shifted(problem, shift, min(s.cg_tolerance, EXACT), 10 * s.cg_iterations),
                curvature=curvature,
            )
        preconditioner = Shifted(problem, shift, s.cg_tolerance, s.cg_iterations)
        if isinstance(previous, KineticChain):
            momentum = previous.momentum[-len(image) :]
        else:
            noise = preconditioner.perturbation(image, generator)
            momentum = per_image(temperature.sqrt(), noise) * noise
        return KineticChain(
            *common,
            momentum=momentum,
            persistence=0.0 if passing else s.persistence,
            temperature=temperature,
            step_size=tau,
            preconditioner=preconditioner,
            curvature=curvature,
        )


def _adapted(previous: Chain | None, tau: Tensor, batch: int) -> Tensor:
    """Return the steps that a Metropolis chain before has adapted, that of its last chain for all; `tau` without."""
    if not isinstance(previous, MetropolisChain):
        return tau
    return previous.step_size[-batch:].repeat(len(tau) // batch)
