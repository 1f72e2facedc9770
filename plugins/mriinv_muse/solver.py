"""MAP estimation with the modified cost of MuSE."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import (
    CompatibilityError,
    ComponentSettings,
    InverseProblem,
    Iterations,
    Monitor,
    MriinvError,
    Prior,
    Solution,
    Solver,
    largest_curvature,
    per_image,
    setting,
)

MAX_REFUSALS = 30  # of one step: the majoriser grows to 2^30 times itself
TINY = torch.finfo(torch.float64).tiny


class MuseMM(Solver):
    r"""Minimise the modified cost of MuSE (Chand and Jacob 2024), in which the data see the denoised image,

    .. math:: \tilde C(x) = \tfrac12 ‖A D(x) − b‖^2 + E(x), \qquad D(x) = x − ∇(E/w),

    by x ← x − M⁻¹∇C̃ with M = aAᴴA + LI, from SENSE, until |C̃_{n+1} − C̃_n| ≤ `tolerance`·C̃_n. In the units of its
    authors, w = σ²/s² with σ = 0.34 and s = 1, a = 0.72 and L = 5w.

    The curvature of the data term of C̃ is about AᴴA, more than a = 0.72 allows for, so M is no majoriser in general.
    Here a step that would raise C̃ is not taken; it is tried again with M doubled, and M relaxes afterwards. Plain MM
    on C = ½‖Ax − b‖² + E, which is the paper's eq. 15, is the solver `mm-cg`: another algorithm for another cost.

    w is that of the prior whatever the noise of the data, as σ and s are in the publication: with one that follows the
    noise x, which the data see only denoised, has nothing that holds it (3 dB less on simulated heads of noise 0.0008).
    The image is x, as published, not D(x).
    """

    name = "muse-mm"
    requires = (frozenset({"energy", "gradient", "denoiser"}),)

    class Settings(ComponentSettings):
        data_curvature: float = setting(0.72, "a, half the square of the published 1.2", gt=0)
        curvature: float | None = setting(None, "L; none: the measured curvature of E", gt=0)
        tolerance: float = setting(1e-6, "relative change of the cost at which to stop (published: 1e-5)", gt=0)
        max_iterations: int = setting(500, "largest number of steps", ge=1)
        cg_iterations: int = setting(10, "conjugate-gradient iterations in a step", ge=1)

    def prior_at(self, prior: Prior, noise_std: Tensor) -> Prior:
        """Return the prior as it is."""
        return prior

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
        s, x = self.settings, problem.sense() if initial is None else initial
        if prior.noise_range is not None:
            raise CompatibilityError(f"muse-mm: prior '{prior.name}' denoises at a stated level; it needs one without")
        curvature: float | Tensor | None = s.curvature
        if curvature is None:
            curvature = largest_curvature(prior.gradient, x, generator)[0].clamp_min(1e-6)
        cost, gradient = self._evaluate(problem, prior, x)
        if not torch.isfinite(cost).all():
            raise MriinvError(f"muse-mm: the cost is {cost.tolist()} where it starts")
        growth = torch.ones_like(cost)
        iterations = Iterations(x, s.max_iterations, monitor)
        while iterations:
            direction = problem.operator.solve_normal(
                gradient / s.data_curvature,
                curvature / s.data_curvature,
                tolerance=1e-3,
                max_iterations=s.cg_iterations,
            ).solution
            pending, change = iterations.moving, torch.zeros_like(cost)
            for _ in range(MAX_REFUSALS):
                candidate = x - direction / per_image(growth, x)
                new_cost, new_gradient = self._evaluate(problem, prior, candidate)
                accepted = pending & (new_cost <= cost)
                change = torch.where(accepted, (cost - new_cost) / cost.abs().clamp_min(TINY), change)
                pixels = accepted.view(-1, 1, 1)
                x, gradient = torch.where(pixels, candidate, x), torch.where(pixels, new_gradient, gradient)
                cost = torch.where(accepted, new_cost, cost)
                pending = pending & ~accepted
                growth = torch.where(pending, 2 * growth, torch.where(accepted, (0.7 * growth).clamp_min(1.0), growth))
                if not pending.any():
                    break
            iterations.record("cost", cost=cost, growth=growth)
            iterations.converged |= iterations.moving & ~pending & (change <= s.tolerance)
            iterations.failed |= pending
        return iterations.solution(x)

    def _evaluate(self, problem: InverseProblem, prior: Prior, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return C̃ and ∇C̃ = Jᴴ Aᴴ(A D(x) − b) + ∇E; the Jacobian J of D is symmetric."""
        energy, gradient = prior.energy_and_gradient(image)
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            denoised = prior.denoise(leaf, 0.0, create_graph=True)
        data = problem.data_term(denoised.detach())
        (pulled,) = torch.autograd.grad(denoised, leaf, problem.data_gradient(denoised.detach()))
        return data + energy, pulled + gradient
