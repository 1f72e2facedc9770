"""Local curvature of an energy, from gradients alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mriinv.core.types import Image, PerImage
from mriinv.numerics.noise import complex_noise

LEAST_RMS = 0.05
STEP = 0.01


def largest_curvature(
    gradient: Callable[[Image], Image],
    image: Image,
    generator: torch.Generator,
    *,
    iterations: int = 8,
    initial: Image | None = None,
    base: Image | None = None,
) -> tuple[PerImage, Image]:
    """Return per image an estimate of the largest |eigenvalue| of the Hessian, and the direction that attains it.

    Power iteration on (∇E(x + δv) − ∇E(x))/δ with ‖δv‖ = `STEP`·‖x‖: the curvature over the distance that a solver
    travels, which is what bounds its step. Images are at scale 1; one that is nearly empty counts as one of an rms of
    `LEAST_RMS`. It is a lower bound of the Lipschitz constant of ∇E; backtrack on top.

    Parameters
    ----------
    iterations : power iterations, one gradient each
    initial : direction to start from (an earlier result); random when None
    base : ∇E at `image`, when it is known already
    """
    base = gradient(image) if base is None else base
    length = STEP * image.flatten(1).abs().square().sum(1).sqrt().clamp_min(LEAST_RMS * image[0].numel() ** 0.5)

    def normalise(v: Tensor) -> tuple[PerImage, Tensor]:
        norm = v.flatten(1).abs().square().sum(1).sqrt().clamp_min(1e-30)
        return norm, v * (length / norm).view(-1, 1, 1)

    if initial is None:  # the same for every image, whatever else is in the batch
        initial = complex_noise((1, *image.shape[1:]), 1.0, generator, image.dtype).expand_as(image)
    _, direction = normalise(initial)
    norm = length
    for _ in range(iterations):
        norm, direction = normalise(gradient(image + direction) - base)
    return norm / length, direction
