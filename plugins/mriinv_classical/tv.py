"""Total variation of complex images, and its proximal map."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, setting
from mriinv_classical.weighting import WeightedPrior

NORM_SQUARED = 8.0  # bound of ‖D‖² for differences along two axes
CHECK_EVERY = 5  # iterations between two evaluations of the duality gap


class TotalVariation(WeightedPrior):
    r"""Isotropic total variation (Rudin, Osher and Fatemi 1992) of complex images,

    .. math:: E(x) = λ \sum_p \sqrt{|x_p − x_{p−e_y}|^2 + |x_p − x_{p−e_x}|^2},

    with backward differences and periodic boundaries, as in BART's ``-R T:3:0:λ``.

    The proximal map is p = z − Dᴴf, where the dual field f minimises ½‖z − Dᴴf‖² over |f_p| ≤ τ = λ·step; it is found
    by fast gradient projection (Beck and Teboulle 2009). The distance of p to the exact point is at most √(2·gap) with
    the duality gap; the iteration stops when that is below `tolerance`·‖z‖ for every image, or after `max_iterations`,
    as it does with large weights. A caller's memory keeps f, where the next call starts: over the calls of a solver the
    error of maps that were cut short goes down all the same.
    """

    name = "tv"
    provides = frozenset({"proximal"})
    factor, exponent = 2.1, 1.5

    class Settings(ComponentSettings):
        weight: float | None = setting(None, "λ at image scale 1; none: from the noise level", gt=0, tune=(1e-4, 1e-1))
        tolerance: float = setting(1e-4, "error of the proximal map at which to stop, relative to the image", gt=0)
        max_iterations: int = setting(100, "largest number of iterations in one proximal map", ge=1)

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        planes = _planes(image)
        differences = _differences(planes, planes.new_empty(2, *planes.shape))
        return _length(differences).double().sum((1, 2)) * self.weight

    def proximal(self, image: Tensor, step: float | Tensor, memory: dict[str, Tensor] | None = None) -> Tensor:
        s = self.settings
        memory = {} if memory is None else memory
        threshold = self.threshold(image, step)
        planes = _planes(image)
        field = _project(memory.get("field", planes.new_zeros(2, *planes.shape)), threshold)
        ahead, momentum = field, 1.0
        primal, ascent = torch.empty_like(planes), torch.empty_like(field)
        settled = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        largest_gap = 0.5 * s.tolerance**2 * planes.square().sum((0, 2, 3))
        for iteration in range(s.max_iterations):
            if iteration % CHECK_EVERY == 0:
                _differences(_minus_divergence(planes, field, primal), ascent)
                gap = (threshold * _length(ascent) - (field * ascent).sum((0, 1))).sum((1, 2))  # no term is negative
                settled |= gap <= largest_gap
                if settled.all():
                    break
            _differences(_minus_divergence(planes, ahead, primal), ascent)
            projected = _project(torch.add(ahead, ascent, alpha=1 / NORM_SQUARED), threshold)
            if settled.any():  # an image of a batch does not depend on the others
                projected = torch.where(settled[:, None, None], field, projected)
            momentum, previous = 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5), momentum
            ahead = torch.lerp(field, projected, 1 + (previous - 1) / momentum)
            field = projected
        memory["field"] = field
        return torch.complex(*_minus_divergence(planes, field, primal))


def _planes(image: Tensor) -> Tensor:
    """Return real and imaginary part ``(2, batch, y, x)``: sums over pairs of reals side by side would be slow."""
    return torch.stack((image.real, image.imag))


def _differences(planes: Tensor, out: Tensor) -> Tensor:
    """Write D x to `out`, ``(axis, 2, batch, y, x)``, in place because fresh memory costs more than the arithmetic."""
    y, x = out
    torch.sub(planes[..., 1:, :], planes[..., :-1, :], out=y[..., 1:, :])
    torch.sub(planes[..., :1, :], planes[..., -1:, :], out=y[..., :1, :])
    torch.sub(planes[..., 1:], planes[..., :-1], out=x[..., 1:])
    torch.sub(planes[..., :1], planes[..., -1:], out=x[..., :1])
    return out


def _minus_divergence(planes: Tensor, field: Tensor, out: Tensor) -> Tensor:
    """Write z − Dᴴf to `out`, ``(2, batch, y, x)``."""
    y, x = field
    torch.sub(planes, y, out=out)
    out[..., :-1, :] += y[..., 1:, :]
    out[..., -1:, :] += y[..., :1, :]
    out -= x
    out[..., :-1] += x[..., 1:]
    out[..., -1:] += x[..., :1]
    return out


def _length(field: Tensor) -> Tensor:
    """Return the length of a field at each pixel, real ``(batch, y, x)``."""
    return field.square().sum((0, 1)).sqrt_()


def _project(field: Tensor, limit: Tensor) -> Tensor:
    """Shorten a field in place to |f_p| ≤ `limit`; one that a memory keeps may come from a larger step."""
    return field.mul_((limit / _length(field)).clamp_max_(1))
