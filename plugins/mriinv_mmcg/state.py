"""What a solve of MM-CG carries from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mriinv import InverseProblem, Iterations, Prior

TINY = 1e-300


def relative(decrease: Tensor, cost: Tensor) -> Tensor:
    """Return a decrease over the size of the cost, which may be negative."""
    return decrease / cost.abs().clamp_min(TINY)


@dataclass
class State:
    """Iterates, their cost and gradients; all quantities are per image.

    Attributes
    ----------
    descent : −∇C at `image`
    curvature : L of the majoriser
    start_noise : rms of the noise in the first image, per real component
    direction : that of the largest curvature of E, once measured
    gradients : evaluations of ∇E so far
    """

    problem: InverseProblem
    prior: Prior
    image: Tensor
    iterations: Iterations
    start_noise: Tensor
    level: Tensor | None = None
    direction: Tensor | None = None
    gradients: int = 0
    cost: Tensor = field(init=False)
    energy: Tensor = field(init=False)
    gradient: Tensor = field(init=False)
    descent: Tensor = field(init=False)
    curvature: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._back_projection, self._start = self.problem.back_projection(), self.image

    @property
    def noise_std(self) -> Tensor:
        """Noise of the data, 0 where it is unknown."""
        unknown = torch.zeros(len(self.image), device=self.image.device)
        return (unknown if self.problem.noise_std is None else self.problem.noise_std).double()

    def open_std(self) -> Tensor:
        """Return the rms of what the data leave open per real component.

        That is the larger of the noise of the data and the distance from the start, but for the noise in that.
        """
        distance = torch.view_as_real(self.image - self._start).double().square().flatten(1).mean(1)
        return (distance - self.start_noise.square()).clamp_min(0).sqrt().maximum(self.noise_std)

    def enter(self, level: Tensor | None) -> None:
        """Go on with the energy of another noise level."""
        self.level = level
        self.cost, self.energy, self.gradient = self.evaluate(self.image)
        self.refresh_descent()

    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cost, energy and the gradient of the energy: one evaluation of the network."""
        energy, gradient = self.prior.energy_and_gradient(image, self.level)
        self.gradients += 1
        return self.problem.data_term(image) + energy, energy, gradient

    def accept(self, which: Tensor, image: Tensor, cost: Tensor, energy: Tensor, gradient: Tensor) -> None:
        """Move the images selected by `which`."""
        pixels = which.view(-1, 1, 1)
        self.image = torch.where(pixels, image, self.image)
        self.gradient = torch.where(pixels, gradient, self.gradient)
        self.cost, self.energy = torch.where(which, cost, self.cost), torch.where(which, energy, self.energy)

    def refresh_descent(self) -> None:
        self.descent = self._back_projection - self.problem.operator.gram(self.image) - self.gradient

    def record(self, step: StepTaken) -> None:
        """Count the step, and keep its row of the history."""
        self.iterations.record(
            "cost",
            cost=self.cost,
            data=self.cost - self.energy,
            energy=self.energy,
            step=step.length,
            curvature=step.curvature,
            noise_level=torch.full_like(self.cost, float("nan")) if self.level is None else self.level.to(self.cost),
            cg_iterations=step.cg_iterations.to(self.cost),
            gradients=torch.full_like(self.cost, self.gradients),
        )


@dataclass(frozen=True)
class StepTaken:
    """What one step did, per image.

    Attributes
    ----------
    promise : decrease of the cost that the first trial promised, relative to the cost
    change : decrease there was; 0 where the step was refused
    refused : images that wanted to move and found no lower cost
    length : of the step, relative to the image
    curvature : L it was taken with
    cg_iterations : of the last solve
    """

    promise: Tensor
    change: Tensor
    refused: Tensor
    length: Tensor
    curvature: Tensor
    cg_iterations: Tensor
