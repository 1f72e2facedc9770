"""Denoising score matching: how every prior that denoises is trained without an operator."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import model_validator

from mriinv import (
    ComponentSettings,
    Loss,
    Prior,
    ProblemSource,
    SettingsError,
    Trainer,
    denoising_score_matching,
    log_uniform,
    setting,
    warm_cosine,
)


class Denoising(Trainer):
    r"""Minimise the square error of D_σ(x + σz) against x over noise levels σ (Vincent 2011),

    .. math:: \mathbb{E}\,\frac{‖D_σ(x + σz) − x‖^2}{2σ^2}, \qquad z ∼ N(0, I) \text{ per real component,}

    which makes (D_σ(x) − x)/σ² the score of images with noise σ (Tweedie). One level trains a plain denoiser; many
    train a noise-conditional one, or one energy for all of them (MuSE, whose authors draw σ uniformly and do not
    divide by σ²: ``spacing=uniform``, ``relative=false``).
    """

    name = "denoising"
    requires = (frozenset({"denoiser"}),)

    class Settings(ComponentSettings):
        steps: int = setting(6000, "updates", ge=1)
        batch: int = setting(4, "images per update", ge=1)
        learning_rate: float = setting(2e-3, "Adam's, after a linear warm-up; falls along a cosine", gt=0)
        levels: tuple[float, float] | None = setting(
            None,
            "lowest and highest noise level; none: those that the prior is made for",
            unit="std per real component, image scale 1",
        )
        spacing: Literal["logarithmic", "uniform"] = setting("logarithmic", "distribution of levels in between")
        relative: bool = setting(True, "divide by σ², so that every level counts the same")
        data_std: float | None = setting(
            None,
            "σ_d, none: infinite: the factor 1/σ² becomes 1/σ² + 1/σ_d², for levels far above the image",
            gt=0,
            unit="std per real component, image scale 1",
        )

        @model_validator(mode="after")
        def _levels_rise(self) -> Denoising.Settings:
            positive = self.relative or self.spacing == "logarithmic"
            if self.levels is not None and not (0 <= self.levels[0] <= self.levels[1]):
                raise ValueError("levels: expected 0 ≤ lowest ≤ highest")
            if self.levels is not None and self.levels[0] == 0 and (positive or self.levels[1] == 0):
                raise ValueError("levels: 0 needs spacing uniform, relative false and a higher level beside it")
            if self.data_std is not None and not self.relative:
                raise ValueError("data_std: only with relative")
            return self

    def parameter_groups(self, prior: Prior) -> list[dict[str, Any]]:
        return [{"params": list(prior.parameters()), "lr": self.settings.learning_rate}]

    def learning_rate_factor(self, step: int) -> float:
        return warm_cosine(step, self.steps, warm_up=100, floor=0.02)

    def loss(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        images = source.images(self.settings.batch, generator)
        levels = self._levels(prior, len(images), generator)
        s = self.settings
        value = denoising_score_matching(prior, images, levels, generator, relative=s.relative, data_std=s.data_std)
        return Loss(value, {"dsm": float(value.detach())})

    def _levels(self, prior: Prior, count: int, generator: torch.Generator) -> torch.Tensor:
        bounds = self.settings.levels or prior.noise_range
        if bounds is None:
            raise SettingsError(f"denoising: prior '{prior.name}' is made for no range of noise: set trainer.levels")
        low, high = bounds
        if prior.noise_range and not prior.noise_range[0] <= low <= high <= prior.noise_range[1]:
            found, known = f"{low:g} to {high:g}", "{:g} to {:g}".format(*prior.noise_range)
            raise SettingsError(f"trainer.levels: found {found}; the levels of prior '{prior.name}' are {known}")
        if self.settings.spacing == "logarithmic":
            return log_uniform(count, low, high, generator)
        return torch.empty(count, device=generator.device).uniform_(low, high, generator=generator)
