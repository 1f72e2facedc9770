"""From a problem and a prior to an image, or to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from mriinv.core.capabilities import match
from mriinv.core.component import Component
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem, Samples, Solution, described
from mriinv.core.types import Image, PerImage
from mriinv.errors import CompatibilityError, InputError, require, require_kind

Monitor = Callable[[int, Mapping[str, float]], None]
Observer = Callable[[str, int, int], Monitor]  # what is worked on, number, count -> monitor of that one
S = TypeVar("S", bound="Solver")


class Solver(Component, ABC):
    """An algorithm that is called with a problem and a prior.

    `requires` lists alternatives; each is a set of capabilities of the prior. An empty alternative needs no prior.
    Calling checks them, brings the problem to its reference scale and the prior to its noise, solves, and scales the
    result back; pixels outside the support of the operator, which no data can reach, become zero, where they were not
    in the costs of the history.
    """

    kind = "solver"
    requires: ClassVar[tuple[frozenset[str], ...]] = ()

    def __init__(self, **settings: Any) -> None:
        self.settings = self.parse_settings(settings)

    def __call__(
        self,
        problem: InverseProblem,
        prior: Prior | None = None,
        *,
        initial: Tensor | None = None,
        generator: torch.Generator | None = None,
        monitor: Monitor | None = None,
    ) -> Solution:
        """Reconstruct.

        Parameters
        ----------
        initial : starting image ``(batch, y, x)`` in the units of the problem; the solver's own choice when None
        generator : source of randomness, on the device of the data; a fresh one with seed 0 when None
        monitor : called as ``monitor(iteration, {"cost": …})`` while the solver works

        Raises
        ------
        CompatibilityError : the prior does not provide what this solver requires
        InputError : data that the operator refuses; a starting image of another shape; what is no problem, prior or
            generator
        """
        expected = "an InverseProblem, as make_problem builds it; Reconstruction takes acquisitions"
        require_kind(self.name, "problem", problem, InverseProblem, expected)
        require_kind(self.name, "prior", prior, Prior | None, "an instance of Prior, as make_prior builds it, or None")
        require_kind(self.name, "generator", generator, torch.Generator | None, "a torch.Generator, or None")
        problem.operator.check_data(problem.data)
        provided = prior.provides if prior is not None else frozenset[str]()
        if match(provided, self.requires) is None:
            name = prior.name if prior is not None else "none"
            raise mismatch(f"combine prior '{name}' with solver '{self.name}'", self.requires, provided)
        scale = problem.scale.detach()
        if generator is None:
            generator = torch.Generator(problem.data.device).manual_seed(0)
        with torch.inference_mode(False), torch.no_grad():  # in inference mode no energy could be differentiated
            start = None if initial is None else self._start(problem, initial) / scale.reshape(-1, 1, 1)
            normalised = problem.normalised()
            if prior is not None and normalised.noise_std is not None:
                prior = self.prior_at(prior, normalised.noise_std)
            solution = self.solve(normalised, prior, initial=start, generator=generator, monitor=monitor)
            self._check_solution(solution, normalised)
        solution = _noted(solution, prior, normalised)
        if prior is not None and not any(self.requires):
            solution = replace(solution, notes=(unused_prior(self.name, prior.name), *solution.notes))
        finite = solution.image.isfinite().flatten(1).all(1)
        if not finite.all():
            notes = (*solution.notes, f"{self.name}: the image holds NaN or infinity")
            solution = replace(solution, converged=solution.converged & finite, notes=notes)
        factor = scale.reshape(-1, 1, 1)
        support = problem.operator.support
        return solution.scaled(factor if support is None else factor * support)

    def changed(self: S, **settings: Any) -> S:
        """Return this solver with some settings changed (`SettingsError` for those that it does not take)."""
        return type(self)(**{**self.settings.model_dump(), **settings})

    def _start(self, problem: InverseProblem, initial: Tensor) -> Image:
        """Return a starting image as a complex image on the device of the data, or say why it is none."""
        like = problem.back_projection()
        shape = tuple(like.shape)
        if not isinstance(initial, Tensor) or tuple(initial.shape) != shape:
            found = f"shape {tuple(initial.shape)}" if isinstance(initial, Tensor) else type(initial).__name__
            raise InputError(self.name, "initial", found, f"a tensor {shape} (batch, y, x)")
        return initial.to(like)

    def _check_solution(self, solution: Solution, problem: InverseProblem) -> None:
        """Require of what `solve` returns an image and a state for each image of the problem."""
        require_kind(self.name, "solve", solution, Solution, "a Solution")
        image, like = solution.image, problem.back_projection()
        wanted = f"complex {tuple(like.shape)}, one image for each of the data"
        require(
            f"{self.name}: solve",
            ("image", described(image), image.is_complex() and image.shape == like.shape, wanted),
            *(
                (name, f"shape {tuple(value.shape)}", value.shape == (problem.batch,), f"{(problem.batch,)}")
                for name, value in (("converged", solution.converged), ("iterations", solution.iterations))
            ),
        )

    def prior_at(self, prior: Prior, noise_std: PerImage) -> Prior:
        """Return the prior for data with noise of `noise_std` per real component, at reference scale 1."""
        return prior.at_noise(noise_std)

    def posed(self, problem: InverseProblem) -> InverseProblem:
        """Return the problem whose data term counts: with a setting `robust` that is true, `InverseProblem.robust`."""
        return problem.robust() if getattr(self.settings, "robust", False) else problem

    @abstractmethod
    def solve(
        self,
        problem: InverseProblem,
        prior: Prior | None,
        *,
        initial: Image | None,
        generator: torch.Generator,
        monitor: Monitor | None,
    ) -> Solution:
        """Solve a problem whose reference scale is 1. Gradients are off; a solver builds no graph."""


def _noted(solution: Solution, prior: Prior | None, problem: InverseProblem) -> Solution:
    """Return a solution whose notes say that it stopped early, unless they say more, and whether the noise is usual."""
    notes = list(solution.notes)
    if not (notes or isinstance(solution, Samples) or solution.converged.all()):
        count = int(solution.iterations[~solution.converged].max())
        notes.append(f"stopped after {count} iterations without meeting the stopping rule")
    remark = None if prior is None or problem.noise_std is None else prior.noise_remark(problem.noise_std)
    return replace(solution, notes=tuple(filter(None, (remark, *notes))))


def unused_prior(solver: str, prior: str) -> str:
    """Return the remark on a prior that is named beside a solver that takes none."""
    return f"solver '{solver}' takes no prior: '{prior}' is not used"


def mismatch(attempt: str, requires: tuple[frozenset[str], ...], provided: frozenset[str]) -> CompatibilityError:
    """Return the error of a prior that does not provide what is required of it."""
    has = ", ".join(sorted(provided)) or "nothing"
    return CompatibilityError(f"cannot {attempt}: it requires {describe(requires)}, the prior provides {has}")


def describe(alternatives: tuple[frozenset[str], ...]) -> str:
    """Return the requirement in words: ``energy, gradient or denoiser``."""
    return " or ".join(", ".join(sorted(one)) or "no prior" for one in alternatives) or "no prior"
