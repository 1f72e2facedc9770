"""Operators of deepinv that measure images instead of k-space."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import deepinv
import torch
from deepinv.physics import LinearPhysics
from deepinv.utils.mixins import MRIMixin
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional

from mriinv import (
    Acquisition,
    CompatibilityError,
    ComponentSettings,
    PhysicsOperator,
    complex_noise,
    per_image,
    reference_scale,
    setting,
)
from mriinv_deepinv.building import build

NORM_BOUND = 1.01  # of deepinv's tomography, which a power iteration from below scales


class ImageOperator(PhysicsOperator):
    """A physics of deepinv that measures the fully sampled image of a scan, with white noise; no mask applies."""

    measures_images = True

    class Settings(ComponentSettings):
        noise_std: float = setting(
            0.01, "noise of the simulated measurements", unit="std per real component, image scale 1", ge=0
        )

    @classmethod
    @abstractmethod
    def for_shape(cls, shape: tuple[int, int], settings: Any, device: torch.device) -> ImageOperator:
        """Build the operator for images of a size (y, x)."""

    @classmethod
    def build(cls, acquisition: Acquisition, settings: Any) -> ImageOperator:
        y, x = acquisition.kspace.shape[-2:]
        operator = cls.for_shape((y, x), settings, acquisition.kspace.device)
        operator.notes = (
            f"'{cls.name}' measured the fully sampled image, with noise of {settings.noise_std:g} at image scale 1; "
            "no mask of k-space applies",
        )
        return operator

    def measure(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        data = self.forward(image)
        noise_std = self.settings.noise_std * reference_scale(image)
        noise = complex_noise(data.shape, 1.0, generator, data.dtype)
        return data + noise * per_image(noise_std, data), noise_std


class DeepinvPhysics(ImageOperator):
    """Any linear physics of deepinv by class name.

    What its constructor calls ``img_size``, ``img_width`` or ``rng`` is filled in. Real and imaginary part are measured
    as images of one channel; deepinv's MRI takes both.
    """

    name = "deepinv"

    class Settings(ImageOperator.Settings):
        physics: str = setting("Denoising", "name of a class in deepinv.physics")
        options: dict[str, JsonValue] = setting({}, "arguments of its constructor")

    @classmethod
    def for_shape(cls, shape: tuple[int, int], settings: Any, device: torch.device) -> DeepinvPhysics:
        found = getattr(deepinv.physics, settings.physics, None)
        channels = 2 if inspect.isclass(found) and issubclass(found, MRIMixin) else 1
        filled = {
            "img_size": (channels, *shape),
            "img_width": max(shape),
            "rng": torch.Generator().manual_seed(0),  # on the CPU, where the physics is built
        }
        physics = build("operator.physics", deepinv.physics, LinearPhysics, settings.physics, settings.options, filled)
        return cls(physics.to(device), shape, channels=channels)  # type: ignore[arg-type]


class Blur(ImageOperator):
    """Periodic convolution with a Gaussian; ‖A‖ = 1, the sum of its kernel."""

    name = "blur"

    class Settings(ImageOperator.Settings):
        width: float = setting(1.5, "standard deviation of the Gaussian", unit="pixels", gt=0, le=32)

    @classmethod
    def for_shape(cls, shape: tuple[int, int], settings: Any, device: torch.device) -> Blur:
        kernel = deepinv.physics.functional.gaussian_blur(sigma=(settings.width, settings.width))
        if kernel.shape[-2] > shape[0] or kernel.shape[-1] > shape[1]:
            raise CompatibilityError(f"blur: a Gaussian of width {settings.width:g} does not fit into {shape} pixels")
        physics = deepinv.physics.BlurFFT(img_size=(1, *shape), filter=kernel, device=device)
        return cls(physics, shape, channels=1, norm_bound=1.0)


class Inpainting(ImageOperator):
    """Keeps a random part of the pixels and sets the others to zero; ‖A‖ = 1."""

    name = "inpainting"

    class Settings(ImageOperator.Settings):
        fraction: float = setting(0.5, "part of the pixels that is kept", gt=0, le=1)
        mask_seed: int = setting(0, "determines which", ge=0, lt=2**63)

    @classmethod
    def for_shape(cls, shape: tuple[int, int], settings: Any, device: torch.device) -> Inpainting:
        kept = torch.rand(shape, generator=torch.Generator().manual_seed(settings.mask_seed)) < settings.fraction
        physics = deepinv.physics.Inpainting(img_size=(1, *shape), mask=kept[None].float(), device=device)
        return cls(physics, shape, channels=1, norm_bound=1.0)


class Tomography(ImageOperator):
    """Line integrals along parallel beams over 180° (CT), scaled to ‖A‖ ≈ 1; images are padded to a square."""

    name = "tomography"

    class Settings(ImageOperator.Settings):
        angles: int = setting(60, "number of projections", ge=1, le=4096)

    @classmethod
    def for_shape(cls, shape: tuple[int, int], settings: Any, device: torch.device) -> Tomography:
        with torch.random.fork_rng(devices=[]):  # deepinv measures the norm with random numbers of the process
            torch.manual_seed(0)
            square = deepinv.physics.Tomography(angles=settings.angles, img_width=max(shape), normalize=True)
        return cls(_Padded(square, shape).to(device), shape, channels=1, norm_bound=NORM_BOUND)


class _Padded(LinearPhysics):
    """A physics for squares, of images that are padded below and to the right."""

    def __init__(self, square: LinearPhysics, shape: tuple[int, int]) -> None:
        super().__init__()
        self.square, (self.y, self.x) = square, shape

    def A(self, x: Tensor, **_: Any) -> Tensor:  # noqa: N802 - deepinv's name
        side = max(self.y, self.x)
        return self.square.A(functional.pad(x, (0, side - self.x, 0, side - self.y)))

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:  # noqa: N802
        return self.square.A_adjoint(y)[..., : self.y, : self.x]
