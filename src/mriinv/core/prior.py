"""What is believed about images before any data."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mriinv.core.component import Component
from mriinv.core.types import Image, PerImage
from mriinv.errors import CompatibilityError, SettingsError
from mriinv.numerics.images import per_image

if TYPE_CHECKING:
    from mriinv.core.problem import InverseProblem, Solution
    from mriinv.core.solver import Monitor

LEVEL_FLOOR = 0.01  # of the last noise level: finer texture of real tissue is unlike that of any training


@dataclass(frozen=True)
class LoadedWeights:
    """The file that the tensors of a prior come from, and the SHA-256 of what was read."""

    path: Path
    sha256: str


class Prior(Component, nn.Module, ABC):
    """A prior on complex images ``(batch, y, x)`` whose reference scale is 1 (99th percentile of |Aᴴb|, ‖A‖ near 1).

    A plug-in declares in `provides` what it implements and overrides those methods. Two capabilities derive from
    others, here and nowhere else: the gradient of an energy (autograd) and the score of a denoiser (Tweedie).

    `noise_level` is the standard deviation, per real component, of the white noise at which a noise-conditional prior
    is evaluated (one number or one per image); None means the level that the prior is meant to be used at. Priors
    that do not depend on it ignore it.
    """

    kind = "prior"
    provides: frozenset[str] = frozenset()  # of the class; an instance may have less, by its settings
    adjustable: ClassVar[frozenset[str]] = frozenset()  # settings that may differ from those of the training
    noise_range: tuple[float, float] | None = None  # lowest and highest trained level of a noise-conditional prior
    loaded_weights: LoadedWeights | None = None  # None for an untrained prior, and for one without parameters

    def __init__(self, **settings: Any) -> None:
        nn.Module.__init__(self)
        self.settings = self.parse_settings(settings)

    @classmethod
    def settings_for_noise(cls, noise_std: float) -> dict[str, Any]:
        """Return the settings that tell a prior which noise its training measurements have; none by default."""
        return {}

    def at_noise(self, noise_std: PerImage) -> Prior:
        """Return this prior for measurements with noise of `noise_std` per real component, at reference scale 1.

        The energy of eq. 6 has absorbed the variance of the noise; a prior that was learned at one noise follows
        another one here. The default does not depend on it.
        """
        return self

    def noise_remark(self, noise_std: PerImage) -> str | None:
        """Return what a user should know of a solution for measurements with such noise; None for nothing."""
        return None

    def excess_noise(self, noise_std: PerImage) -> PerImage:
        """Return √(η² − η₀²), the noise beyond that of the training, per image; all of it where none is known."""
        return noise_std

    def in_posterior(self, noise_std: PerImage) -> Prior:
        """Return this prior as samplers take it, for the same measurements; as solvers do unless overridden."""
        return self.at_noise(noise_std)

    def temperature(self, noise_std: PerImage) -> PerImage:
        """Return T, per image, at which exp(−C/T) is the posterior of this prior as it was learned.

        The data term of eq. 6 is the negative log-likelihood times the variance of the noise, which is the default.
        """
        return noise_std.square()

    def level_range(
        self, highest: float | None, lowest: float | None, open_std: PerImage
    ) -> tuple[float, PerImage] | None:
        """Return the first and, per image, the last noise level of a solver; None for a prior without levels.

        Below the level that the data leave open the posterior is sharper than anything they support: the last level
        is the larger of `open_std` and `LEVEL_FLOOR`, unless the user sets it. All are held within the trained range.

        Parameters
        ----------
        highest, lowest : what the user sets, None for the highest trained and for what `open_std` asks for
        open_std : rms of what is not known of each image, per real component, at scale 1

        Raises
        ------
        SettingsError : `lowest` is set, and the prior has no levels
        """
        if self.noise_range is None:
            if lowest is not None:
                raise SettingsError(f"last noise level: found {lowest:g}; prior '{self.name}' has no noise levels")
            return None
        trained_low, trained_high = self.noise_range
        high = min(max(highest or trained_high, lowest or trained_low, trained_low), trained_high)
        low = open_std.clamp_min(LEVEL_FLOOR) if lowest is None else torch.full_like(open_std, lowest)
        return high, low.clamp(trained_low, high)

    def energy(self, image: Image, noise_level: float | Tensor | None = None) -> PerImage:
        """Return E(x) per image in float64: the negative log-prior with η² absorbed (paper, eq. 4 and 6)."""
        raise self.missing("energy")

    def gradient(self, image: Image, noise_level: float | Tensor | None = None) -> Image:
        """Return ∇E(x) with respect to real and imaginary part, as ∂Re + i∂Im; builds no graph for the caller."""
        return self.energy_and_gradient(image, noise_level)[1]

    def energy_and_gradient(
        self, image: Image, noise_level: float | Tensor | None = None, *, create_graph: bool = False
    ) -> tuple[PerImage, Image]:
        """Return E(x) and ∇E(x) from one evaluation; `create_graph` keeps the graph to the parameters (training)."""
        with torch.enable_grad():
            leaf = image if create_graph and image.requires_grad else image.detach().requires_grad_()
            energy = self.energy(leaf, noise_level)
            if energy.shape != image.shape[:1]:
                found, expected = tuple(energy.shape), tuple(image.shape[:1])
                raise CompatibilityError(
                    f"prior '{self.name}': energy of shape {found}; expected one per image, {expected}"
                )
            (gradient,) = torch.autograd.grad(energy.sum(), leaf, create_graph=create_graph)
        return (energy, gradient) if create_graph else (energy.detach(), gradient)

    def denoise(self, image: Image, noise_level: float | Tensor, *, create_graph: bool = False) -> Image:
        """Return the estimate of the clean image from one with white noise of `noise_level` per real component.

        `create_graph` keeps the graph to the parameters (training), and to an image that requires a gradient.
        """
        raise self.missing("denoiser")

    def one_view(self) -> Prior:
        """Return, of a prior that is the mean over views of an image, that of one, which denoising trains; else itself.

        The parameters are shared.
        """
        return self

    def score(self, image: Image, noise_level: float | Tensor | None) -> Image:
        """Return ∇ log p_σ(x) = (D_σ(x) − x)/σ² (Tweedie), at one noise level or one per image, without a graph."""
        if noise_level is None:
            raise CompatibilityError(f"prior '{self.name}' has no noise levels of its own: its score needs one")
        return (self.denoise(image, noise_level) - image.detach()) / per_image(noise_level, image) ** 2

    def proximal(self, image: Image, step: float | PerImage, memory: dict[str, Tensor] | None = None) -> Image:
        """Return prox(image) = argmin_z ½‖z − image‖² + step·E(z), per image.

        A prior that provides ``proximal`` also implements `energy`, which its docstring relates to E; it provides
        ``energy`` only where that is differentiable, since solvers that ask for it take its gradient.

        Parameters
        ----------
        step : one positive number or one per image
        memory : a dictionary that the caller keeps from call to call while its images change little, such as the
            iterates of one solve, and that belongs to the prior: what it stores there makes the next call cheaper
        """
        raise self.missing("proximal")

    def reconstruct(
        self, problem: InverseProblem, *, initial: Image | None = None, monitor: Monitor | None = None
    ) -> Solution:
        """Return what a learned reconstruction makes of a problem whose reference scale is 1.

        A prior that provides ``reconstruction`` brings its own iteration, learned end to end with the operator. Where
        gradients are enabled the image has a graph to the parameters (training), and none otherwise.
        """
        raise self.missing("reconstruction")

    def penalty(self, image: Image, generator: torch.Generator) -> Tensor:
        """Return what end-to-end training adds to its loss at a reconstruction without graph: constraints on a network.

        A scalar with a graph to the parameters; zero by default.
        """
        return torch.zeros((), device=image.device)

    def missing(self, capability: str) -> CompatibilityError:
        """Return the error of a method that this prior does not have."""
        provided = ", ".join(sorted(self.provides)) or "nothing"
        return CompatibilityError(f"prior '{self.name}' has no {capability}; it provides: {provided}")
