"""Checks that every prior must pass; each raises AssertionError with the numbers that do not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv.core.capabilities import derive
from mriinv.core.prior import Prior
from mriinv.core.types import Image
from mriinv.data.noise import complex_noise
from mriinv.errors import MriinvError


def check_gradient(
    prior: Prior,
    image: Image,
    noise_level: float | Tensor | None = None,
    *,
    step: float = 1e-5,
    tolerance: float = 1e-5,
) -> None:
    """Check ∇E against central differences of E along a random direction, per image; complex128 makes it sharp."""
    direction = complex_noise(image.shape, 1.0, torch.Generator(image.device).manual_seed(0), image.dtype)
    ahead, behind = (prior.energy(image + sign * step * direction, noise_level).detach() for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    found = (prior.gradient(image, noise_level).conj() * direction).real.double().flatten(1).sum(1)
    error = (found - expected).abs() / expected.abs().clamp_min(1e-12)
    if not (error <= tolerance).all():
        raise AssertionError(f"gradient: along a direction {found.tolist()}, by differences {expected.tolist()}")


def check_capabilities(prior: Prior, image: Image) -> None:
    """Check that what `prior` provides, or what follows from it, answers on `image`, finite and of the right shape."""
    level = prior.noise_range[0] if prior.noise_range else 0.05
    calls = {
        "energy": lambda: prior.energy(image),
        "gradient": lambda: prior.gradient(image),
        "denoiser": lambda: prior.denoise(image, level),
        "score": lambda: prior.score(image, level),
    }
    for capability, call in calls.items():
        if derive(prior.provides, [capability]) is None:
            continue
        try:
            value = call()
        except MriinvError as error:
            raise AssertionError(f"{prior.name} claims {capability}, but: {error}") from error
        shape = image.shape[:1] if capability == "energy" else image.shape
        if not torch.isfinite(value.abs()).all():
            raise AssertionError(f"{prior.name}.{capability}: NaN or infinity")
        if value.shape != shape:
            raise AssertionError(
                f"{prior.name}.{capability}: shape {tuple(value.shape)}, expected {tuple(shape)}, finite"
            )
    if ("noise-conditional" in prior.provides) != (prior.noise_range is not None):
        raise AssertionError(f"{prior.name}: noise-conditional and noise_range = {prior.noise_range} contradict")
