"""Samples of the posterior from Markov chains: what every sampler shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mriinv.core.component import ComponentSettings, setting
from mriinv.core.prior import LEVEL_FLOOR, Prior
from mriinv.core.problem import InverseProblem, Samples
from mriinv.core.solver import Monitor, Solver
from mriinv.core.types import Image, PerImage
from mriinv.errors import MriinvError
from mriinv.numerics.diagnostics import UNMIXED, Trace, diagnose
from mriinv.numerics.noise import complex_noise

Level = Float[Tensor, " #batch"] | float | None
REPORT_EVERY = 10
MOST_CHAINS = 8  # unless more are asked for
UNKNOWN_NOISE = 0.007  # per real component, image scale 1
STUCK = "a chain has not moved: none of its proposals was accepted; set a smaller solver.step_size"


class Chain(ABC):
    """Markov chains at one noise level, one per image of the batch.

    Attributes
    ----------
    image : the state
    energy, gradient : E per image and ∇C where the last step evaluated them, None before or where it did not
    """

    image: Image
    energy: PerImage | None = None
    gradient: Image | None = None

    @abstractmethod
    def step(self) -> None:
        """Move `image` by one step."""

    def begin(self) -> None:
        """End the burn-in: from here on the law of a step may not change, and acceptance counts."""
        return

    @property
    def acceptance(self) -> PerImage | None:
        """Share of accepted proposals per image; None for chains that accept all."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, such as that a step was not computed exactly enough."""
        return ()


