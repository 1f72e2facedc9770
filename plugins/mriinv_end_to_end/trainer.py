"""Supervised training of reconstructions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import model_validator

from mriinv import (
    ComponentSettings,
    Loss,
    Prior,
    ProblemSource,
    Trainer,
    denoising_score_matching,
    log_uniform,
    setting,
    warm_cosine,
)

# of a network that is not told the level: from lower ones, which count as much, it learns to leave images as they are
WARM_START_LEVELS = (0.02, 0.06)


class EndToEndTrainer(Trainer):
    r"""Minimise the mean square error of what a prior reconstructs from simulated measurements (paper, eq. 20),

    .. math:: L(θ) = 100\,\frac{\sum_i ‖x_θ^*(i) − x_{ref}(i)‖^2}{\sum_i ‖x_{ref}(i)‖^2} + \text{penalty}_θ(x_θ^*),

    the sums over the images of an update; the penalty is the prior's own. How the error reaches the parameters,
    through unrolled iterations or at a fixed point (eq. 21), is the prior's affair too.

    The first `warm_start` updates train the network as a denoiser at levels from 0.02 to 0.06 instead, which is cheap,
    for priors that provide ``denoiser``: unrolled methods are commonly started from such a network.

    ``loss="magnitude"`` compares magnitudes, as MoL's authors do; the phase then follows from the data alone.

    Logged: ``mse_db``, the mean square error in dB at image scale 1 (the peak of an image is not 1, so −mse_db is no
    PSNR), the penalty, and the mean number of iterations.
    """

    name = "end-to-end"
    requires = (frozenset({"reconstruction"}),)

    class Settings(ComponentSettings):
        steps: int = setting(2000, "updates", ge=1)
        warm_start: int = setting(
            0, "updates of denoising score matching first, on twice as many images; fewer than steps", ge=0
        )
        batch: int = setting(2, "images per update", ge=1)
        learning_rate: float = setting(1e-3, "Adam's, after a linear warm-up; falls along a cosine", gt=0)
        scalar_learning_rate_factor: float = setting(
            10.0, "factor on it for parameters that are one number (step sizes, weights)", ge=0
        )
        loss: Literal["complex", "magnitude"] = setting("complex", "what of the image is compared")

        @model_validator(mode="after")
        def _learns_the_reconstruction(self) -> EndToEndTrainer.Settings:
            if self.warm_start >= self.steps:
                raise ValueError(f"warm_start: found {self.warm_start}; expected fewer than steps, {self.steps}")
            return self

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.settings.warm_start:
            self.requires = (frozenset({"reconstruction", "denoiser"}),)

    def parameter_groups(self, prior: Prior) -> list[dict[str, Any]]:
        rate, factor = self.settings.learning_rate, self.settings.scalar_learning_rate_factor
        scalars = [p for p in prior.parameters() if p.ndim == 0]
        groups: list[dict[str, Any]] = [{"params": [p for p in prior.parameters() if p.ndim > 0], "lr": rate}]
        return [*groups, {"params": scalars, "lr": rate * factor}] if scalars else groups

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then one cosine per stage."""
        first = self.settings.warm_start
        done, length = (step, first) if step < first else (step - first, self.steps - first)
        return warm_cosine(done, length, warm_up=50, floor=0.02)

    def loss(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        if step < self.settings.warm_start:
            images = source.images(2 * self.settings.batch, generator)
            levels = log_uniform(len(images), *WARM_START_LEVELS, generator)
            value = denoising_score_matching(prior, images, levels, generator)
            return Loss(value, {"dsm": float(value.detach())})
        images = source.images(self.settings.batch, generator)
        solution = prior.reconstruct(source.problem(images, generator))
        error = (solution.image - images).abs().square().mean()
        compared = error
        if self.settings.loss == "magnitude":
            compared = (solution.image.abs() - images.abs()).square().mean()
        penalty = prior.penalty(solution.image.detach(), generator)
        value = 100 * compared / images.abs().square().mean() + penalty
        log = {"mse_db": 10 * math.log10(float(error.detach())), "penalty": float(penalty.detach())}
        return Loss(value, log | {"iterations": float(solution.iterations.double().mean())})
