"""ESPIRiT: coil maps as eigenvectors of the calibration data's local consistency condition."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SQUARINGS, STEPS = 3, 12  # H^(8·12) in all: an eigenvalue ratio of 0.9 leaves 4e-5
CACHE_BYTES, DEVICE_BYTES = 1 << 19, 1 << 28
TINY = 1e-30


class EspiritResult(NamedTuple):
    """Coil maps ``(coil, y, x)`` and the two largest eigenvalues ``(2, y, x)``, in descending order."""

    coil_maps: Tensor
    eigenvalues: Tensor


def espirit(
    calibration_kspace: Tensor, shape: tuple[int, int], kernel_width: int, threshold: float, crop: float
) -> EspiritResult:
    """Estimate one set of coil maps from fully sampled central k-space (Uecker 2014, MRM 71:990).

    All k×k patches of the calibration data lie in a subspace with projector W. A patch of a point source at r is
    c(r) e^{−2πi p·r} over coils and offsets p, so the maps solve H(r) c(r) = c(r) with

        H(r) = Σ_d w(d) e^{2πi d·r},   w(d) = k⁻² Σ_{p−p'=d} W(p, p'),

    a (coil, coil) matrix whose eigenvalues lie in [0, 1]. Where the second one is near 1 too, the object folds onto
    itself and one set of maps cannot explain the data.

    Parameters
    ----------
    calibration_kspace : complex ``(coil, ky, kx)``, centred; its scale does not matter
    shape : (y, x) of the image
    kernel_width : k, in samples
    threshold : singular values of the calibration matrix to keep, relative to the largest
    crop : maps are zero where the largest eigenvalue is below this; elsewhere Σ|c|² = 1

    Returns
    -------
    EspiritResult
        The phase is that of the leading principal component of the coils, which makes it smooth.
    """
    calibration_kspace = calibration_kspace / calibration_kspace.abs().max().clamp_min(TINY)
    projector = _patch_projector(calibration_kspace, kernel_width, threshold)
    kernels = _difference_kernels(projector, len(calibration_kspace), kernel_width)
    maps, eigenvalues = _leading_eigenvectors(kernels, shape, _leading_component(calibration_kspace))
    return EspiritResult(maps * (eigenvalues[0] >= crop), eigenvalues)


def _patch_projector(kspace: Tensor, width: int, threshold: float) -> Tensor:
    """Return W ``(coil·k·k, coil·k·k)``, the projector on the span of all patches."""
    patches = kspace.unfold(1, width, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    patches = patches.to(torch.complex128)  # a Gram matrix squares the range of the singular values
    # the smaller Gram matrix suffices; patches are rows, and the subspace holds them as columns
    if patches.shape[0] < patches.shape[1]:
        squares, left = torch.linalg.eigh(patches @ patches.mH)
        kept = squares > threshold**2 * squares[-1]
        basis = (patches.T @ left[:, kept].conj()) / squares[kept].sqrt()
    else:
        squares, basis = torch.linalg.eigh(patches.T @ patches.conj())
        basis = basis[:, squares > threshold**2 * squares[-1]]
    return (basis @ basis.mH).to(kspace.dtype)


def _difference_kernels(projector: Tensor, coils: int, width: int) -> Tensor:
    """Return w ``(dy, dx, coil, coil)`` for offsets −(k−1) … k−1."""
    blocks = projector.view(coils, width, width, coils, width, width).permute(1, 2, 4, 5, 0, 3)
    kernels = projector.new_zeros(2 * width - 1, 2 * width - 1, coils, coils)
    for py in range(width):
        for px in range(width):
            # offset p − p' runs downwards as p' runs upwards
            kernels[py : py + width, px : px + width] += blocks[py, px].flip(0, 1)
    return kernels / width**2


def _leading_eigenvectors(kernels: Tensor, shape: tuple[int, int], reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvector ``(coil, y, x)`` of H(r) and its two largest eigenvalues ``(2, y, x)``.

    Band by band of rows, so that the matrices stay in the cache.
    """
    along_y, along_x = (_fourier(size, kernels) for size in shape)
    per_column = torch.einsum("abcd,xb->axcd", kernels, along_x)  # (dy, x, coil, coil)
    band = CACHE_BYTES if kernels.device.type == "cpu" else DEVICE_BYTES
    rows = max(1, band // per_column[0].nbytes)
    bands = []
    for part in along_y.split(rows):
        matrices = torch.einsum("ya,axcd->yxcd", part, per_column).flatten(0, 1)
        bands.append(_two_leading(matrices, reference))
    maps, eigenvalues = (torch.cat(parts, -1).unflatten(-1, shape) for parts in zip(*bands, strict=True))
    return maps, eigenvalues


def _fourier(size: int, like: Tensor) -> Tensor:
    """Return e^{2πi d r} ``(size, 2k − 1)`` for centred positions r and offsets d."""
    width = (len(like) + 1) // 2
    position = (torch.arange(size, dtype=torch.float64) - size // 2) / size
    offset = torch.arange(1 - width, width, dtype=torch.float64)
    angle = 2 * math.pi * position[:, None] * offset
    return torch.polar(torch.ones_like(angle), angle).to(like)


def _two_leading(matrices: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return leading eigenvectors ``(coil, pixel)`` and two eigenvalues ``(2, pixel)`` of ``(pixel, coil, coil)``.

    Power iteration on H^8, as squaring a small matrix costs no more than a few products with a vector. As it starts
    from `reference`, referenceᴴ·c ≥ 0 afterwards. The second value is that of the deflated matrix, and a lower bound.
    """
    power = matrices
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp_min(TINY)[:, None, None]
    # pixels last from here on, where elementwise products are fast
    power, matrices = (m.permute(1, 2, 0).contiguous() for m in (power, matrices))
    first = _power_iteration(power, reference[:, None].expand(power.shape[1:]))
    if len(matrices) == 1:  # a single coil has no second eigenvalue
        value = _rayleigh(matrices, first)
        return first, torch.stack((value, torch.zeros_like(value)))
    deflated = power - (first * _rayleigh(power, first))[:, None] * first.conj()
    widest = deflated.diagonal().real.argmax(-1)
    second = _power_iteration(deflated, deflated.gather(1, widest.expand(len(deflated), 1, -1))[:, 0])
    values = torch.stack((_rayleigh(matrices, first), _rayleigh(matrices, second)))
    return first, values.sort(0, descending=True).values


def _power_iteration(matrices: Tensor, vectors: Tensor) -> Tensor:
    for _ in range(STEPS):
        vectors = (matrices * vectors).sum(1)
        squares = (vectors * vectors.conj()).real.sum(0)
        vectors = vectors * squares.clamp_min(TINY).rsqrt()
    return vectors


def _rayleigh(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (vectors.conj() * (matrices * vectors).sum(1)).sum(0).real


def _leading_component(kspace: Tensor) -> Tensor:
    """Return the leading principal component of the coils, its largest entry real and positive."""
    samples = kspace.flatten(1)
    component = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    largest = component[component.abs().argmax()]
    return component * (largest.conj() / largest.abs())
