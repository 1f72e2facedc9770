"""Maximum-likelihood training of a posterior energy (paper, section II-B and II-C)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from mriinv import (
    ComponentSettings,
    Image,
    InverseProblem,
    Loss,
    Prior,
    ProblemSource,
    Sampler,
    SettingsError,
    Target,
    Trainer,
    complex_noise,
    denoising_score_matching,
    inner_product,
    largest_curvature,
    log_uniform,
    make_solver,
    setting,
    warm_cosine,
)
from mriinv_deepen.chains import ChainGroup, groups_state, restored_groups

logger = logging.getLogger("mriinv")

SINGLE_ENERGY_LEVELS = (0.002, 0.06)  # denoised by an energy that does not know the level
PREPARE_EVERY = 8  # visits to a noise level between two measurements of its curvature
UNKNOWN_EPSILON = 0.01
SCALE = "log_scale"  # name of the parameter s of an energy


class MaximumLikelihood(Trainer):
    r"""Minimise the negative log-posterior of true images (eq. 8) by contrasting them with fake ones (eq. 10, 13):

    .. math:: L'(θ) = \tfrac1T\big(E_θ(x^+) − E_θ(x^-)\big), \qquad x^- \sim \exp(−C_θ(x; A, b)/T)

    The data term carries no θ and no graph runs through the chain, so memory does not depend on its length. Fake
    images come from a registered `sampler`; T is its temperature. The default, ``preconditioned-langevin``, has the
    exact law of a Gaussian posterior; ``langevin`` is that of the paper (eq. 11 or 16), too wide where its step meets a
    high curvature, so that the energy is learned too stiff there. Samplers that adapt their step do so in every visit;
    momentum starts anew in each, so that fewer than some eight `chain_steps` do not follow its law.

    True images are training images with white noise of `true_noise_std`, added before they are measured: the energy is
    then that of images at this noise level, and measurements and true images agree as the likelihood assumes. With
    several `levels` of a noise-conditional energy, each group of chains has one of them: noise of this level is added
    to its true images, and chain and energies are those at this level.

    Chains are persistent: each of `pool` groups keeps its images, measurements and fake images between updates, and
    starts anew with probability `refresh`, each chain from where the sampler starts (SENSE), from Gaussian noise or
    from the truth. Chains that start from noise every time, as published, learn a sampler of that length instead of an
    energy whose minimum is the truth; ``refresh=1`` with ``sampler=langevin`` and ``chain.start=noise`` is that
    variant.

    `curvature_weight` keeps the curvature of the energy, and with it L of `mm-cg` and the step of the chain, below
    `curvature_limit`: the square of what the largest curvature at a fake image exceeds it by is added to the loss, the
    curvature being that of `largest_curvature`, d·(∇E(x + d) − ∇E(x))/‖d‖² along the direction d that it finds. It is
    for ``likelihood_of=network``.

    The log has the energy gap d_t, the energy of true images, the rms of ∇C along the chain (``chain_gradient``), the
    largest ``curvature`` at fake images, and the rms distance of fake images from the truth (``fake_error``).

    The first `warm_start` updates are denoising score matching over the whole noise range. Of an energy that is the
    mean over several views it trains one, since training images come in all of them; with ``one_view=false`` the mean,
    which gains at lines once the network is trained (docs/weights/deepen-heads.md). Denoising leaves open e^s, the
    factor on the energy (a parameter `log_scale`), which is what likelihood is for by default: of whole networks,
    shaped by denoising, it made lines better by up to 0.2 dB and 2D worse by as much, with the chains of `langevin`
    much worse. With ``likelihood_of=network`` the loss of denoising goes on with weight `dsm_weight`, so that higher
    noise levels stay right while the lowest is trained by likelihood.
    """

    name = "maximum-likelihood"
    requires = (frozenset({"energy", "gradient"}),)

    class Settings(ComponentSettings):
        steps: int = setting(6000, "updates in all, warm start included", ge=1)
        warm_start: int | None = setting(
            None, "updates of denoising score matching first; none: all but one in thirty", ge=0
        )
        likelihood_of: Literal["scale", "network"] | None = setting(
            None, "what likelihood trains: e^s alone or all; none: e^s where the energy has one"
        )
        dsm_weight: float = setting(
            1.0, "weight of the denoising loss beside a likelihood that trains the network", ge=0
        )
        one_view: bool = setting(
            True, "whether denoising trains one view of the energy, and not their mean, at as many times the cost"
        )
        batch: int = setting(4, "images per update", ge=1)
        learning_rate: float = setting(2e-3, "Adam's, in the warm start", gt=0)
        likelihood_learning_rate: float = setting(3e-4, "Adam's, in the likelihood stage", gt=0)
        scale_learning_rate_factor: float = setting(100.0, "factor on it for the learned scale e^s", ge=0)
        pool: int = setting(8, "groups of persistent chains, of `batch` images each", ge=1)
        refresh: float = setting(0.04, "probability that a visited group starts anew", ge=0, le=1)
        chain_steps: int = setting(20, "Langevin steps between two updates (paper: 100, from noise)", ge=1)
        noise_starts: float = setting(0.0, "share of the new chains that start from Gaussian noise", ge=0, le=1)
        truth_starts: float = setting(0.0, "share of the new chains that start from the truth", ge=0, le=1)
        levels: tuple[PositiveFloat, ...] | None = setting(
            None,
            "noise levels of the likelihood, shared out among the groups; none: only that of the posterior",
            unit="std per real component, image scale 1",
            min_length=1,
        )
        true_noise_std: NonNegativeFloat | Literal["2eps", "2eps^2"] | None = setting(
            None,
            "noise added to true images; 2eps and 2eps^2 (as printed in the paper): of chain.epsilon; none: the "
            "noise level of the energy, 2ε without one",
            unit="std per real component, image scale 1",
        )
        curvature_weight: float = setting(0.0, "weight of the penalty on the curvature of the energy", ge=0)
        curvature_limit: float = setting(1.0, "curvature from which on it is penalised", gt=0)
        sampler: str = setting("preconditioned-langevin", "solver that advances the chains; langevin: as published")
        chain: dict[str, Any] = setting({}, "settings of this solver")
        chain_precision: Literal["float32", "bfloat16"] | None = setting(
            None,
            "arithmetic of the network in the chains; none: bfloat16 where the device has it, as emulation is slow",
        )

        @model_validator(mode="after")
        def _settings_agree(self) -> MaximumLikelihood.Settings:
            if self.noise_starts + self.truth_starts > 1:
                raise ValueError("noise_starts and truth_starts: expected shares, together at most 1")
            if isinstance(self.true_noise_std, str) and self.chain.get("epsilon") is None:
                raise ValueError(f"true_noise_std: {self.true_noise_std} needs chain.epsilon, with sampler langevin")
            if "noise_level" in self.chain:
                raise ValueError("chain.noise_level: set the levels of the trainer instead")
            if "robust" in self.chain:
                raise ValueError("chain.robust: training data have noise alone, and squares")
            if self.likelihood_of == "scale" and "dsm_weight" in self.model_fields_set and self.dsm_weight:
                raise ValueError("dsm_weight: with likelihood_of=scale nothing is left for denoising to train")
            if self.levels is not None and self.true_noise_std is not None:
                raise ValueError("true_noise_std: with levels, true images have the noise of their level")
            if self.pool % len(self.levels or (None,)):
                raise ValueError("pool: expected a multiple of the number of levels")
            return self

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        s = self.settings
        self._warm_start = s.steps - s.steps // 30 if s.warm_start is None else s.warm_start
        self._chains: dict[int, ChainGroup] = {}
        self._levels: tuple[float | None, ...] = s.levels or (None,)
        self._samplers = [self._sampler(noise_level=level) for level in self._levels]
        self._prepared: dict[int, Sampler] = {}  # the same with what they measure, by the position of the level
        if s.steps <= self._warm_start:
            warm_start = self._warm_start
            logger.warning("trainer: all %d steps are warm start (%d): none is of likelihood", s.steps, warm_start)
        if s.chain.get("epsilon") is not None or s.chain.get("temperature", 1.0) != 1.0:
            logger.warning(
                "trainer: chain.epsilon and chain.temperature are those of the training alone; samplers draw from the "
                "energy as it was learned where they are given the same"
            )
        if self._warm_start or (s.dsm_weight and s.likelihood_of != "scale"):
            self.requires = (frozenset({"energy", "gradient", "denoiser"}),)

    def parameter_groups(self, prior: Prior) -> list[dict[str, Any]]:
        scale, rest = _scale_and_rest(prior)
        if self.settings.likelihood_of == "scale" and not scale:
            raise SettingsError(
                f"trainer.likelihood_of: found scale; prior '{prior.name}' has no learned scale: expected network"
            )
        if self.settings.curvature_weight and scale and self.settings.likelihood_of != "network":
            raise SettingsError(
                "trainer.curvature_weight: needs likelihood_of=network, since e^s follows from the data"
            )
        low, high = prior.noise_range or (math.inf, math.inf)
        for level in self.settings.levels or ():
            if not low <= level <= high:
                levels = f"from {low:g} to {high:g}" if prior.noise_range else "none, since it has no noise level"
                raise SettingsError(f"trainer.levels: found {level:g}; the levels of prior '{prior.name}' are {levels}")
        rate = self.settings.learning_rate
        groups: list[dict[str, Any]] = [{"params": rest, "lr": rate}]
        if scale:
            groups.append({"params": scale, "lr": rate * self.settings.scale_learning_rate_factor})
        return groups

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then one cosine per stage."""
        s, warm_start = self.settings, self._warm_start
        if step < warm_start:
            return warm_cosine(step, warm_start, warm_up=100, floor=0.05)
        ratio = s.likelihood_learning_rate / s.learning_rate
        return ratio * warm_cosine(step - warm_start, s.steps - warm_start, warm_up=0, floor=0.05)

    def loss(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        if step < self._warm_start:
            return self._score_matching(prior, source, generator)
        scale, rest = _scale_and_rest(prior)
        if scale and self.settings.likelihood_of != "network":
            with _constant(rest):
                return self.likelihood(prior, source, step, generator)
        likelihood = self.likelihood(prior, source, step, generator)
        if not self.settings.dsm_weight:
            return likelihood
        matching = self._score_matching(prior, source, generator)
        return Loss(likelihood.value + self.settings.dsm_weight * matching.value, {**likelihood.log, **matching.log})

    def _score_matching(self, prior: Prior, source: ProblemSource, generator: torch.Generator) -> Loss:
        images = source.images(self.settings.batch, generator)
        levels = log_uniform(len(images), *(prior.noise_range or SINGLE_ENERGY_LEVELS), generator)
        trained = prior.one_view() if self.settings.one_view else prior
        value = denoising_score_matching(trained, images, levels, generator)
        return Loss(value, {"dsm": float(value.detach())})

    def likelihood(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> Loss:
        """Return eq. 10 per pixel and divided by T, and the penalty: one visit to a group of chains."""
        s = self.settings
        chain = self._visit(prior, source, step, generator)
        problem = chain.measured(source, generator.device)
        position = self._position(step)
        level, sampler = self._levels[position], self._samplers[position]
        target = Target(problem, prior, level)
        prepare = (step // len(self._levels)) % PREPARE_EVERY == 0 or position not in self._prepared
        device, norms = chain.true.device, list[float]()
        lower = has_bfloat16(device) if s.chain_precision is None else s.chain_precision == "bfloat16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=lower):
            if prepare:
                self._prepared[position] = sampler.prepared(target, chain.fake, generator)
            chain.fake = self._prepared[position].advance(
                target, chain.fake, s.chain_steps, generator, lambda _, now: norms.append(now["gradient_rms"])
            )
        unit = sampler.temperature(target) * chain.true[0].numel()
        energy_true, energy_fake = prior.energy(chain.true, level) / unit, prior.energy(chain.fake, level) / unit
        gap = (energy_true - energy_fake).mean()
        error = (chain.fake - chain.true).abs().square().mean().sqrt()
        log = {"gap": gap.item(), "energy": energy_true.mean().item(), "fake_error": error.item()}
        if norms:  # a sampler may have no gradient to tell
            log["chain_gradient"] = sum(norms) / len(norms)
        value = gap
        if prepare or s.curvature_weight:
            log["curvature"], excess = self._curvature(prior, chain.fake, level, step)
            if excess is not None:
                penalty = s.curvature_weight * excess
                value, log["curvature_penalty"] = gap + penalty, penalty.item()
        return Loss(value, log)

    def _curvature(self, prior: Prior, image: Image, level: float | None, step: int) -> tuple[float, Tensor | None]:
        """Return the largest curvature of the energy, and with a weight the mean square excess over the limit."""
        generator = torch.Generator(image.device).manual_seed(step)  # measuring changes no other random number
        with torch.autocast(image.device.type, enabled=False):  # differences of gradients
            curvature, direction = largest_curvature(lambda x: prior.gradient(x, level), image, generator)
            if not self.settings.curvature_weight:
                return curvature.max().item(), None
            base, beyond = (
                prior.energy_and_gradient(x, level, create_graph=True)[1] for x in (image, image + direction)
            )
        along = inner_product(direction, beyond - base) / inner_product(direction, direction)
        excess = along - self.settings.curvature_limit
        return curvature.max().item(), excess.clamp_min(0).square().mean()

    def _true_noise_std(self, prior: Prior, step: int) -> float:
        level, asked = self._levels[self._position(step)], self.settings.true_noise_std
        epsilon = self.settings.chain.get("epsilon") or UNKNOWN_EPSILON
        if level is not None:
            return level
        if isinstance(asked, str):
            return 2 * epsilon if asked == "2eps" else 2 * epsilon**2
        if asked is not None:
            return float(asked)
        return prior.noise_range[0] if prior.noise_range else 2 * epsilon

    def _position(self, step: int) -> int:
        """Return which noise level the group of chains has that update `step` visits."""
        return step % len(self._levels)

    def _visit(self, prior: Prior, source: ProblemSource, step: int, generator: torch.Generator) -> ChainGroup:
        index = step % self.settings.pool
        fresh = float(torch.rand((), generator=generator, device=generator.device)) < self.settings.refresh
        if index in self._chains and not fresh:
            return self._chains[index]
        images = source.images(self.settings.batch, generator)
        true = images + complex_noise(images.shape, self._true_noise_std(prior, step), generator, images.dtype)
        drawn = generator.get_state()
        problem = source.problem(true, generator)
        self._chains[index] = ChainGroup(true, self._start(problem, true, generator), drawn, problem)
        return self._chains[index]

    def _start(self, problem: InverseProblem, true: Image, generator: torch.Generator) -> Image:
        """Return where new chains start."""
        noise, truth = self.settings.noise_starts, self.settings.truth_starts
        start = self._samplers[0].first_state(problem, generator)
        if noise or truth:
            draw = torch.rand(len(true), 1, 1, generator=generator, device=generator.device)
            gaussian = complex_noise(true.shape, 1.0, generator, true.dtype)
            start = torch.where(draw < noise, gaussian, torch.where(draw < noise + truth, true, start))
        return start

    def state_dict(self) -> dict[str, Tensor]:
        measured = {
            f"measured.{position}.{name}": torch.tensor(value, dtype=torch.float64)
            for position, sampler in self._prepared.items()
            for name, value in sampler.settings
            if value != getattr(self._samplers[position].settings, name)
        }
        return groups_state(self._chains) | measured

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._chains = restored_groups(state)
        self._prepared = {}
        for position, level in enumerate(self._levels):
            prefix = f"measured.{position}."
            measured = {name.removeprefix(prefix): float(state[name]) for name in state if name.startswith(prefix)}
            if measured:
                self._prepared[position] = self._sampler(noise_level=level, **measured)

    def _sampler(self, **more: Any) -> Sampler:
        name, chain = self.settings.sampler, self.settings.chain
        sampler = make_solver(name, **chain)
        if not isinstance(sampler, Sampler):
            raise SettingsError(f"trainer.sampler: found '{name}'; expected a sampler with Markov chains")
        return sampler.changed(**more)


def _scale_and_rest(prior: Prior) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the factor e^s on the energy, where there is one, and the parameters of the network."""
    scale, rest = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in prior.named_parameters():
        alone = name.rpartition(".")[2] == SCALE and parameter.ndim == 0
        (scale if alone else rest).append(parameter)
    return scale, rest


@contextmanager
def _constant(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep parameters out of the graphs that are built meanwhile."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 itself; emulation is two to three times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one: Arm
