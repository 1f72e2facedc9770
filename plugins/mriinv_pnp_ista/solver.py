"""PnP-ISTA: proximal gradients whose proximal map is a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import (
    ComponentSettings,
    InverseProblem,
    Iterations,
    Monitor,
    Prior,
    Solution,
    Solver,
    inner_product,
    per_image,
    relative_norm,
    setting,
)

LEAST_SHARE = 0.05  # data without noise need a prior as well
LEAST_RMS = 0.05  # of images of scale 1: one of zeros is compared with this
DIVERGED = 10.0  # times the smallest change so far, or the norm of the start


class ISTA(Solver):
    r"""Plug-and-play ISTA (paper, eq. 18-19),

    .. math:: q_t = x_{t-1} − α A^H(A x_{t-1} − b), \qquad x_t = D_σ(q_t),

    from SENSE; α is `step_size`/‖A‖² (the paper's α/η²). A denoiser of one level σ is right for data of that noise; for
    noise η < σ it takes the share s of its step, x_t = (1 − s)q_t + s D_σ(q_t) with s = η/σ, unless `relaxation` says
    otherwise (as published: 1). Stops at ‖x_t − x_{t−1}‖ ≤ `tolerance`·‖x_t‖ (the paper: ‖x_{t−1}‖,
    which may be zero), image by image.

    Nothing makes a learned denoiser a contraction, so the iteration may diverge, often after it came close to a fixed
    point. The iterate with the smallest change is kept and returned. An image whose change grows to ten times its
    smallest, or whose norm to ten times that of the start, has diverged: it stops, is not converged, and the solution
    says so.
    """

    name = "ista"
    requires = (frozenset({"denoiser"}),)

    class Settings(ComponentSettings):
        step_size: float = setting(1.0, "α times ‖A‖²; stable below 2", gt=0, lt=2)
        noise_level: float = setting(
            0.01,
            "σ of the denoiser; one that was trained at a single level ignores it",
            gt=0,
            unit="std per real component, image scale 1",
            tune=(0.001, 0.1),
        )
        relaxation: float | None = setting(
            None, "share s of the denoiser's step; none: noise of the data over noise_level, 0.05 to 1", gt=0, le=1
        )
        tolerance: float = setting(1e-6, "relative change of the image at which to stop", gt=0)
        max_iterations: int = setting(500, "largest number of iterations", ge=1)

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
        s, projected = self.settings, problem.back_projection()
        step = s.step_size / problem.operator.norm_bound**2
        x = best = problem.sense() if initial is None else initial
        share = per_image(self._share(problem), x)
        size = inner_product(x, x).maximum(inner_product(projected, projected)).clamp_min(LEAST_RMS**2 * x[0].numel())
        smallest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        iterations = Iterations(x, s.max_iterations, monitor)
        while iterations:
            moving = iterations.moving
            nearer = x - step * problem.data_gradient(x, projected)
            following = nearer + share * (prior.denoise(nearer, s.noise_level) - nearer)
            change = relative_norm(following - x, following)
            x = torch.where(moving.view(-1, 1, 1), following, x)
            better = moving & (change < smallest)
            best = torch.where(better.view(-1, 1, 1), x, best)
            smallest = torch.where(better, change, smallest)
            iterations.record("change", change=change, data=problem.data_term(x))
            iterations.converged |= moving & (change <= s.tolerance)
            sound = (change <= DIVERGED * smallest) & (inner_product(x, x) <= DIVERGED**2 * size)
            iterations.failed |= moving & ~sound  # not a number has diverged
        diverged = iterations.failed
        notes = tuple(
            f"ista diverged after {count} iterations; the image is the one with the smallest change, {kept:.1e}"
            for count, kept in zip(iterations.count[diverged].tolist(), smallest[diverged].tolist(), strict=True)
        )
        return iterations.solution(best, notes)

    def _share(self, problem: InverseProblem) -> Tensor:
        """Return s per image: 1 where the noise of the data is unknown."""
        s, whole = self.settings, torch.ones(problem.batch, dtype=torch.float64, device=problem.data.device)
        if s.relaxation is not None or problem.noise_std is None:
            return whole * (s.relaxation or 1.0)
        return (problem.noise_std.double() / s.noise_level).clamp(LEAST_SHARE, 1)
