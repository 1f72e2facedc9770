"""Langevin chains, preconditioned or not, as they come or with the Metropolis correction."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mriinv import Chain, InverseProblem, Target, complex_noise, inner_product, per_image

ACCEPTANCE = 0.574  # the best share of accepted Langevin proposals in many dimensions (Roberts 1998)
LOOSE = 0.05  # residual of a solve above which variances are wrong by several per cent (measured)


class Curvature(NamedTuple):
    """The largest curvature of E per state, and the direction of it, of one chain of each image."""

    largest: Tensor
    direction: Tensor


class Preconditioner:
    """A Hermitian positive definite M; here the identity."""

    notes: tuple[str, ...] = ()

    def apply(self, image: Tensor) -> Tensor:
        """Return M x."""
        return image

    def perturbation(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return Gaussian noise whose covariance per real component is M⁻¹, so that M times it has covariance M."""
        return complex_noise(like.shape, 1.0, generator, like.dtype)


class Shifted(Preconditioner):
    """M = (AᴴA + λI)⁻¹ by conjugate gradients; exact for any operator, since Aᴴz₁ + √λ z₂ has covariance M⁻¹.

    Parameters
    ----------
    shift : λ per image
    tolerance, iterations : of conjugate gradients
    """

    def __init__(self, problem: InverseProblem, shift: Tensor, tolerance: float, iterations: int) -> None:
        self.operator, self.data, self.shift = problem.operator, problem.data, shift
        self.tolerance, self.iterations = tolerance, iterations
        self._residual = torch.zeros((), dtype=torch.float64, device=shift.device)  # the largest of all solves

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        if not self._residual > LOOSE:
            return ()
        return (
            f"error bars are not to be relied on: systems were solved to {float(self._residual):.0%} in "
            f"{self.iterations} iterations; raise solver.cg_iterations",
        )

    def apply(self, image: Tensor) -> Tensor:
        found = self.operator.solve_normal(image, self.shift, tolerance=self.tolerance, max_iterations=self.iterations)
        self._residual = torch.maximum(self._residual, found.relative_residual.max().double())
        return found.solution

    def perturbation(self, like: Tensor, generator: torch.Generator) -> Tensor:
        measured = complex_noise((len(like), *self.data.shape[1:]), 1.0, generator, self.data.dtype)
        own = complex_noise(like.shape, 1.0, generator, like.dtype)
        return self.operator.adjoint(measured) + per_image(self.shift.sqrt(), own) * own


class LangevinChain(Chain):
    r"""x ← x − τM∇C(x) + √v·M^{1/2}z, z with unit variance per real component.

    Parameters
    ----------
    step_size : τ per image
    curvature : as it was measured, for the chain at the next level
    noise : v per image; 2τT for the Euler-Maruyama step of the diffusion whose stationary law is exp(−C/T)
    """

    def __init__(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        step_size: Tensor,
        noise: Tensor,
        preconditioner: Preconditioner | None = None,
        curvature: Curvature | None = None,
    ) -> None:
        self.target, self.image, self.generator = target, image, generator
        self.step_size, self.noise = step_size, noise
        self.preconditioner = preconditioner or Preconditioner()
        self.curvature = curvature

    @property
    def notes(self) -> tuple[str, ...]:
        return self.preconditioner.notes

    def step(self) -> None:
        self.energy, self.gradient = self.target.evaluate(self.image)
        noise = self.preconditioner.perturbation(self.image, self.generator)
        rhs = per_image(self.noise.sqrt(), noise) * noise - per_image(self.step_size, noise) * self.gradient
        self.image = self.image + self.preconditioner.apply(rhs)


