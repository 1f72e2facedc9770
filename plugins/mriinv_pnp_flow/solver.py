"""Plug-and-play with flow matching (Martin 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import (
    CompatibilityError,
    ComponentSettings,
    InverseProblem,
    Monitor,
    MriinvError,
    Prior,
    Solution,
    Solver,
    complex_noise,
    relative_norm,
    setting,
)


class PnPFlow(Solver):
    r"""For t rising from 0 to 1: a gradient step on the data, noise along the straight path, and the flow's denoiser.

    .. math::
        z &= x − s(1 − t)^a A^H(Ax − b) \\
        x &← \text{mean over draws of } F_t\big(t z + (1 − t) ε\big), \qquad ε ∼ N(0, 1) \text{ per real component}

    Flow matching learns the velocity :math:`v(y, t) = \mathbb E[x_1 − ε \mid y]` of the path y = t x₁ + (1 − t) ε.
    Since x₁ = y + (1 − t)(x₁ − ε), its denoiser is :math:`F_t(y) = y + (1 − t) v(y, t) = \mathbb E[x_1 \mid y]`. And
    y/t = x₁ + ((1 − t)/t) ε is the image with white noise, hence

    .. math:: F_t(y) = D_σ(y/t), \qquad σ = (1 − t)/t.

    Both are the same regression under two parametrisations, so a noise-conditional denoiser serves. Times whose σ is
    above the range of the prior are skipped. The draws are averaged: this is an estimator and not a sampler.
    """

    name = "pnp-flow"
    requires = (frozenset({"denoiser", "noise-conditional"}),)

    class Settings(ComponentSettings):
        steps: int = setting(100, "number of times, those that are skipped included", ge=2)
        step_size: float = setting(1.0, "s times ‖A‖², first step on the data term; stable below 2", gt=0)
        exponent: float = setting(0.05, "a, how fast the steps on the data fall; published: 1", ge=0, tune=(0.05, 2.0))
        draws: int = setting(5, "noisy images that are denoised and averaged per time", ge=1)

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        assert prior is not None and prior.noise_range is not None
        s = self.settings
        lowest, highest = prior.noise_range
        times = [time for time in (step / s.steps for step in range(1, s.steps)) if (1 - time) / time <= highest]
        if not times:
            found = f"noise {1 / (s.steps - 1):.3g} at the last time, prior '{prior.name}' knows it up to {highest:g}"
            raise CompatibilityError(f"pnp-flow: {found}; set more steps")
        back_projection = problem.back_projection()
        size = s.step_size / problem.operator.norm_bound**2
        image = problem.sense() if initial is None else initial
        changes: list[Tensor] = []
        for step, time in enumerate(times, start=1):
            level = (1 - time) / time
            z = image - size * (1 - time) ** s.exponent * problem.data_gradient(image, back_projection)
            noisy = z.repeat(s.draws, 1, 1)
            noisy = noisy + complex_noise(noisy.shape, level, generator, noisy.dtype)
            denoised = prior.denoise(noisy, max(level, lowest)).view(s.draws, *image.shape).mean(0)
            changes.append(relative_norm(denoised - image, denoised))
            image = denoised
            if not bool(torch.view_as_real(image).isfinite().all()):
                raise MriinvError(f"pnp-flow diverged after {step} steps; set a smaller solver.step_size")
            if monitor is not None:
                monitor(step, {"change": float(changes[-1].max())})
        done = torch.full((problem.batch,), len(times), device=image.device)
        return Solution(image, torch.ones_like(done, dtype=torch.bool), done, {"change": torch.stack(changes)})
