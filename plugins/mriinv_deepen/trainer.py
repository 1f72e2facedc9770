"""Maximum-likelihood training of a posterior energy (paper, section II-B and II-C)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mriinv import (
    ComponentSettings,
    InverseProblem,
    Loss,
    Prior,
    ProblemSource,
    Sampler,
    Trainer,
    complex_noise,
    denoising_score_matching,
    log_uniform,
    make_solver,
    setting,
)

SINGLE_ENERGY_LEVELS = (0.002, 0.06)  # denoised by an energy that does not know the level
PREPARE_EVERY = 8  # updates between two measurements of a stable step


@dataclass
class Chain:
    """True images, their measurements, and the persistent fake images."""

    true: Tensor
    problem: InverseProblem
    fake: Tensor


class MaximumLikelihood(Trainer):
    r"""Minimise the negative log-posterior of true images (eq. 8) by contrasting them with fake ones (eq. 10, 13):

    .. math:: L'(θ) = \tfrac1T\big(E_θ(x^+) − E_θ(x^-)\big), \qquad x^- \sim \exp(−C_θ(x; A, b)/T)

    The data term carries no θ and no graph runs through the chain, so memory does not depend on its length. Fake
    images come from the registered ``langevin`` solver (eq. 11 or 16); T is its temperature.

    True images are training images with white noise of `true_noise_std`, added before they are measured: the energy is
    then that of images at this noise level, and measurements and true images agree as the likelihood assumes.

    Chains are persistent: each of `pool` groups keeps its images, measurements and fake images between updates, and
    starts anew from SENSE with probability `refresh`. Chains that start from noise every time, as published, learn a
    sampler of that length instead of an energy whose minimum is the truth; ``refresh=1`` with
    ``langevin.start=noise`` is that variant.

    The first `warm_start` updates are denoising score matching over the whole noise range; afterwards its loss goes
    on with weight `dsm_weight`, so that higher noise levels stay right while the lowest is trained by likelihood.
    """

    name = "maximum-likelihood"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(ComponentSettings):
        steps: int = setting(6000, "updates in all, warm start included", ge=1)
        warm_start: int = setting(4000, "updates of denoising score matching first", ge=0)
        dsm_weight: float = setting(1.0, "weight of the denoising loss beside the likelihood", ge=0)
        batch: int = setting(4, "images per update", ge=1)
        learning_rate: float = setting(2e-3, "Adam's, in the warm start", gt=0)
        likelihood_learning_rate: float = setting(3e-4, "Adam's, in the likelihood stage", gt=0)
        scale_learning_rate_factor: float = setting(10.0, "factor on it for the learned scale e^s", ge=0)
        pool: int = setting(8, "groups of persistent chains, of `batch` images each", ge=1)
        refresh: float = setting(0.04, "probability that a visited group starts anew", ge=0, le=1)
        chain_steps: int = setting(20, "Langevin steps between two updates (paper: 100, from noise)", ge=1)
        true_noise_std: float | None = setting(
            None,
            "noise added to true images; none: the lowest level of the energy, 2ε without one (paper: 2ε²)",
            ge=0,
            unit="std per real component, image scale 1",
        )
        langevin: dict[str, Any] = setting({}, "settings of the `langevin` solver that advances the chains")
        chain_precision: Literal["float32", "bfloat16"] = setting("bfloat16", "arithmetic of the network in the chains")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._chains: dict[int, Chain] = {}
        sampler = make_solver("langevin", **self.settings.langevin)
        assert isinstance(sampler, Sampler)
        self._sampler: Sampler = sampler
        self._prepared: Sampler | None = None
        if self.settings.warm_start or self.settings.dsm_weight:
            self.requires = (frozenset({"energy", "gradient", "denoiser"}),)

    @property
    def steps(self) -> int:
        return self.settings.steps

    def parameter_groups(self, prior: Prior) -> list[dict[str, Any]]:
        scale = [p for name, p in prior.named_parameters() if name.endswith("log_scale")]
        rest = [p for name, p in prior.named_parameters() if not name.endswith("log_scale")]
        rate = self.settings.learning_rate
        groups: list[dict[str, Any]] = [{"params": rest, "lr": rate}]
        if scale:
            groups.append({"params": scale, "lr": rate * self.settings.scale_learning_rate_factor})
        return groups

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then one cosine per stage."""
        s = self.settings
        if step < s.warm_start:
            return min(1.0, (step + 1) / 100) * _cosine(step / s.warm_start, floor=0.05)
        ratio = s.likelihood_learning_rate / s.learning_rate
        return ratio * _cosine((step - s.warm_start) / max(s.steps - s.warm_start, 1), floor=0.05)

    def loss(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        if step < self.settings.warm_start:
            return self._score_matching(prior, source, generator)
        likelihood = self.likelihood(prior, source, step, generator)
        if not self.settings.dsm_weight:
            return likelihood
        matching = self._score_matching(prior, source, generator)
        return Loss(likelihood.value + self.settings.dsm_weight * matching.value, {**likelihood.log, **matching.log})

    def _score_matching(self, prior: Prior, source: ProblemSource, generator: torch.Generator) -> Loss:
        images = source.images(self.settings.batch, generator)
        levels = log_uniform(len(images), *(prior.noise_range or SINGLE_ENERGY_LEVELS), generator)
        value = denoising_score_matching(prior, images, levels, generator)
        return Loss(value, {"dsm": float(value.detach())})

    def likelihood(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        """Return eq. 10 per pixel and divided by T: one visit to a group of chains."""
        s = self.settings
        chain = self._visit(prior, source, step, generator)
        device = chain.true.device.type
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=s.chain_precision == "bfloat16"):
            if step % PREPARE_EVERY == 0 or self._prepared is None:
                self._prepared = self._sampler.prepared(chain.problem, prior, chain.fake, generator)
            chain.fake = self._prepared.advance(chain.problem, prior, chain.fake, s.chain_steps, generator)
        unit = self._sampler.temperature(chain.problem) * chain.true[0].numel()
        energy_true, energy_fake = prior.energy(chain.true) / unit, prior.energy(chain.fake) / unit
        gap = (energy_true - energy_fake).mean()
        error = (chain.fake - chain.true).abs().square().mean().sqrt()
        log = {"gap": gap.item(), "energy": energy_true.mean().item(), "fake_error": error.item()}
        return Loss(gap, log)

    def _true_noise_std(self, prior: Prior) -> float:
        if self.settings.true_noise_std is not None:
            return float(self.settings.true_noise_std)
        return prior.noise_range[0] if prior.noise_range else 2 * (self._sampler.settings.epsilon or 0.01)

    def _visit(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Chain:
        index = step % self.settings.pool
        fresh = float(torch.rand((), generator=generator, device=generator.device)) < self.settings.refresh
        if index in self._chains and not fresh:
            return self._chains[index]
        images = source.images(self.settings.batch, generator)
        true = images + complex_noise(images.shape, self._true_noise_std(prior), generator, images.dtype)
        problem = source.problem(true, generator)
        self._chains[index] = Chain(true, problem, self._sampler.first_state(problem, generator))
        return self._chains[index]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Chains are not stored: after an interruption every group starts anew from SENSE."""
        super().load_state_dict(state)
        self._chains.clear()


def _cosine(fraction: float, *, floor: float) -> float:
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
