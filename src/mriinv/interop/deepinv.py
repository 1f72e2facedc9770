"""deepinv and mriinv, in both directions. The only place that knows the conventions of deepinv.

deepinv keeps real and imaginary part of an image as two real channels, ``(batch, 2, y, x)``, and so of multi-coil
data, ``(batch, 2, coil, y, x)``. Its gradients are those of mriinv, ∂Re + i∂Im, in this form.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from deepinv.models import Denoiser
from deepinv.optim import Prior as DeepinvPotential
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import ZeroNoise
from torch import Tensor, nn

from mriinv.core.normal import regularised_inverse
from mriinv.core.operator import Operator
from mriinv.core.prior import Prior
from mriinv.errors import CompatibilityError, InputError, require
from mriinv.numerics.channels import from_channels, to_channels
from mriinv.numerics.images import per_image
from mriinv.numerics.noise import complex_noise
from mriinv.numerics.spectral import largest_eigenvalue

NORM_MARGIN = 1.02  # power iteration comes from below


def _to_parts(values: Tensor) -> Tensor:
    """Return complex ``(batch, …)`` as real ``(2·batch, …)``: imaginary parts after real ones."""
    return torch.cat([values.real, values.imag])


def _from_parts(parts: Tensor) -> Tensor:
    """Return real ``(2·batch, …)`` as complex ``(batch, …)``."""
    return torch.complex(*parts.chunk(2))


class _OperatorPhysics(LinearPhysics):
    """See `to_deepinv_physics`."""

    def __init__(self, operator: Operator, data: Tensor) -> None:
        super().__init__(noise_model=ZeroNoise(), device=data.device)
        self.operator = operator
        # deepinv's unrolled networks multiply residuals by a mask; A has it inside, so that this one keeps everything
        self.register_buffer("mask", torch.ones([1] * (data.ndim + 1), dtype=data.real.dtype, device=data.device))

    def A(self, x: Tensor, **_: Any) -> Tensor:  # noqa: N802 - deepinv's name
        return to_channels(self.operator.forward(from_channels(x)))

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:  # noqa: N802
        return to_channels(self.operator.adjoint(from_channels(y)))

    def A_adjoint_A(self, x: Tensor, **_: Any) -> Tensor:  # noqa: N802
        return to_channels(self.operator.gram(from_channels(x)))

    def prox_l2(
        self,
        z: float | Tensor | None,
        y: Tensor,
        gamma: float | Tensor,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        **_: Any,
    ) -> Tensor:
        """Return argmin ½γ‖Ax − y‖² + ½‖x − z‖², each image solved for by itself; differentiable in z, y and γ.

        By conjugate gradients from z, whatever `solver` and `max_iter` are, to `tol`; none: 1e-4, as in deepinv, whose
        images of a batch go on until all are solved.
        """
        if not isinstance(z, Tensor):
            z = torch.full_like(self.A_adjoint(y), z or 0.0)
        shift = 1 / torch.as_tensor(gamma, dtype=z.dtype, device=z.device).reshape(-1)
        prior = per_image(shift, from_channels(z)) * from_channels(z)
        rhs = self.operator.adjoint(from_channels(y)) + prior
        shift = shift if len(shift) > 1 else shift[0]
        start = from_channels(z).resolve_conj()
        return to_channels(regularised_inverse(self.operator, rhs, shift, initial=start, tolerance=tol or 1e-4))


def to_deepinv_physics(operator: Operator, data: Tensor) -> LinearPhysics:
    """Return `operator` as a physics of deepinv, for its optimisers and networks; differentiable in image and data.

    Parameters
    ----------
    data : complex measurements of the problem, or any of the same shape, type and device
    """
    return _OperatorPhysics(operator, data)


class PhysicsOperator(Operator):
    """Any linear physics of deepinv, the same for every image, as an operator on complex images ``(batch, y, x)``.

    Parameters
    ----------
    physics : its buffers are on the device that the images will be on
    shape : size (y, x) of the images
    channels : 2: the physics takes real and imaginary part as two channels and returns two, such as deepinv's MRI;
        1: it takes images of one channel, and both parts go through it one beside the other, to data with a channel
    norm_bound : of ‖A‖; None: from a power iteration, with a margin of 2 %

    Raises
    ------
    CompatibilityError : a physics that is not linear, does not take such images, or treats the parts differently
    """

    name = "physics"

    def __init__(
        self,
        physics: LinearPhysics,
        shape: tuple[int, int],
        *,
        channels: Literal[1, 2] = 2,
        norm_bound: float | None = None,
    ) -> None:
        what = type(physics).__name__
        if not isinstance(physics, LinearPhysics):
            raise CompatibilityError(f"{what} of deepinv is not a linear physics")
        require(self.name, ("channels", channels, channels in (1, 2), "1 or 2"))
        self.physics, self.shape, self.channels = physics, shape, channels
        device = next(physics.buffers()).device
        probe = complex_noise((1, *shape), 1.0, torch.Generator(device).manual_seed(0))
        try:
            data, turned = self.forward(probe), self.forward(1j * probe)
        except Exception as error:  # whatever the physics makes of images that it is not for
            expected = f"{channels} channel{'s' * (channels > 1)} of {shape[0]} x {shape[1]} pixels"
            raise CompatibilityError(f"{what} of deepinv does not take images of {expected}: {error}") from error
        if not torch.allclose(turned, 1j * data, atol=1e-3 * float(data.abs().max())):
            raise CompatibilityError(f"{what} of deepinv treats real and imaginary part differently; try channels=1")
        if norm_bound is None:
            norm_bound = NORM_MARGIN * float(largest_eigenvalue(self.gram, probe)) ** 0.5
        self.norm_bound = norm_bound

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1:] != self.shape:
            found, expected = f"shape {tuple(image.shape)}", f"(batch, {self.shape[0]}, {self.shape[1]})"
            raise InputError(f"{self.name} operator", "image", found, expected)
        given = image.dtype
        image = _as_computed(self.physics, image)
        if self.channels == 2:
            return from_channels(self.physics.A(to_channels(image))).to(given)
        return _from_parts(self.physics.A(_to_parts(image)[:, None])).to(given)

    def adjoint(self, data: Tensor) -> Tensor:
        given = data.dtype
        data = _as_computed(self.physics, data)
        if self.channels == 2:
            return from_channels(self.physics.A_adjoint(to_channels(data))).to(given)
        return _from_parts(self.physics.A_adjoint(_to_parts(data)))[:, 0].to(given)

    def to(self, device: torch.device | str) -> PhysicsOperator:
        moved = cast(PhysicsOperator, super().to(device))
        moved.physics = self.physics.clone().to(device)
        return moved


class DenoiserPrior(Prior):
    """Any denoiser of deepinv as a prior.

    deepinv means images in [0, 1] with noise of standard deviation σ; ours have the 99th percentile of their magnitude
    at 1, and σ is per real component, that is per channel.

    Parameters
    ----------
    denoiser : a module or a function, called as ``denoiser(x, sigma)``
    channels : 2: it takes real and imaginary part as channels; 1: both parts as images of one channel
    """

    name = "deepinv-denoiser"
    provides = frozenset({"denoiser"})

    def __init__(
        self, denoiser: Callable[[Tensor, Tensor], Tensor], *, channels: Literal[1, 2] = 2, **settings: Any
    ) -> None:
        super().__init__(**settings)
        require(
            self.name,
            ("denoiser", type(denoiser).__name__, callable(denoiser), "a module or a function"),
            ("channels", channels, channels in (1, 2), "1 or 2"),
        )
        self.denoiser = denoiser if isinstance(denoiser, nn.Module) else _Function(denoiser)
        self.channels = channels

    def denoise(self, image: Tensor, noise_level: float | Tensor, *, create_graph: bool = False) -> Tensor:
        _start_anew(self.denoiser)
        given = image.dtype
        with torch.set_grad_enabled(create_graph):
            image = _as_computed(self.denoiser, image)
            sigma = torch.as_tensor(noise_level, dtype=image.real.dtype, device=image.device).expand(len(image))
            if self.channels == 2:
                return from_channels(self.denoiser(to_channels(image), sigma)).to(given)
            return _from_parts(self.denoiser(_to_parts(image)[:, None], sigma.repeat(2)))[:, 0].to(given)


class _Function(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


class PotentialPrior(Prior):
    """A prior of deepinv that has a function, as E(x) = `weight`·g(x) with g of the two-channel image.

    Parameters
    ----------
    potential : its ``fn`` is differentiable where ``energy`` is among `provides`; its ``prox`` is that of ``fn`` where
        ``proximal`` is
    """

    name = "deepinv-prior"

    def __init__(
        self, potential: DeepinvPotential, provides: frozenset[str], weight: float = 1.0, /, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.potential, self.provides, self.weight = potential, provides, weight

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        channels = to_channels(_as_computed(self.potential, image))
        return cast(Tensor, self.weight * self.potential.fn(channels).reshape(len(image)).double())

    def proximal(self, image: Tensor, step: float | Tensor, memory: dict[str, Tensor] | None = None) -> Tensor:
        """Return the map image by image: not every one of deepinv takes a step per image, or stops per image.

        The iterative ones of deepinv remember one image; where there is no other, a memory lets them go on from it.
        """
        steps = torch.as_tensor(step).expand(len(image)).tolist()
        result, inside = [], _as_computed(self.potential, image)
        for one, size in zip(inside.split(1), steps, strict=True):
            if not memory or len(image) > 1:
                _start_anew(self.potential)
            # a wavelet prior's own factor on the step is 0.1, and then no longer the map of its function
            result.append(from_channels(self.potential.prox(to_channels(one), ths=1.0, gamma=self.weight * size)))
        if memory is not None:
            memory["known"] = image
        return torch.cat(result).to(image.dtype)


def _as_computed(module: nn.Module, values: Tensor) -> Tensor:
    """Return complex values in the precision of the tensors of a module; as they are where it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    own = next((one.dtype for one in tensors if one.is_floating_point()), values.real.dtype)
    return values.to(own.to_complex())


