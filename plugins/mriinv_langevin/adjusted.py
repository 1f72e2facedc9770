"""Langevin dynamics that the geometry of the problem and the energy itself correct."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mriinv import Chain, InverseProblem, Prior, Sampler, setting
from mriinv_langevin.chains import LangevinChain, MetropolisChain, Shifted
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
        problem: InverseProblem,
        prior: Prior,
        image: Tensor,
        level: Any,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> LangevinChain:
        fixed = self.settings.step_size
        temperature = self.temperature(problem, prior).repeat(len(image) // problem.batch)
        tau, direction = stable_step(problem, prior, image, level, generator, previous)
        if passing:
            return LangevinChain(
                problem,
                prior,
                image,
                level,
                generator,
                step_size=tau,
                noise=2 * tau * temperature,
                direction=direction,
            )
        if fixed is not None:
            tau = torch.full_like(tau, fixed)
        elif isinstance(previous, MetropolisChain):
            tau = previous.step_size[-problem.batch :].repeat(len(image) // problem.batch)
        return MetropolisChain(
            problem,
            prior,
            image,
            level,
            generator,
            temperature=temperature,
            step_size=tau,
            adapt=fixed is None,
            direction=direction,
        )


class PreconditionedLangevin(Sampler):
    r"""Langevin dynamics in the geometry of the problem, M = (AᴴA + λI)⁻¹ with λ the curvature of E:

    .. math:: x_{n+1} = x_n − τM∇C(x_n) + \sqrt{2τT}\,M^{1/2}\,\tfrac12(z_n + z_{n+1})

    What A measures well and what it does not move at the same speed. One solve by conjugate gradients gives the drift
    and the noise together, M^{1/2}z = M(Aᴴz₁ + √λ z₂), exact for any number of coils (perturb and solve). With the mean
    of two successive perturbations (Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010) the law of a Gaussian
    posterior is exact at every τ ≤ 1, though draws at τ = 1 are one step's noise apart at best; of other posteriors it
    is wrong by τ² instead of τ. ``metropolis`` takes independent perturbations and corrects what is left, at the price
    of a step that shrinks with the number of pixels.
    """

    name = "preconditioned-langevin"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(Sampler.Settings):
        step_size: float | None = setting(None, "τ; none: 1, with metropolis adapted in the burn-in", gt=0, le=1)
        metropolis: bool = setting(False, "accept or reject by the energy, so that exp(−C/T) is stationary")
        cg_iterations: int = setting(15, "largest number of conjugate-gradient iterations in a step", ge=1)
        cg_tolerance: float = setting(
            1e-3, f"residual at which they stop, relative; {EXACT:g} at most with metropolis", gt=0
        )

    def chain(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Tensor,
        level: Any,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> LangevinChain:
        s = self.settings
        temperature = self.temperature(problem, prior).repeat(len(image) // problem.batch)
        shift, direction = measured_curvature(problem, prior, image, level, generator, previous)
        tau = torch.full_like(temperature, s.step_size or 1.0)
        if passing or not s.metropolis:
            preconditioner = Shifted(problem, shift, s.cg_tolerance, s.cg_iterations)
            before = previous.perturbation if isinstance(previous, LangevinChain) else None
            if before is None or len(before) != len(image):
                before = preconditioner.perturbation(image, generator)
            return LangevinChain(
                problem,
                prior,
                image,
                level,
                generator,
                step_size=tau,
                noise=2 * tau * temperature,
                preconditioner=preconditioner,
                direction=direction,
                perturbation=before,
            )
        if s.step_size is None and isinstance(previous, MetropolisChain):
            tau = previous.step_size[-problem.batch :].repeat(len(image) // problem.batch)
        return MetropolisChain(
            problem,
            prior,
            image,
            level,
            generator,
            temperature=temperature,
            step_size=tau,
            adapt=s.step_size is None,
            preconditioner=Shifted(problem, shift, min(s.cg_tolerance, EXACT), 10 * s.cg_iterations),
            direction=direction,
        )
