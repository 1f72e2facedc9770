"""The log-prior that a diffusion model gives to an image (paper, eq. 23)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mriinv.core.prior import Prior
from mriinv.core.types import Image
from mriinv.data.readers.base import DAMAGE
from mriinv.data.results import read_result
from mriinv.errors import CompatibilityError, InputError
from mriinv.files import reason
from mriinv.numerics.images import inner_product

GAUSSIAN_LIMIT = 0.5  # mean diagonal of ∂D/∂x above which the highest level still shows the image


@dataclass(frozen=True)
class LogPrior:
    """log p(x) in nats, a density over real and imaginary parts, per image in float64.

    Attributes
    ----------
    nats : (batch,)
    standard_error : of the mean over probes
    integration_error : change of `nats` from half as many steps, an upper bound for smooth denoisers
    dimension : number of real components of one image
    """

    nats: Tensor
    standard_error: Tensor
    integration_error: Tensor
    dimension: int

    @property
    def bits_per_dimension(self) -> Tensor:
        """−log₂ p(x) per real component: smaller is more probable."""
        return -self.nats / (self.dimension * math.log(2))


def log_prior(
    prior: Prior,
    image: Image,
    *,
    probes: int = 10,
    steps: int = 32,
    levels: tuple[float, float] | None = None,
    generator: torch.Generator,
) -> LogPrior:
    r"""Return log p of images at reference scale 1 under a noise-conditional denoiser D_σ.

    Along the probability flow from the lowest level to the highest, with u = log σ,

    .. math::
        \frac{dx}{du} = x − D_σ(x), \qquad
        \log p(x_0) = \log p_T(x_T) + \int \Big(n − \operatorname{tr} \frac{∂D_σ}{∂x}\Big)\,du,

    which is eq. 23 with the factor ½g² that its printed form omits: the flow is dx/dt = −½g²s, and the integrand
    −½g²∇·s. Fourth-order Runge-Kutta on a geometric grid; the trace by Rademacher probes that stay fixed along the
    path (Hutchinson). p is the density of images with the noise of the lowest level, on which `image` is evaluated as
    it stands. The terminal density is N(0, σ_T²/(1 − j)), j the mean diagonal of ∂D/∂x at x_T: the variance σ_T² and
    that of the images, which the denoiser itself tells; exact for white Gaussian images, N(0, σ_T²) as σ_T grows.

    Parameters
    ----------
    probes : 2 or more; the standard error falls with their root
    steps : of the integration, even
    levels : lowest and highest σ; None takes those that the prior was trained at

    Raises
    ------
    CompatibilityError : the prior has no such denoiser, or its highest noise does not hide the images
    """
    if "energy" in prior.provides:
        raise CompatibilityError(f"prior '{prior.name}' has an energy: log p(x) = −E(x) + an unknown constant")
    if not {"denoiser", "noise-conditional"} <= prior.provides:
        raise CompatibilityError(f"eq. 23 needs a denoiser for every noise level; prior '{prior.name}' has none")
    if probes < 2 or steps < 2 or steps % 2:
        raise InputError("log_prior", "probes, steps", f"{probes}, {steps}", "2 or more probes, an even step number")
    if not image.isfinite().all():
        raise InputError("log_prior", "image", "NaN or infinity", "finite values")
    lowest, highest = levels or prior.noise_range or (0.0, 0.0)
    if not 0 < lowest < highest:
        raise InputError("log_prior", "levels", f"{lowest:g}, {highest:g}", "0 < lowest < highest")
    known = prior.noise_range or (lowest, highest)
    if not known[0] <= lowest < highest <= known[1]:
        expected = "{:g} to {:g}, at which the denoiser was trained".format(*known)
        raise InputError("log_prior", "levels", f"{lowest:g} to {highest:g}", expected)
    parts = torch.randint(0, 2, (probes, *image.shape, 2), generator=generator, device=generator.device)
    signs = torch.view_as_complex(2 * parts.to(image.real.dtype) - 1)
    fine = _integrate(prior, image, signs, steps, lowest, highest)
    coarse = _integrate(prior, image, signs, steps // 2, lowest, highest)
    error = (fine - coarse).mean(0).abs()
    return LogPrior(fine.mean(0), fine.std(0) / probes**0.5, error, 2 * image[0].numel())


def _integrate(prior: Prior, image: Tensor, signs: Tensor, steps: int, lowest: float, highest: float) -> Tensor:
    """Return log p by each probe, ``(probe, batch)``."""
    step = math.log(highest / lowest) / steps
    divergence = torch.zeros(signs.shape[:2], dtype=torch.float64, device=image.device)
    for index in range(steps):
        level = math.log(lowest) + index * step
        v1, d1 = _flow(prior, image, signs, level)
        v2, d2 = _flow(prior, image + 0.5 * step * v1, signs, level + 0.5 * step)
        v3, d3 = _flow(prior, image + 0.5 * step * v2, signs, level + 0.5 * step)
        v4, d4 = _flow(prior, image + step * v3, signs, level + step)
        image = image + (step / 6) * (v1 + 2 * v2 + 2 * v3 + v4)
        divergence += (step / 6) * (d1 + 2 * d2 + 2 * d3 + d4)
    dimension = 2 * image[0].numel()
    shown = 1 - _flow(prior, image, signs, math.log(highest))[1].mean(0) / dimension
    if not bool((shown < GAUSSIAN_LIMIT).all()):
        found = f"at noise {highest:.3g} the denoiser of '{prior.name}' still recovers {float(shown.max()):.0%} of them"
        raise CompatibilityError(f"eq. 23 needs a level that hides the images; {found}")
    variance = highest**2 / (1 - shown.clamp_min(0))
    return divergence - 0.5 * (inner_product(image, image) / variance + dimension * (2 * math.pi * variance).log())


def _flow(prior: Prior, image: Tensor, signs: Tensor, log_level: float) -> tuple[Tensor, Tensor]:
    """Return x − D(x) and its divergence by each probe, ``(probe, batch)``."""
    with torch.enable_grad():
        leaf = image.detach().requires_grad_()
        flow = leaf - prior.denoise(leaf, math.exp(log_level), create_graph=True)
        products = [torch.autograd.grad(flow, leaf, probe, retain_graph=True)[0] for probe in signs]
    return flow.detach(), torch.stack([inner_product(p, s) for p, s in zip(products, signs, strict=True)])


def read_images(path: Path) -> dict[int, Image]:
    """Return complex images ``(1, y, x)`` by slice: of a result file, or of a ``.npy`` (y, x) or (slices, y, x)."""
    if path.suffix != ".npy":
        result = read_result(path, arrays=())
        return dict(zip(result.slices, result.image.split(1), strict=True))
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # checks the size of the file, and takes no pickle
    except DAMAGE as error:
        raise InputError(path, "", f"no readable file ({reason(error)})", "an array without pickled objects") from None
    if array.dtype.kind != "c" or array.ndim not in (2, 3) or array.size == 0:
        found = f"{array.dtype} of shape {array.shape}"
        raise InputError(path, "", found, "complex images (y, x) or (slices, y, x)")
    images = torch.from_numpy(array.astype(np.complex64)).reshape(-1, 1, *array.shape[-2:])
    return dict(enumerate(images))
