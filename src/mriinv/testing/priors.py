"""Checks that every prior must pass; each raises AssertionError with the numbers that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mriinv.core.capabilities import CAPABILITIES, derive
from mriinv.core.prior import Prior
from mriinv.core.types import Image
from mriinv.errors import MriinvError
from mriinv.numerics.images import inner_product, per_image
from mriinv.numerics.noise import complex_noise

SAME = 1e-4  # of the largest value, within which two ways to the same agree


def check_gradient(
    prior: Prior,
    image: Image,
    noise_level: float | Tensor | None = None,
    *,
    step: float | None = None,
    tolerance: float | None = None,
) -> None:
    """Check ∇E against central differences of E along a random direction, per image.

    Parameters
    ----------
    step, tolerance : of the differences, and relative; none: 1e-5 where image and parameters have double precision
        (complex128, `prior.double()`), which makes the check sharp; else 1e-3 and 3e-2, of the length of the gradient
    """
    coarse = any(value.dtype in (torch.complex64, torch.float32) for value in (image, *prior.parameters()))
    step, tolerance = step or (1e-3 if coarse else 1e-5), tolerance or (3e-2 if coarse else 1e-5)
    direction = complex_noise(image.shape, 1.0, torch.Generator(image.device).manual_seed(0), image.dtype)
    ahead, behind = (prior.energy(image + sign * step * direction, noise_level).detach() for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    gradient = prior.gradient(image, noise_level)
    found = inner_product(gradient, direction)
    size = inner_product(gradient, gradient).sqrt() if coarse else expected.abs()
    error = (found - expected).abs() / size.clamp_min(1e-12)
    if not (error <= tolerance).all():
        raise AssertionError(f"gradient: along a direction {found.tolist()}, by differences {expected.tolist()}")


def check_proximal(
    prior: Prior, image: Image, step: float | Tensor = 1.0, *, energy: bool = True, tolerance: float = 1e-6
) -> None:
    """Check that `proximal` is the proximal map of a convex function, and with `energy` that the function is `energy`.

    - Firmly nonexpansive: ‖p − q‖² ≤ Re⟨p − q, u − v⟩ for p = prox(u), q = prox(v).
    - Optimal: E(z) ≥ E(p) + Re⟨u − p, z − p⟩/step for z near and far; `energy=False` for priors whose energy only
      bounds the function, as their docstrings then say.
    - A memory that was filled by other images changes nothing.

    Parameters
    ----------
    image : u; complex128 makes the check sharp
    tolerance : relative to the products of norms that the inequalities compare
    """
    generator = torch.Generator(image.device).manual_seed(0)
    near = proximal = prior.proximal(image, step)
    length = inner_product(image, image).sqrt()
    for size in (1e-3, 1e-1, 1.0):
        near = image + size * image.abs().max() * complex_noise(image.shape, 1.0, generator, image.dtype)
        moved, apart = prior.proximal(near, step) - proximal, near - image
        excess = (inner_product(moved, moved) - inner_product(moved, apart)) / inner_product(apart, apart)
        if not (excess <= tolerance * (1 + length / inner_product(apart, apart).sqrt())).all():
            raise AssertionError(f"proximal: not firmly nonexpansive, by {excess.tolist()} of ‖u − v‖²")
    memory: dict[str, Tensor] = {}
    prior.proximal(near, step, memory)
    error = (prior.proximal(image, step, memory) - proximal).flatten(1).norm(dim=1) / length
    if not (error <= tolerance).all():
        raise AssertionError(f"proximal: a memory of other images changes the result by {error.tolist()} of the image")
    if energy:
        _check_optimality(prior, image, proximal, step, near, tolerance)


def _check_optimality(
    prior: Prior, image: Image, proximal: Image, step: float | Tensor, other: Image, tolerance: float
) -> None:
    size = per_image(step, image)
    residual, value = (image - proximal) / size, prior.energy(proximal)
    for candidate in (image, other, 0 * image, *(proximal + size * (other - proximal) for size in (-1e-1, 1e-3, 1e-1))):
        apart = candidate - proximal
        shortfall = value + inner_product(residual, apart) - prior.energy(candidate)
        scale = value + (inner_product(residual, residual) * inner_product(apart, apart)).sqrt()
        if not (shortfall <= tolerance * scale).all():
            raise AssertionError(f"proximal: does not minimise ½‖z − u‖² + step·E(z), by {shortfall.tolist()} in E")


def check_capabilities(prior: Prior, image: Image) -> None:
    """Check that what `prior` provides, or what follows from it, answers on `image`, finite and of the right shape.

    Where `image` holds several, what comes of the first may not depend on the others. A denoiser also takes one level
    per image, and builds a graph where it is told to, and only there.
    """
    if unknown := set(prior.provides) - CAPABILITIES:
        raise AssertionError(f"{prior.name} claims {sorted(unknown)}; there are {', '.join(sorted(CAPABILITIES))}")
    level = prior.noise_range[0] if prior.noise_range else 0.05
    calls: dict[str, Callable[[Image], Tensor]] = {
        "energy": prior.energy,
        "gradient": prior.gradient,
        "denoiser": lambda x: prior.denoise(x, level),
        "score": lambda x: prior.score(x, level),
        "proximal": lambda x: prior.proximal(x, 1.0),
    }
    for capability, call in calls.items():
        if derive(prior.provides, [capability]) is None:
            continue
        try:
            value, alone = call(image), call(image[:1])
        except MriinvError as error:
            raise AssertionError(f"{prior.name} claims {capability}, but: {error}") from error
        shape = image.shape[:1] if capability == "energy" else image.shape
        if not torch.isfinite(value.abs()).all():
            raise AssertionError(f"{prior.name}.{capability}: NaN or infinity")
        if value.shape != shape:
            raise AssertionError(
                f"{prior.name}.{capability}: shape {tuple(value.shape)}, expected {tuple(shape)}, finite"
            )
        if not (apart := _apart(value[:1], alone)) <= SAME:
            raise AssertionError(
                f"{prior.name}.{capability}: the other images of a batch change the first by {apart:.1e} of its maximum"
            )
    if "denoiser" in prior.provides:
        _check_denoiser(prior, image, level)
    if "reconstruction" in prior.provides and type(prior).reconstruct is Prior.reconstruct:
        raise AssertionError(f"{prior.name} claims reconstruction, but has no method reconstruct")
    if ("noise-conditional" in prior.provides) != (prior.noise_range is not None):
        raise AssertionError(f"{prior.name}: noise-conditional and noise_range = {prior.noise_range} contradict")


def _check_denoiser(prior: Prior, image: Image, level: float) -> None:
    single, leaf = prior.denoise(image, level), image.detach().clone().requires_grad_()
    if single.requires_grad or prior.denoise(leaf, level).requires_grad:
        raise AssertionError(f"{prior.name}.denoise: found a graph; expected none unless create_graph is set")
    if not prior.denoise(leaf, level, create_graph=True).requires_grad:
        raise AssertionError(
            f"{prior.name}.denoise: found no graph with create_graph to an image that needs a gradient"
        )
    together = prior.denoise(image, torch.full((len(image),), level, dtype=image.real.dtype, device=image.device))
    if not (apart := _apart(together, single)) <= SAME:
        raise AssertionError(
            f"{prior.name}.denoise: one level per image changes the result by {apart:.1e} of its maximum"
        )


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two results, relative to the largest value."""
    return float((one - other).detach().abs().max() / other.detach().abs().max().clamp_min(1e-30))
