"""Sparsity in a shift-invariant wavelet domain."""

from __future__ import annotations

import torch
from torch import Tensor

from mriinv import ComponentSettings, setting
from mriinv_classical.weighting import WeightedPrior

ROOT3 = 3**0.5
# Daubechies' four-tap filters, scaled to |H|² + |G|² = 1, which undecimated transforms ask for
LOW = ((1 + ROOT3) / 8, (3 + ROOT3) / 8, (3 - ROOT3) / 8, (1 - ROOT3) / 8)
HIGH = (LOW[3], -LOW[2], LOW[1], -LOW[0])
REACH = len(LOW) - 1


class L1Wavelet(WeightedPrior):
    r"""λ‖W x‖₁ of the details of an orthonormal Daubechies-4 transform, averaged over all circular shifts.

    Shrinking the coefficients after every shift and averaging the results (cycle spinning, Coifman and Donoho 1995)
    is, with the undecimated transform T, :math:`p = T^H \mathrm{soft}(T z)` with thresholds λ·step·2⁻ʲ at level j.
    T is a Parseval frame for every matrix size, TᴴT = I, so this map is a proximal map too (Moreau 1965; the proximal
    average of Bauschke et al. 2008, doi:10.1137/070687542): solvers converge, where random shifts keep wandering.

    The function that it belongs to has no closed form: it lies below `energy`, λ Σ_j 2⁻ʲ‖(T x)_j‖₁, the mean of λ‖W x‖₁
    over the shifts, and tends to it as the step goes to 0. The coarsest approximation is not shrunk. Boundaries are
    periodic; an image too small for all levels has fewer.
    """

    name = "l1-wavelet"
    provides = frozenset({"proximal"})
    factor, exponent = 2.2, 1.4

    class Settings(ComponentSettings):
        weight: float | None = setting(None, "λ at image scale 1; none: from the noise level", gt=0, tune=(1e-4, 1e-1))
        levels: int = setting(4, "levels of the transform", ge=1)

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        total = torch.zeros(len(image), dtype=torch.float64, device=image.device)
        for level in range(self._levels(image)):
            image, *details = _analyse(image, 2**level)
            total += 0.5 ** (level + 1) * torch.stack([d.abs().double().sum((1, 2)) for d in details]).sum(0)
        return total * self.weight

    def proximal(self, image: Tensor, step: float | Tensor, memory: dict[str, Tensor] | None = None) -> Tensor:
        threshold = self.threshold(image, step)
        bands = []
        for level in range(self._levels(image)):
            image, *details = _analyse(image, 2**level)
            threshold = threshold / 2
            bands.append([d.mul_((1 - threshold / d.abs()).clamp_min_(0)) for d in details])
        for level in reversed(range(len(bands))):
            image = _synthesise(image, bands[level], 2**level)
        return image

    def _levels(self, image: Tensor) -> int:
        """Return the number of levels whose filters are not longer than the image."""
        return min(self.settings.levels, (min(image.shape[-2:]) // REACH).bit_length())


def _analyse(image: Tensor, spacing: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the approximation and the three details of one level, each as large as the image."""
    low, high = (_correlate(image, taps, spacing, 1) for taps in (LOW, HIGH))
    ll, lh, hl, hh = (_correlate(rows, taps, spacing, 2) for rows in (low, high) for taps in (LOW, HIGH))
    return ll, lh, hl, hh


def _synthesise(approximation: Tensor, details: list[Tensor], spacing: int) -> Tensor:
    """Return the image that `_analyse` took apart: its adjoint."""
    lh, hl, hh = details
    low = _convolve(approximation, LOW, spacing, 2).add_(_convolve(lh, HIGH, spacing, 2))
    high = _convolve(hl, LOW, spacing, 2).add_(_convolve(hh, HIGH, spacing, 2))
    return _convolve(low, LOW, spacing, 1).add_(_convolve(high, HIGH, spacing, 1))


def _correlate(image: Tensor, taps: tuple[float, ...], spacing: int, axis: int) -> Tensor:
    """Return Σ_k taps[k]·x[n + k·spacing] along `axis`, periodic."""
    return _weighted_sum(torch.cat([image, image.narrow(axis, 0, REACH * spacing)], axis), taps, spacing, axis)


def _convolve(image: Tensor, taps: tuple[float, ...], spacing: int, axis: int) -> Tensor:
    """Return Σ_k taps[k]·x[n − k·spacing], the adjoint of `_correlate`."""
    reach = REACH * spacing
    end = image.narrow(axis, image.shape[axis] - reach, reach)
    return _weighted_sum(torch.cat([end, image], axis), taps[::-1], spacing, axis)


def _weighted_sum(extended: Tensor, taps: tuple[float, ...], spacing: int, axis: int) -> Tensor:
    size = extended.shape[axis] - REACH * spacing
    total = taps[0] * extended.narrow(axis, 0, size)
    for k in range(1, len(taps)):
        total.add_(extended.narrow(axis, k * spacing, size), alpha=taps[k])
    return total
