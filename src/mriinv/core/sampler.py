"""Samples of the posterior from Markov chains: what every sampler shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
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


@dataclass(frozen=True)
class Target:
    """What chains draw from: exp(−C/T) at one noise level, with C(x) = ½‖Ax − b‖² + E(x).

    Attributes
    ----------
    problem : of reference scale 1
    level : of a noise-conditional prior, one number, or one per image or chain; None for a prior without levels
    """

    problem: InverseProblem
    prior: Prior
    level: Level = None

    @cached_property
    def back_projection(self) -> Image:
        """Aᴴb, which every gradient needs."""
        return self.problem.back_projection()

    def evaluate(self, image: Image) -> tuple[PerImage | None, Image]:
        """Return E per image, None where the prior has a gradient alone, and ∇C."""
        data = self.problem.data_gradient(image, self.back_projection)
        if "energy" not in self.prior.provides:
            return None, data + self.prior.gradient(image, self.level)
        energy, gradient = self.prior.energy_and_gradient(image, self.level)
        return energy, data + gradient


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
        target: Target,
        image: Image,
        generator: torch.Generator,
        *,
        previous: Chain | None = None,
        passing: bool = False,
    ) -> Chain:
        """Return chains of `target` at the T of `temperature`.

        Parameters
        ----------
        image : where they start, ``(chains·batch, y, x)`` for one image of the problem, or as many as the problem has
        previous : the chains at the level before, from which measured quantities may be taken over
        passing : whether this is a level of the annealing, which need not be sampled exactly
        """

    def check(self, target: Target, image: Image, generator: torch.Generator) -> None:
        """Refuse a step that cannot be stable at the last level, before anything runs; by default none is refused."""

    def temperature(self, target: Target) -> PerImage:
        """Return T per image, in the scale of the problem: the setting times `learned_temperature`."""
        return self.settings.temperature * self.learned_temperature(target)

    def learned_temperature(self, target: Target) -> PerImage:
        """Return T₀ per image, at which exp(−C/T₀) is the posterior; with a score, ∇E is −T₀ times it, at every T."""
        noise = target.problem.noise_std
        if noise is None:
            noise = torch.full((target.problem.batch,), UNKNOWN_NOISE, device=target.problem.data.device)
        return target.prior.temperature(noise.double())

    def prior_at(self, prior: Prior, noise_std: PerImage) -> Prior:
        """Return the prior as the posterior has it (`Prior.in_posterior`)."""
        return prior.in_posterior(noise_std)

    def first_state(self, problem: InverseProblem, generator: torch.Generator, chains: int = 1) -> Image:
        """Return where `chains` chains of each image start, ``(chains·batch, y, x)``."""
        if self.settings.start == "sense":
            return problem.sense().repeat(chains, 1, 1)
        one = problem.back_projection()
        return complex_noise((chains * len(one), *one.shape[1:]), 1.0, generator, one.dtype)

    def prepared(self, target: Target, image: Image, generator: torch.Generator) -> Sampler:
        """Return this sampler with what it measures before it starts (a stable step) fixed; itself by default."""
        return self

    def advance(
        self, target: Target, image: Image, steps: int, generator: torch.Generator, monitor: Monitor | None = None
    ) -> Image:
        """Return the state `steps` steps after `image`, as trainers need it; no graph is built."""
        chain = self.chain(target, image, generator)
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
        given, problem = problem, self.posed(problem)
        targets = [Target(problem, prior, level) for level in self._levels(problem, prior)]
        report, runs, chain = _Report(self.name, monitor), list[_Run](), None
        for first in range(0, chains, together):
            count = min(together, chains - first)
            start = self.first_state(given, generator, count) if initial is None else initial.repeat(count, 1, 1)
            if not runs:
                self.check(targets[-1], start[:batch], generator)
            chain, run = self._run(targets, start, draws_each, generator, report)
            runs.append(run)
        assert chain is not None
        longer = self._longer(targets, chain, runs[-1].trace, generator, report)
        return self._samples(runs, longer, self._first(targets))

    def _run(
        self, targets: list[Target], start: Image, draws: int, generator: torch.Generator, report: _Report
    ) -> tuple[Chain, _Run]:
        """Take chains from `start` down the levels, through the burn-in, and on to `draws` of each."""
        chain = self._annealed(targets, start, generator, report)
        batch = targets[-1].problem.batch
        count = len(start) // batch
        trace, kept = Trace(targets[-1].problem.operator.support), list[Tensor]()
        for number in range(1 + (draws - 1) * self.settings.thinning):
            if number:
                report.step(chain)
            trace.add(chain.image, count, energy=chain.energy)
            if number % self.settings.thinning == 0:
                kept.append(chain.image.view(count, batch, *chain.image.shape[1:]))
        report.check(chain)
        acceptance = None if chain.acceptance is None else chain.acceptance.view(count, batch)
        return chain, _Run(torch.stack(kept, dim=1), trace.stacked(), acceptance, chain.notes)

    def _samples(self, runs: list[_Run], longer: _LongRun, burn_in: int) -> Samples:
        """Put the chains of all runs together."""
        draws, traces = torch.cat([run.draws for run in runs]), [run.trace for run in runs]
        merged = {name: torch.cat([one[name] for one in traces]) for name in traces[0]}
        diagnosis = diagnose(merged, longer.trace, burn_in)
        batch, device = draws.shape[2], draws.device
        mixed = diagnosis.numbers().get("split_rhat", torch.full((batch,), torch.inf)) <= UNMIXED
        acceptance = [run.acceptance for run in runs if run.acceptance is not None]
        stuck = torch.cat(acceptance).amin(0) if acceptance else longer.acceptance
        notes = [*(note for run in runs for note in run.notes), *longer.notes, *diagnosis.remarks()]
        if stuck is not None and not (free := stuck.cpu() > 0).all():
            mixed, notes = mixed & free, [STUCK, *notes]
        return Samples(
            draws.mean((0, 1)),
            mixed.to(device),
            torch.full((batch,), burn_in + (draws.shape[1] - 1) * self.settings.thinning, device=device),
            notes=tuple(dict.fromkeys(notes)),
            draws=draws,
            traces=merged,
            diagnosis=diagnosis,
            acceptance=torch.cat(acceptance) if acceptance else None,
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

    def _first(self, targets: list[Target]) -> int:
        """Return the number of steps before the first sample."""
        return len(targets) - 1 + int(self.settings.burn_in)

    def _annealed(self, targets: list[Target], image: Image, generator: torch.Generator, report: _Report) -> Chain:
        """Return chains at the last level, burned in: one step at each level before it, from the image plus noise."""
        chains = len(image) // targets[0].problem.batch
        highest = targets[0].level
        if len(targets) > 1 and isinstance(highest, Tensor):
            spread = highest.repeat(chains).view(-1, 1, 1)
            image = image + spread * complex_noise(image.shape, 1.0, generator, image.dtype)
        chain: Chain | None = None
        for number, target in enumerate(targets, start=1):
            passing = number < len(targets)
            if isinstance(target.level, Tensor):
                target = replace(target, level=target.level.repeat(chains))
            chain = self.chain(target, image, generator, previous=chain, passing=passing)
            for _ in range(1 if passing else self.settings.burn_in):
                report.step(chain)
            image = chain.image
        assert chain is not None
        chain.begin()
        return chain

    def _longer(
        self,
        targets: list[Target],
        chain: Chain,
        trace: dict[str, Tensor],
        generator: torch.Generator,
        report: _Report,
    ) -> _LongRun:
        """Let one chain go on to `long_run` times the length of annealing and burn-in."""
        own = {name: values[-1:] for name, values in trace.items()}
        gone = next(iter(own.values())).shape[1] - 1  # the first state is that at the end of the burn-in
        more = int(self.settings.long_run * self._first(targets)) - self._first(targets) - gone
        if more <= 0:
            return _LongRun({}, None, ())
        target = targets[-1]
        one = self.chain(target, chain.image[-target.problem.batch :], generator, previous=chain)
        one.begin()
        going = Trace(target.problem.operator.support)
        for _ in range(more):
            report.step(one)
            going.add(one.image, 1, energy=one.energy)
        gone_on = {name: values for name, values in going.stacked().items() if name in own}
        together = {name: torch.cat([own[name], values], dim=1) for name, values in gone_on.items()}
        return _LongRun(together, one.acceptance, one.notes)


@dataclass(frozen=True)
class _LongRun:
    """What one chain that went on left: its trace from the first draw on, empty where it did not, and acceptance."""

    trace: dict[str, Tensor]
    acceptance: PerImage | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """What chains that advanced together left: draws ``(chain, draw, batch, y, x)``, acceptance ``(chain, batch)``."""

    draws: Tensor
    trace: dict[str, Tensor]
    acceptance: Tensor | None
    notes: tuple[str, ...]


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
