"""Decomposed diffusion sampling (Chung 2024): few DDIM steps (Song 2021), with conjugate gradients for the data."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from mriinv import ComponentSettings, InverseProblem, Monitor, Prior, Samples, Solver, complex_noise, setting
from mriinv_dps.chains import Report, gather


class DDS(Solver):
    r"""From level σ to the next lower one, σ', with the denoised image x̂₀ = D_σ(x) and ε̂ = (x − x̂₀)/σ:

    .. math::
        \hat x_0' &≈ \arg\min_u \tfrac{γ}{2}‖Au − b‖^2 + \tfrac12‖u − \hat x_0‖^2 \\
        x &← \hat x_0' + \sqrt{σ'^2 − c^2}\,\hat ε + c z, \qquad c = η\,σ'\sqrt{1 − σ'^2/σ^2}

    The first by a few conjugate gradient iterations from x̂₀; the second is DDIM in its variance-exploding form, where
    η = 0 is deterministic but for the noise that it starts from. Levels fall geometrically over the range of the
    prior, after the lowest x̂₀' is the sample. The state starts at `initial`, or SENSE, plus noise of the highest level.
    Nothing here knows the noise of the data: the spread of the samples is not calibrated to it.
    """

    name = "dds"
    requires = (frozenset({"denoiser", "noise-conditional"}),)

    class Settings(ComponentSettings):
        steps: int = setting(50, "noise levels, one evaluation of the denoiser each", ge=2)
        eta: float = setting(0.85, "η, share of fresh noise; 0: none", ge=0, le=1)
        data_weight: float = setting(1.0, "γ, weight of the data against the denoised image", gt=0, tune=(0.1, 100.0))
        cg_iterations: int = setting(5, "conjugate gradient iterations per level", ge=1)
        samples: int = setting(8, "independent samples", ge=1)
        batch: int = setting(4, "samples drawn at once (memory)", ge=1)

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Tensor | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Samples:
        assert prior is not None and prior.noise_range is not None
        s = self.settings
        lowest, highest = prior.noise_range
        levels = [highest * (lowest / highest) ** (step / (s.steps - 1)) for step in range(s.steps)] + [0.0]
        back_projection = problem.back_projection()

        def draw(start: Tensor, report: Report) -> Tensor:
            image = start + complex_noise(start.shape, highest, generator, start.dtype)
            for step, (level, after) in enumerate(pairwise(levels), start=1):
                estimate = prior.denoise(image, level)
                noise = (image - estimate) / level
                image = self._consistent(problem, back_projection, estimate)
                report(step, image - estimate)
                fresh = s.eta * after * math.sqrt(1 - (after / level) ** 2)
                image = image + math.sqrt(after**2 - fresh**2) * noise
                image += complex_noise(image.shape, fresh, generator, image.dtype)
            return image

        return gather(draw, problem, initial, samples=s.samples, batch=s.batch, steps=s.steps, monitor=monitor)

    def _consistent(self, problem: InverseProblem, back_projection: Tensor, estimate: Tensor) -> Tensor:
        """Return x̂₀', from conjugate gradients on (AᴴA + I/γ) u = Aᴴb + x̂₀/γ."""
        shift = 1 / self.settings.data_weight
        return problem.operator.solve_normal(
            back_projection + shift * estimate,
            shift,
            initial=estimate,
            max_iterations=self.settings.cg_iterations,
        ).solution