def _start_anew(module: nn.Module) -> None:
    """Make iterative denoisers forget the image before: what they return shall not depend on it."""
    for part in module.modules():
        if hasattr(part, "restart"):
            part.restart = True  # type: ignore[assignment]


class _PriorDenoiser(Denoiser):
    """See `to_deepinv_denoiser`."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor, **_: Any) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(len(x))
        return to_channels(self.prior.denoise(from_channels(x), level, create_graph=torch.is_grad_enabled()))


class _PriorPotential(DeepinvPotential):
    """See `to_deepinv_prior`."""

    def __init__(self, prior: Prior, noise_level: float | Tensor | None) -> None:
        super().__init__()
        self.prior, self.noise_level, self.explicit_prior = prior, noise_level, True

    def fn(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.prior.energy(from_channels(x), self.noise_level)

    def grad(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        graph = torch.is_grad_enabled()
        gradient = self.prior.energy_and_gradient(from_channels(x), self.noise_level, create_graph=graph)[1]
        return to_channels(gradient)

    def prox(self, x: Tensor, *args: Any, gamma: float = 1.0, **kwargs: Any) -> Tensor:
        if "proximal" not in self.prior.provides:
            return cast(Tensor, super().prox(x, *args, gamma=gamma, **kwargs))
        return to_channels(self.prior.proximal(from_channels(x), gamma))


def to_deepinv_denoiser(prior: Prior) -> Denoiser:
    """Return a prior that provides ``denoiser`` as a denoiser of deepinv, on two-channel images."""
    if "denoiser" not in prior.provides:
        raise prior.missing("denoiser")
    return _PriorDenoiser(prior)


def to_deepinv_prior(prior: Prior, noise_level: float | Tensor | None = None) -> DeepinvPotential:
    """Return a prior with an energy or a proximal map as a prior of deepinv, on two-channel images.

    Parameters
    ----------
    noise_level : at which a noise-conditional energy is evaluated; deepinv's own ``g_param`` is not used
    """
    if not prior.provides & {"energy", "proximal"}:
        raise prior.missing("energy or proximal map")
    return _PriorPotential(prior, noise_level)
