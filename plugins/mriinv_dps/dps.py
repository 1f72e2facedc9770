"""Diffusion posterior sampling (Chung 2023), the sampler that the paper compares with (section IV-C, fig. 5)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from mriinv import (
    CompatibilityError,
    ComponentSettings,
    InverseProblem,
    Monitor,
    Prior,
    Samples,
    Solver,
    complex_noise,
    setting,
)
from mriinv_dps.chains import Report, gather

LAST_TIME = 1e-3


class DPS(Solver):
    r"""The reverse of a variance-exploding diffusion, steered to the data by the gradient through the denoiser.

    The diffusion is eq. 24, :math:`dx = Λ^t dw` with :math:`σ^2(t) = (Λ^{2t} − 1)/(2 \ln Λ)`. One ancestral step (Song
    2021, appendix F) from the level σ of t to σ' of t − Δt, with x̂₀ = D_σ(x), z ∼ N(0, 1) per real component and one
    norm per image:

    .. math:: x ← x + \Big(1 − \frac{σ'^2}{σ^2}\Big)(\hat x_0 − x) + σ'\sqrt{1 − \frac{σ'^2}{σ^2}}\,z
        − ζ ∇_x‖A\hat x_0(x) − b‖

    Without the last term the noise of x is σ' for every number of steps; that of Euler and Maruyama is larger, 0.041
    instead of 0.032 at the end of 1000. t falls from 1 to 0.001, or as much of this as lies within the levels of the
    prior; the sample is D_σ(x) at its end. The state starts at `initial`, or SENSE, plus noise of the first level.

    The step ζ is that of the authors' code, constant and not a score: it is not multiplied by the variance of a step as
    the guidance of deepinv's ``PosteriorDiffusion`` is, which is therefore another algorithm (it also casts to single
    precision). Their paper writes :math:`(ζ'/‖r‖)∇‖r‖^2`, so that ζ = 2ζ'; codes that divide ∇½‖r‖² by its root have
    :math:`ζ = \sqrt{2} ζ''`. Samples are biased: x̂₀ stands for all images that the state allows, and ζ is tuned
    rather than derived from the noise.
    """

    name = "dps"
    requires = (frozenset({"denoiser", "noise-conditional"}),)

    class Settings(ComponentSettings):
        steps: int = setting(1000, "steps of the diffusion", ge=1)
        diffusion_base: float = setting(25.0, "Λ of eq. 24", gt=1)
        scale: float = setting(1.0, "ζ, length of a step towards the data, image scale 1", ge=0, tune=(0.1, 10.0))
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
        assert prior is not None
        s = self.settings
        times = self._times(prior)

        def draw(start: Tensor, report: Report) -> Tensor:
            return self._draw(problem, prior, start, times, generator, report)

        return gather(draw, problem, initial, samples=s.samples, batch=s.batch, steps=s.steps, monitor=monitor)

    def level(self, time: float) -> float:
        """Return σ(t) of eq. 24."""
        growth = 2 * math.log(self.settings.diffusion_base)
        return math.sqrt(math.expm1(growth * time) / growth)

    def _times(self, prior: Prior) -> list[float]:
        assert prior.noise_range is not None
        growth, steps = 2 * math.log(self.settings.diffusion_base), self.settings.steps
        lowest, highest = (math.log1p(growth * level**2) / growth for level in prior.noise_range)
        first, last = min(highest, 1.0), max(lowest, LAST_TIME)
        if first <= last:
            knows = f"prior '{prior.name}' knows {prior.noise_range[0]:g} to {prior.noise_range[1]:g}"
            raise CompatibilityError(f"dps: noise from {self.level(1.0):.3g} to {self.level(LAST_TIME):.3g}; {knows}")
        return [first + (last - first) * step / steps for step in range(steps + 1)]

    def _draw(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Tensor,
        times: list[float],
        generator: torch.Generator,
        report: Report,
    ) -> Tensor:
        image = image + complex_noise(image.shape, self.level(times[0]), generator, image.dtype)
        for step, (time, after) in enumerate(pairwise(times), start=1):
            level, lower = self.level(time), self.level(after)
            share = 1 - (lower / level) ** 2
            estimate, residual, gradient = residual_gradient(problem, prior, image, level)
            image = image + share * (estimate - image) - self.settings.scale * gradient
            image += complex_noise(image.shape, lower * math.sqrt(share), generator, image.dtype)
            report(step, residual)
        return prior.denoise(image, self.level(times[-1]))


def residual_gradient(
    problem: InverseProblem, prior: Prior, image: Tensor, level: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x̂₀ = D_σ(x), the residual A x̂₀ − b and ∇ₓ‖A x̂₀(x) − b‖ as ∂Re + i∂Im, for each image on its own."""
    with torch.enable_grad():
        leaf = image.detach().requires_grad_()
        estimate = prior.denoise(leaf, level, create_graph=True)
        if not estimate.requires_grad:
            raise CompatibilityError(f"dps differentiates the denoiser, which prior '{prior.name}' does not allow")
        residual = problem.operator.forward(estimate) - problem.data
        norms = torch.linalg.vector_norm(torch.view_as_real(residual).flatten(1), dim=1)
        (gradient,) = torch.autograd.grad(norms.sum(), leaf)
    return estimate.detach(), residual.detach(), gradient