class Sampler(Solver):
    r"""A solver that draws from the posterior exp(−C/T) by Markov chains; trainers advance the same chains.

    A subclass gives one `chain` at one noise level. This class runs many of them: as batches, down the noise levels of
    a noise-conditional prior (annealing), through a burn-in, and on to the draws. It keeps what the diagnostics need,
    and lets one chain go on for a check of the long run.

    C is ½‖Ax − b‖² + E(x); with `robust`, `solve` takes the data term of `InverseProblem.robust`, and `advance`, for
    trainers, the problem as it is.
    T is `temperature` times the one at which exp(−C/T) is the posterior of the prior as it was learned
    (`Prior.temperature`). The samples are images at the last noise level: they have noise of this level where the data
    leave it open, which is what fully sampled images of the same noise have as well.
    """

    class Settings(ComponentSettings):
        samples: int = setting(16, "samples in all, at least: as many of each chain", ge=1)
        chains: int | None = setting(None, f"independent chains that draw them; none: at most {MOST_CHAINS}", ge=1)
        batch: int = setting(8, "chains advanced at once (memory)", ge=1)
        temperature: float = setting(
            1.0, "T relative to that of the learned prior; higher: wider posterior", gt=0, unit="factor"
        )
        levels: int = setting(50, "noise levels of the annealing, one step each; 1: none", ge=1)
        highest_level: float | None = setting(
            None, "first of them; none: the highest trained", gt=0, unit="std per real component, image scale 1"
        )
        noise_level: float | None = setting(
            None,
            f"last of them, where samples are drawn; none: that of the data, at least {LEVEL_FLOOR:g}",
            gt=0,
            unit="std per real component, image scale 1",
        )
        burn_in: int = setting(10, "steps at the last level before the first sample", ge=0)
        thinning: int = setting(10, "steps between two samples of a chain", ge=1)
        start: Literal["sense", "noise"] = setting("sense", "first state: the SENSE image, or Gaussian noise")
        long_run: float = setting(
            10.0, "one chain goes on to so many times the length of annealing and burn-in; 0: no such check", ge=0
        )
        robust: bool = setting(True, "count samples that noise does not explain less (Huber); false: squares alone")

    @abstractmethod
    def chain(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Image,
        level: Level,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> Chain:
        """Return chains of exp(−C/T), T that of `temperature`, for a problem whose reference scale is 1.

        Parameters
        ----------
        image : where they start, ``(chains·batch, y, x)`` for one image of the problem, or as many as the problem has
        level : of a noise-conditional prior, one per chain; None for a prior without levels
        previous : the chains at the level before, from which measured quantities may be taken over
        passing : whether this is a level of the annealing, which need not be sampled exactly
        """

    def check(
        self, problem: InverseProblem, prior: Prior, image: Image, level: Level, generator: torch.Generator
    ) -> None:
        """Refuse a step that cannot be stable at the last `level`, before anything runs; by default none is refused."""

    def temperature(self, problem: InverseProblem, prior: Prior) -> PerImage:
        """Return T per image, in the scale of `problem`: the setting times `learned_temperature`."""
        return self.settings.temperature * self.learned_temperature(problem, prior)

    def learned_temperature(self, problem: InverseProblem, prior: Prior) -> PerImage:
        """Return T₀ per image, at which exp(−C/T₀) is the posterior; with a score, ∇E is −T₀ times it, at every T."""
        noise = problem.noise_std
        if noise is None:
            noise = torch.full((problem.batch,), UNKNOWN_NOISE, device=problem.data.device)
        return prior.temperature(noise.double())

    def prior_at(self, prior: Prior, noise_std: PerImage) -> Prior:
        """Return the prior as the posterior has it (`Prior.in_posterior`)."""
        return prior.in_posterior(noise_std)

    def first_state(self, problem: InverseProblem, generator: torch.Generator, chains: int = 1) -> Image:
        """Return where `chains` chains of each image start, ``(chains·batch, y, x)``."""
        if self.settings.start == "sense":
            return problem.sense().repeat(chains, 1, 1)
        one = problem.back_projection()
        return complex_noise((chains * len(one), *one.shape[1:]), 1.0, generator, one.dtype)

    def prepared(self, problem: InverseProblem, prior: Prior, image: Image, generator: torch.Generator) -> Sampler:
        """Return this sampler with what it measures before it starts (a stable step) fixed; itself by default."""
        return self

    def advance(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Image,
        steps: int,
        generator: torch.Generator,
        monitor: Monitor | None = None,
    ) -> Image:
        """Return the state `steps` steps after `image` at `noise_level`, as trainers need it; no graph is built."""
        chain = self.chain(problem, prior, image, self.settings.noise_level, generator)
        report = _Report(self.name, monitor)
        for _ in range(steps):
            report.step(chain)
        if steps % REPORT_EVERY:
            report.now(chain)
        return chain.image

    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Image | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Samples:
        assert prior is not None
        s, batch = self.settings, problem.batch
        chains = s.chains or min(s.samples, MOST_CHAINS)
        draws_each = -(-s.samples // chains)
        # chains of one image share its maps and data, and advance as one batch; several images are a batch already
        together = min(s.batch, chains) if batch == 1 else 1
        levels, report = self._levels(problem, prior), _Report(self.name, monitor)
        chain: Chain | None = None
        draws, traces, acceptance = list[Tensor](), list[dict[str, Tensor]](), list[Tensor]()
        notes = dict[str, None]()  # in order, each once
        given, problem = problem, self.posed(problem)
        while len(draws) < chains:
            count = min(together, chains - len(draws))
            start = self.first_state(given, generator, count) if initial is None else initial.repeat(count, 1, 1)
            if not draws:
                self.check(problem, prior, start[:batch], levels[-1], generator)
            chain = self._annealed(problem, prior, start, levels, generator, report)
            trace, kept = Trace(problem.operator.support), list[Tensor]()
            for number in range(1 + (draws_each - 1) * s.thinning):
                if number:
                    report.step(chain)
                trace.add(chain.image, count, energy=chain.energy)
                if number % s.thinning == 0:
                    kept.append(chain.image.view(count, batch, *chain.image.shape[1:]))
            draws += torch.stack(kept, dim=1)
            traces.append(trace.stacked())
            if chain.acceptance is not None:
                acceptance += chain.acceptance.view(count, batch)
            report.check(chain)
            notes |= dict.fromkeys(chain.notes)
        assert chain is not None
        merged = {name: torch.cat([one[name] for one in traces]) for name in traces[0]}
        longer, accepted = self._longer(problem, prior, chain, traces[-1], levels, generator, report)
        diagnosis = diagnose(merged, longer, self._first(levels))
        stack, device = torch.stack(draws), chain.image.device
        mixed = diagnosis.numbers().get("split_rhat", torch.full((batch,), torch.inf)) <= UNMIXED
        notes |= dict.fromkeys(diagnosis.remarks())
        if acceptance:
            accepted = torch.stack(acceptance).amin(0)
        if accepted is not None and not (moved := accepted.cpu() > 0).all():
            mixed, notes = mixed & moved, {STUCK: None, **notes}
        return Samples(
            stack.mean((0, 1)),
            mixed.to(device),
            torch.full((batch,), self._first(levels) + (draws_each - 1) * s.thinning, device=device),
            notes=tuple(notes),
            draws=stack,
            traces=merged,
            diagnosis=diagnosis,
            acceptance=torch.stack(acceptance) if acceptance else None,
        )

    def _levels(self, problem: InverseProblem, prior: Prior) -> list[Tensor] | list[None]:
        """Return the noise levels of the annealing, per image, the last one included; [None] for a prior without."""
        s = self.settings
        noise = torch.zeros(problem.batch, device=problem.data.device)
        if problem.noise_std is not None:
            noise = problem.noise_std.to(noise)
        found = prior.level_range(s.highest_level, s.noise_level, noise)
        if found is None:
            return [None]
        high, last = found
        steps = max(s.levels - 1, 1)
        return [high * (last / high) ** (number / steps) for number in range(s.levels - 1)] + [last]

    def _first(self, levels: list[Tensor] | list[None]) -> int:
        """Return the number of steps before the first sample."""
        return len(levels) - 1 + int(self.settings.burn_in)

    def _annealed(
        self,
        problem: InverseProblem,
        prior: Prior,
        image: Image,
        levels: list[Tensor] | list[None],
        generator: torch.Generator,
        report: _Report,
    ) -> Chain:
        """Return chains at the last level, burned in: one step at each level before it, from the image plus noise."""
        chains = len(image) // problem.batch
        if len(levels) > 1 and levels[0] is not None:
            spread = levels[0].repeat(chains).view(-1, 1, 1)
            image = image + spread * complex_noise(image.shape, 1.0, generator, image.dtype)
        chain: Chain | None = None
        for number, level in enumerate(levels, start=1):
            passing = number < len(levels)
            repeated = None if level is None else level.repeat(chains)
            chain = self.chain(problem, prior, image, repeated, generator, previous=chain, passing=passing)
            for _ in range(1 if passing else self.settings.burn_in):
                report.step(chain)
            image = chain.image
        assert chain is not None
        chain.begin()
        return chain

    def _longer(
        self,
        problem: InverseProblem,
        prior: Prior,
        chain: Chain,
        trace: dict[str, Tensor],
        levels: list[Tensor] | list[None],
        generator: torch.Generator,
        report: _Report,
    ) -> tuple[dict[str, Tensor], PerImage | None]:
        """Let one chain go on to `long_run` times the length of annealing and burn-in; return trace and acceptance."""
        own = {name: values[-1:] for name, values in trace.items()}
        gone = next(iter(own.values())).shape[1] - 1  # the first state is that at the end of the burn-in
        more = int(self.settings.long_run * self._first(levels)) - self._first(levels) - gone
        if more <= 0:
            return {}, None
        one = self.chain(problem, prior, chain.image[-problem.batch :], levels[-1], generator, previous=chain)
        one.begin()
        going = Trace(problem.operator.support)
        for _ in range(more):
            report.step(one)
            going.add(one.image, 1, energy=one.energy)
        gone_on = {name: values for name, values in going.stacked().items() if name in own}
        return {name: torch.cat([own[name], values], dim=1) for name, values in gone_on.items()}, one.acceptance


class _Report:
    """Counts steps, says now and then how long ∇C is, and stops a chain that diverges."""

    def __init__(self, name: str, monitor: Monitor | None) -> None:
        self._name, self._monitor, self._steps = name, monitor, 0

    def step(self, chain: Chain) -> None:
        chain.step()
        self._steps += 1
        if self._steps % REPORT_EVERY == 0:
            self.now(chain)

    def now(self, chain: Chain) -> None:
        self.check(chain)
        if self._monitor is not None and chain.gradient is not None:
            self._monitor(self._steps, {"gradient_rms": float(chain.gradient.abs().square().mean().sqrt())})

    def check(self, chain: Chain) -> None:
        """Refuse a chain whose image or last gradient is not finite."""
        if not all(values.isfinite().all() for values in (chain.image, chain.gradient) if values is not None):
            raise MriinvError(f"{self._name} diverged after {self._steps} steps; set a smaller solver.step_size")