class KineticChain(LangevinChain):
    r"""Langevin dynamics with a momentum p of mass M⁻¹, one gradient and one solve in a step of length h = √(2τ):

    .. math:: p' = p − h∇C(x),\quad q = ρp' + \sqrt{(1 − ρ^2)T}\,M^{-1/2}z,\quad
        x ← x + \tfrac h2 M(p' + q),\quad p ← q

    This is the splitting BAOAB (Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010): the law of x is exact for a
    Gaussian posterior, whatever ρ and the step, stable for τg < 2 with g the eigenvalues of M∇²C. With ρ = 0 it is the
    overdamped x ← x − τM∇C(x) + √(2τT)·M^{1/2}(z + z')/2, where z is that of the step before.

    Parameters
    ----------
    temperature : T per image
    momentum : p, of covariance TM⁻¹ per real component when stationary
    persistence : ρ
    more : preconditioner and curvature, as of `LangevinChain`
    """

    def __init__(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        step_size: Tensor,
        temperature: Tensor,
        momentum: Tensor,
        persistence: float,
        **more: Any,
    ) -> None:
        noise = (1 - persistence**2) * temperature
        super().__init__(target, image, generator, step_size=step_size, noise=noise, **more)
        self.momentum, self.persistence = momentum, persistence

    def step(self) -> None:
        self.energy, self.gradient = self.target.evaluate(self.image)
        noise = self.preconditioner.perturbation(self.image, self.generator)
        length = per_image((2 * self.step_size).sqrt(), noise)
        pulled = self.momentum - length * self.gradient
        self.momentum = self.persistence * pulled + per_image(self.noise.sqrt(), noise) * noise
        self.image = self.image + 0.5 * length * self.preconditioner.apply(pulled + self.momentum)


class _Evaluated(NamedTuple):
    """C, E, ∇C and M∇C at an image."""

    cost: Tensor
    energy: Tensor
    gradient: Tensor
    drift: Tensor

    @property
    def squared_gradient(self) -> Tensor:
        """‖∇C‖²_M per image."""
        return inner_product(self.gradient, self.drift)


class MetropolisChain(LangevinChain):
    r"""The same with v = 2τT, each proposal accepted with the probability that makes exp(−C/T) stationary.

    With d = y − x, for every M,

    .. math:: \log a = \frac{C(x) − C(y)}{T} + \frac{\mathrm{Re}\, d^H(∇C(x) + ∇C(y))}{2T}
        − \frac{τ}{4T}\big(‖∇C(y)‖_M^2 − ‖∇C(x)‖_M^2\big)

    Until `begin`, τ of each image is adapted to an acceptance of 0.574.
    """

    def __init__(
        self,
        target: Target,
        image: Tensor,
        generator: torch.Generator,
        *,
        step_size: Tensor,
        temperature: Tensor,
        adapt: bool,
        **more: Any,
    ) -> None:
        noise = 2 * step_size * temperature
        super().__init__(target, image, generator, step_size=step_size, noise=noise, **more)
        self.temperature, self.adapting = temperature, adapt
        self.accepted, self.proposals = torch.zeros_like(step_size), 0
        self.here = self._evaluated(self.image)

    @property
    def acceptance(self) -> Tensor | None:
        return self.accepted / self.proposals if self.proposals else None

    def begin(self) -> None:
        self.adapting = False
        self.accepted, self.proposals = torch.zeros_like(self.step_size), 0

    def step(self) -> None:
        here = self.here
        noise = self.preconditioner.perturbation(self.image, self.generator)
        move = per_image(self.noise.sqrt(), noise) * self.preconditioner.apply(noise)
        move = move - per_image(self.step_size, move) * here.drift
        there = self._evaluated(self.image + move)
        ratio = here.cost - there.cost + 0.5 * inner_product(move, here.gradient + there.gradient)
        ratio = ratio - 0.25 * self.step_size * (there.squared_gradient - here.squared_gradient)
        probability = (ratio / self.temperature).exp().clamp(max=1.0).nan_to_num(0.0)  # what is not finite is refused
        draw = torch.rand(len(probability), generator=self.generator, device=probability.device, dtype=torch.float64)
        taken = draw < probability
        self.image = torch.where(taken.view(-1, 1, 1), self.image + move, self.image)
        self.here = _Evaluated(
            *(
                torch.where(taken.view(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip(there, here, strict=True)
            )
        )
        self.energy, self.gradient = self.here.energy, self.here.gradient
        self.accepted, self.proposals = self.accepted + taken, self.proposals + 1
        if self.adapting:
            gain = min(1.0, 5 / self.proposals)
            self.step_size = self.step_size * (gain * (probability - ACCEPTANCE)).exp()
            self.noise = 2 * self.step_size * self.temperature

    def _evaluated(self, image: Tensor) -> _Evaluated:
        energy, gradient = self.target.evaluate(image)
        assert energy is not None
        cost, drift = self.target.problem.data_term(image) + energy, self.preconditioner.apply(gradient)
        return _Evaluated(cost, energy, gradient, drift)
