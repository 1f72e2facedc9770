"""What the interfaces exchange: the problem in, a solution or samples out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Complex
from torch import Tensor

from mriinv.core.operator import Operator
from mriinv.core.types import COMPLEX, Image, PerImage
from mriinv.errors import InputError, require_kind
from mriinv.numerics.diagnostics import Diagnosis
from mriinv.numerics.images import per_image
from mriinv.numerics.noise import complex_noise

SCALE_QUANTILE = 0.99
SENSE_REGULARISATION = 0.01
LEAST_NOISE = 5e-4  # that priors and weights follow, per real component, image scale 1: less counts as this
ROBUST_REGULARISATION, ROBUST_TOLERANCE = 1e-4, 1e-4  # of the image whose residuals are looked at


def described(values: Tensor) -> str:
    """Return type and shape in words."""
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


def reference_scale(image: Image) -> PerImage:
    """Return the 99th percentile of |image| per image: the declared scale that learned priors expect to be 1."""
    magnitude = image.abs().flatten(1)
    rank = max(1, round(SCALE_QUANTILE * magnitude.shape[1]))
    scale = torch.kthvalue(magnitude, rank, dim=1).values  # torch.quantile refuses more than 2^24 elements
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _each(name: str, value: float | Tensor, data: Tensor) -> PerImage:
    """Return one number per image, in the precision and on the device of `data`."""
    try:
        found = torch.as_tensor(value, dtype=data.real.dtype, device=data.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("InverseProblem", name, repr(value), "a number, or one per image") from None
    if found.shape not in ((), (1,), data.shape[:1]):
        raise InputError("InverseProblem", name, f"shape {tuple(found.shape)}", f"one number, or {(len(data),)}")
    return found.expand(len(data))


@dataclass(frozen=True, repr=False, init=False)
class InverseProblem:
    """Recover x from b = A x + n.

    Attributes
    ----------
    operator : A
    data : b, with a leading batch axis
    noise_std : standard deviation of n per real component, in the units of `data`, one number or one per image
        (stored as such); None when unknown
    scale : reference, one number or one per image (stored as such), that the solver divides by before it starts and
        multiplies back at the end; None computes the 99th percentile of |Aᴴb|, 1 turns scaling off

    Raises
    ------
    InputError : no data, data that are not finite, numbers out of range, or neither one nor as many as images
    """

    operator: Operator
    data: Tensor
    noise_std: PerImage | None
    scale: PerImage

    def __init__(
        self,
        operator: Operator,
        data: Tensor,
        noise_std: float | Tensor | None = None,
        scale: float | Tensor | None = None,
    ) -> None:
        require_kind("InverseProblem", "data", data, Tensor, "a tensor")
        require_kind("InverseProblem", "operator", operator, Operator, "an Operator")
        if data.dtype not in COMPLEX:
            raise InputError("InverseProblem", "data", str(data.dtype), "complex values, complex64 or complex128")
        if data.numel() == 0:
            raise InputError("InverseProblem", "data", f"shape {tuple(data.shape)}", "at least one image")
        if not data.isfinite().all():
            raise InputError("InverseProblem", "data", "NaN or infinity", "finite values")
        noise = None if noise_std is None else _each("noise_std", noise_std, data)
        if noise is not None and not ((noise >= 0) & noise.isfinite()).all():
            raise InputError("InverseProblem", "noise_std", str(noise.tolist()), "finite numbers from 0 on")
        reference = reference_scale(operator.adjoint(data)) if scale is None else _each("scale", scale, data)
        if not ((reference > 0) & reference.isfinite()).all():
            raise InputError("InverseProblem", "scale", str(reference.tolist()), "finite numbers above 0")
        for name, value in (("operator", operator), ("data", data), ("noise_std", noise), ("scale", reference)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        noise = "unknown" if self.noise_std is None else str(self.noise_std.tolist())
        return f"InverseProblem({self.operator.name}, data {described(self.data)}, noise_std {noise})"

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.data.shape[0]

    def normalised(self) -> InverseProblem:
        """Return the problem in units of `scale`, whose own scale is 1."""
        noise = None if self.noise_std is None else self.noise_std / self.scale
        data = self.data / per_image(self.scale, self.data)
        return replace(self, data=data, noise_std=noise, scale=torch.ones_like(self.scale))

    def back_projection(self) -> Image:
        """Return Aᴴ b."""
        return self.operator.adjoint(self.data)

    def zero_filled(self) -> Image:
        """Return the image that the data show where what was not sampled is zero; Aᴴ b of operators without such."""
        image = self.operator.fully_sampled_image(self.data)
        return self.back_projection() if image is None else image

    def sense(self, regularisation: float = SENSE_REGULARISATION) -> Image:
        """Return (AᴴA + λ̃I)⁻¹ Aᴴ b, where the paper starts every reconstruction (sec. III-C; its authors use 0.01).

        λ̃ is `regularisation`·‖A‖².
        """
        shift = regularisation * self.operator.norm_bound**2
        return self.operator.solve_normal(self.back_projection(), shift, max_iterations=100).solution

    def sense_noise(self, generator: torch.Generator) -> PerImage:
        """Return the rms of the noise in `sense()` per real component, in float64, from one draw for all images.

        Zero where the data have none, or none that is known.
        """
        if self.noise_std is None or not self.noise_std.any():
            return torch.zeros(self.batch, dtype=torch.float64, device=self.data.device)
        drawn = complex_noise((1, *self.data.shape[1:]), 1.0, generator, self.data.dtype)
        noise = replace(self, data=drawn * per_image(self.noise_std, drawn))
        return torch.view_as_real(noise.sense()).double().square().flatten(1).mean(1).sqrt()

    def robust(self) -> InverseProblem:
        r"""Return the problem ½‖W^½(Ax − b)‖², the weights W of Huber's loss in place of equal ones.

        Noise is not all that measurements hold: errors of the coil maps, motion, single lines that went wrong. Samples
        that a least-squares image, slightly regularised, leaves a residual ρ above the noise η are given the weight
        η/ρ, so that large residuals count by their length and no longer by its square (Huber 1964,
        doi:10.1214/aoms/1177703732; one step of reweighting; a second call weights again). Noise below `LEAST_NOISE`
        counts as that, since regularisation alone leaves residuals of this size. The operator finds ρ
        (`Operator.robust`); the problem itself is returned where it has no weights, or the noise is unknown or none.
        """
        noise = self.noise_std
        weighted = type(self.operator).robust is not Operator.robust
        if not weighted or noise is None or not (noise > 0).any():
            return self
        shift = ROBUST_REGULARISATION * self.operator.norm_bound**2
        image = self.operator.solve_normal(
            self.back_projection(), shift, tolerance=ROBUST_TOLERANCE, max_iterations=100
        ).solution
        threshold = torch.where(noise > 0, noise.maximum(LEAST_NOISE * self.scale), 0.0)
        found = self.operator.robust(self.operator.forward(image) - self.data, threshold)
        if found is None:
            return self
        operator, root = found
        return replace(self, operator=operator, data=root * self.data)

    def data_term(self, image: Image) -> PerImage:
        """Return ½‖A x − b‖² per image, summed in float64; the residual is formed first, so nothing cancels."""
        residual = torch.view_as_real(self.operator.forward(image) - self.data)
        return 0.5 * residual.flatten(1).double().square().sum(1)

    def data_gradient(self, image: Image, back_projection: Complex[Tensor, "#batch y x"] | None = None) -> Image:
        """Return Aᴴ(A x − b); give Aᴴb to save its evaluation."""
        projected = self.back_projection() if back_projection is None else back_projection
        return self.operator.gram(image) - projected


@dataclass(frozen=True, repr=False)
class Solution:
    """A point estimate.

    Attributes
    ----------
    image : complex ``(batch, y, x)`` in the units of the problem
    converged : bool ``(batch,)``, whether the stated stopping rule was met
    iterations : int ``(batch,)``
    history : per quantity (``cost``, ``curvature`` …) its values over the iterations, each ``(iterations, batch)``, at
        reference scale 1
    notes : remarks for the user, such as that the iteration diverged
    """

    image: Image
    converged: Tensor
    iterations: Tensor
    history: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        state = f"converged {self.converged.tolist()}, iterations {self.iterations.tolist()}"
        return f"{type(self).__name__}(image {described(self.image)}, {state})"

    def scaled(self, factor: Tensor) -> Solution:
        """Return the solution with its image multiplied by `factor`, broadcast to ``(batch, y, x)``."""
        return replace(self, image=self.image * factor)


@dataclass(frozen=True, repr=False, kw_only=True)
class Samples(Solution):
    """Draws from a posterior; `image` is their mean (the MMSE estimate).

    `converged` says of Markov chains whether they are seen to have mixed: split-R̂ of all that is watched at most 1.1,
    and no chain without a move. Draws that no Markov chain made have nothing to converge.

    Attributes
    ----------
    draws : complex ``(chain, draw, batch, y, x)``
    traces : watched quantities of Markov chains, by name, ``(chain, step, batch)``, at reference scale 1
    diagnosis : what they say about mixing; None for draws that no Markov chain made
    acceptance : share of accepted proposals, ``(chain, batch)``; None where all are accepted
    """

    draws: Tensor
    traces: Mapping[str, Tensor] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None
    acceptance: Tensor | None = None

    def scaled(self, factor: Tensor) -> Samples:
        return replace(self, image=self.image * factor, draws=self.draws * factor)

    @property
    def count(self) -> int:
        """Number of draws, of all chains."""
        return self.draws.shape[0] * self.draws.shape[1]

    def numbers(self, index: int = 0) -> dict[str, float]:
        """Return what is known of the sampling of one image: samples, chains, acceptance, the worst diagnostics."""
        found = {"chains": float(self.draws.shape[0]), "samples": float(self.count)}
        if self.acceptance is not None:
            found["acceptance"] = float(self.acceptance[:, index].mean())
        diagnosed = self.diagnosis.numbers() if self.diagnosis else {}
        return found | {name: float(value[index]) for name, value in diagnosed.items()}

    @property
    def std(self) -> Tensor:
        """Pixelwise standard deviation of the complex value, sqrt(E|x − E x|²), real ``(batch, y, x)``."""
        flat = self.draws.flatten(0, 1)
        return (flat - flat.mean(0)).abs().square().sum(0).div(max(len(flat) - 1, 1)).sqrt()

    @property
    def mean_magnitude(self) -> Tensor:
        """Pixelwise mean of the magnitude, real ``(batch, y, x)``; where noise rules, above that of the mean image."""
        return self.draws.flatten(0, 1).abs().mean(0)

    @property
    def magnitude_std(self) -> Tensor:
        """Pixelwise standard deviation of the magnitude, real ``(batch, y, x)``."""
        magnitude = self.draws.flatten(0, 1).abs()
        return magnitude.std(0) if len(magnitude) > 1 else torch.zeros_like(magnitude[0])

    @property
    def predicted_error(self) -> Tensor:
        """Standard deviation s√(1 + 1/n) of the mean of n magnitudes from a further draw, real ``(batch, y, x)``."""
        return self.magnitude_std * (1 + 1 / self.count) ** 0.5

    def quantiles(self, probabilities: Sequence[float]) -> Tensor:
        """Pixelwise quantiles of the magnitude, real ``(probability, batch, y, x)``, interpolated between draws."""
        rows = self.draws.flatten(0, 1).abs().unbind(-2)  # one by one: older releases refuse more than 2^24 elements
        return torch.stack([row.quantile(row.new_tensor(probabilities), dim=0) for row in rows], dim=-2)
