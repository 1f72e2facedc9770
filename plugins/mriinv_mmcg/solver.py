"""MM-CG: minimise C(x) = ½‖Ax − b‖² + E(x) by quadratic majorisers (paper, eq. 14-15)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mriinv import (
    ComponentSettings,
    InverseProblem,
    Monitor,
    MriinvError,
    Prior,
    Solution,
    Solver,
    largest_curvature,
    setting,
)

GROWTH, DECAY = 1.6, 0.9  # of L after a refused and after an accepted step
MAX_REFUSALS = 40  # L grows 1e8-fold: the step is then below rounding
TINY = 1e-300


class MMCG(Solver):
    r"""Majorise-minimise with conjugate gradients.

    Each step minimises the majoriser of eq. 14,

    .. math:: x_{n+1} = (A^HA + L I)^{-1} (A^Hb + L x_n − ∇E(x_n)),

    by conjugate gradients on the step d = x_{n+1} − x_n, (AᴴA + LI) d = −∇C(x_n), whose tolerance is thus relative to
    the gradient that is left. L begins at an estimate of the curvature of E and is raised until
    E(x_{n+1}) ≤ E(x_n) + Re⟨∇E(x_n), d⟩ + ½L‖d‖²; a step that does not pass is not taken, so the cost never increases.
    Afterwards L may shrink again. It is per image, and an image that has converged is left alone.

    A noise-conditional energy is approached through a falling noise level: the first iterates minimise C with E_σ for
    σ from the highest trained level down to the lowest, a few steps each; then the last level runs to convergence.
    The stopping rule is the paper's: |C(x_{n+1}) − C(x_n)| ≤ `tolerance`·C(x_n), or `max_iterations`. The history has
    one row per step: cost, data term and energy (scale 1), L, noise level, CG iterations, gradients evaluated so far.
    """

    name = "mm-cg"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(ComponentSettings):
        tolerance: float = setting(1e-6, "relative change of the cost at which to stop", gt=0)
        max_iterations: int = setting(500, "largest number of steps, those at higher noise levels included", ge=1)
        cg_iterations: int = setting(15, "largest number of conjugate-gradient iterations in a step", ge=1)
        cg_tolerance: float = setting(1e-3, "residual at which they stop, relative to ‖∇C‖", gt=0)
        initial_curvature: float | None = setting(None, "first L; none: 0.5 of the measured curvature of E", gt=0)
        levels: int = setting(9, "noise levels of the continuation, the last one included; 1: none", ge=1)
        steps_per_level: int = setting(3, "steps at each level but the last", ge=1)
        highest_level: float | None = setting(
            0.1, "first noise level; none: the highest trained", gt=0, unit="std per real component, image scale 1"
        )

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        assert prior is not None
        state = _State(problem, prior, problem.sense() if initial is None else initial.clone())
        levels = self._levels(prior)
        for position, level in enumerate(levels):
            last = position == len(levels) - 1
            self._enter(state, level, generator)
            left = self.settings.max_iterations - len(state.history)
            for _ in range(left if last else self.settings.steps_per_level):
                self._step(state, last)
                if monitor is not None:
                    monitor(len(state.history), {"cost": float(state.cost.mean())})
                if state.stopped.all():
                    break
        history = {name: torch.stack([row[name] for row in state.history]) for name in state.history[0]}
        return Solution(state.image, state.converged, state.iterations, history)

    def _levels(self, prior: Prior) -> list[float | None]:
        """Return the noise levels, falling geometrically; [None] for an energy without.

        At least half of `max_iterations` is left for the last level: a small budget has fewer levels.
        """
        s = self.settings
        count = min(s.levels, 1 + s.max_iterations // (2 * s.steps_per_level))
        if prior.noise_range is None or count == 1:
            return [None]
        low, high = prior.noise_range
        high = max(low, min(high, s.highest_level or high))
        return [high * (low / high) ** (k / (count - 1)) for k in range(count - 1)] + [low]

    def _enter(self, state: _State, level: float | None, generator: torch.Generator) -> None:
        """Set the noise level; measure the curvature of the energy there."""
        state.level = level
        state.cost, state.energy, state.gradient = state.evaluate(state.image)
        if not torch.isfinite(state.cost).all():
            raise MriinvError(
                f"mm-cg: the cost is {state.cost.tolist()} where it starts; the energy is not finite there"
            )
        if self.settings.initial_curvature is not None:
            state.curvature = torch.full_like(state.cost, self.settings.initial_curvature)
            return
        iterations = 3 if state.direction is None else 1  # the direction changes little between levels
        curvature, state.direction = largest_curvature(
            lambda x: state.prior.gradient(x, level),
            state.image,
            generator,
            iterations=iterations,
            initial=state.direction,
            base=state.gradient,
        )
        state.gradients += iterations
        state.curvature = 0.5 * curvature.double().clamp_min(1e-4)

    def _step(self, state: _State, last: bool) -> None:
        """Take one step for every image that still moves, raising L until its majoriser holds.

        An image whose step is refused however large L is stops: converged if its first trial promised no more than
        the tolerance, so that rounding decides, and not converged otherwise.
        """
        s = self.settings
        pending = ~state.stopped
        change, promise, used = torch.zeros_like(state.cost), None, state.curvature
        descent = state.back_projection - state.problem.operator.gram(state.image) - state.gradient
        for _ in range(MAX_REFUSALS):
            cg = state.problem.operator.solve_normal(
                descent,
                state.curvature.to(state.image.real.dtype),
                tolerance=s.cg_tolerance,
                max_iterations=s.cg_iterations,
            )
            step, candidate = cg.solution, state.image + cg.solution
            if promise is None:
                promise = 0.5 * _real_inner(descent, step) / state.cost.clamp_min(TINY)
            cost, energy, gradient = state.evaluate(candidate)
            quadratic = 0.5 * state.curvature * _real_inner(step, step)
            bound = state.energy + _real_inner(state.gradient, step) + quadratic
            accepted = pending & (energy <= bound) & (cost <= state.cost)
            change = torch.where(accepted, (state.cost - cost) / state.cost.clamp_min(TINY), change)
            used = torch.where(pending, state.curvature, used)
            state.accept(accepted, candidate, cost, energy, gradient)
            pending &= ~accepted
            state.curvature = state.curvature * torch.where(pending, GROWTH, torch.where(accepted, DECAY, 1.0))
            if not pending.any():
                break
        assert promise is not None
        state.record(used, cg.iterations)
        if last:
            moving = ~state.stopped
            state.converged |= moving & (torch.where(pending, promise, change) <= s.tolerance)
            state.stopped |= state.converged | (moving & pending)


@dataclass
class _State:
    """What a solve carries from step to step; all quantities are per image."""

    problem: InverseProblem
    prior: Prior
    image: Tensor
    level: float | None = None
    gradients: int = 0
    direction: Tensor | None = None
    history: list[dict[str, Tensor]] = field(default_factory=list)
    cost: Tensor = field(init=False)
    energy: Tensor = field(init=False)
    gradient: Tensor = field(init=False)
    curvature: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.back_projection = self.problem.back_projection()
        batch, device = len(self.image), self.image.device
        self.converged = torch.zeros(batch, dtype=torch.bool, device=device)
        self.stopped = self.converged.clone()
        self.iterations = torch.zeros(batch, dtype=torch.int64, device=device)

    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cost, energy and the gradient of the energy: one evaluation of the network."""
        energy, gradient = self.prior.energy_and_gradient(image, self.level)
        self.gradients += 1
        return self.problem.data_term(image) + energy, energy, gradient

    def accept(self, which: Tensor, image: Tensor, cost: Tensor, energy: Tensor, gradient: Tensor) -> None:
        """Move the images selected by `which`."""
        pixels = which.view(-1, 1, 1)
        self.image = torch.where(pixels, image, self.image)
        self.gradient = torch.where(pixels, gradient, self.gradient)
        self.cost, self.energy = torch.where(which, cost, self.cost), torch.where(which, energy, self.energy)

    def record(self, curvature: Tensor, cg_iterations: Tensor) -> None:
        """Append a row to the history and count the step for the images that still move."""
        self.iterations += ~self.stopped
        level = torch.full_like(self.cost, float("nan") if self.level is None else self.level)
        row = {"cost": self.cost, "data": self.cost - self.energy, "energy": self.energy, "curvature": curvature}
        row |= {"noise_level": level, "cg_iterations": cg_iterations.to(self.cost)}
        self.history.append(row | {"gradients": torch.full_like(self.cost, self.gradients)})


def _real_inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re⟨a, b⟩ per image in float64."""
    products = torch.view_as_real(a).double() * torch.view_as_real(b).double()
    return products.flatten(1).sum(1)
