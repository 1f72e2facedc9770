"""Coil compression: a few virtual coils that carry nearly all of the signal of many."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Complex
from torch import Tensor
from torch.nn.functional import pad

from mriinv.core.types import CoilMapsSlice
from mriinv.data.acquisition import Acquisition, level_of
from mriinv.data.masks import fully_sampled_axes
from mriinv.errors import InputError
from mriinv.metrics import psnr
from mriinv.numerics.fft import fftc, ifft2c, ifftc
from mriinv.numerics.spectral import scaled_gram

Method = Literal["svd", "geometric"]
WINDOW = 5  # positions that a geometric matrix looks at: steadier matrices from neighbours with much the same coils
GLOBAL_SHARE = 1e-2  # of the mean covariance in each local one: where nothing but noise is, the basis stays the usual


def compress_coils(acquisition: Acquisition, coils: int, method: Method = "svd") -> Acquisition:
    """Combine the coils into `coils` virtual ones, k' = M k with M Mᴴ = I, so that white noise stays as it is.

    ``svd``: one matrix per slice, the leading principal components of its samples (Buehrer 2007). ``geometric``: one
    matrix for each position along a fully sampled axis (y when both are), as fewer coils see a part of the object than
    all of it (Zhang 2013). Coil maps get the same matrices, and image and `reference` keep their values: since F acts
    on each coil alone, M F (c x) = F (M c x). Maps lose what the data lose, so their sum of squares falls below 1.

    Parameters
    ----------
    acquisition : best whitened, as components are ordered by energy, noise included; slices are compressed one by one
    coils : number of virtual coils; nothing is done when there are no more coils than that

    Raises
    ------
    InputError : no coil asked for; ``geometric`` where the mask varies along both axes

    References
    ----------
    Buehrer et al., Array compression for MRI with large coil arrays, Magn. Reson. Med. 57:1131 (2007).
    Zhang et al., Coil compression for accelerated imaging with Cartesian sampling, Magn. Reson. Med. 69:571 (2013).
    """
    kspace, physical = acquisition.kspace, acquisition.kspace.shape[1]
    if coils < 1:
        raise InputError("coil compression", "coils", str(coils), "at least 1")
    if coils >= physical:
        remark = f"not compressed to {coils} virtual coils: there are {physical}"
        return acquisition if coils == physical else acquisition.remarked(remark)
    if method == "svd":
        axis = -2
        matrices = torch.stack([svd_matrix(one, coils)[None] for one in kspace])
        compressed = _apply(matrices, kspace, axis)
    else:
        axis = _only_axis(acquisition)
        hybrid = ifftc(kspace, (axis,))
        matrices = torch.stack([geometric_matrices(_axis_first(one, axis), coils) for one in hybrid])
        compressed = fftc(_apply(matrices, hybrid, axis), (axis,))
    before, after = (torch.linalg.vector_norm(one, dtype=torch.complex128) for one in (kspace, compressed))
    kept = float((after / before).square())
    remark = f"{coils} virtual coils of {physical} ({method}) keep {100 * kept:.4g} % of the energy in k-space"
    if acquisition.gapless:
        before, after = (torch.linalg.vector_norm(ifft2c(one), dim=1) for one in (kspace, compressed))
        if before.flatten(1).any(1).all():  # no empty slice
            remark += f"; their root sum of squares is that of all to {float(psnr(after, before).min()):.1f} dB (PSNR)"
    maps, covariance, noise_std = acquisition.coil_maps, acquisition.noise_covariance, acquisition.noise_std
    if covariance is not None:
        # a k-space sample is a sum over positions, whose noise is independent: its covariance is their mean
        covariance = (matrices @ covariance.to(matrices) @ matrices.mH).mean((0, 1))
        noise_std = level_of(covariance)
    metric = acquisition.coil_metric
    if metric is not None:
        per_pixel = matrices.unsqueeze(2 if axis == -2 else 1)  # (batch, y|1, x|1, virtual, coil)
        metric = per_pixel @ metric @ per_pixel.mH
    typical = acquisition.map_covariance
    if typical is not None:
        typical = (matrices @ typical.to(matrices) @ matrices.mH).mean((0, 1))
    return replace(
        acquisition,
        kspace=compressed,
        map_covariance=typical,
        coil_metric=metric,
        coil_maps=None if maps is None else _apply(matrices.to(maps), maps, axis),
        noise_std=noise_std,
        noise_covariance=covariance,
        remarks=(*acquisition.remarks, remark),
    )


def svd_matrix(kspace: CoilMapsSlice, coils: int) -> Complex[Tensor, "virtual coil"]:
    """Return the conjugate leading eigenvectors of Σ k kᴴ over the samples of one slice, the strongest first.

    The largest entry of each row is real and positive, which makes the matrix unique.
    """
    vectors = torch.linalg.eigh(scaled_gram(kspace.flatten(1))).eigenvectors
    rows = vectors.flip(-1)[:, :coils].mH
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))
    return (rows * (largest.conj() / largest.abs())).to(kspace)


def geometric_matrices(
    hybrid: Complex[Tensor, "coil position other"], coils: int
) -> Complex[Tensor, "position virtual coil"]:
    """Return one matrix per position, each turned so that virtual coils vary smoothly along the axis.

    Any unitary P leaves the energy of P M unchanged. From the strongest position outwards it is chosen to bring each
    matrix closest to its neighbour: with M₋ Mᴴ = U Σ Vᴴ, P = U Vᴴ (Zhang 2013).

    Parameters
    ----------
    hybrid : one slice, image along the second axis and k-space along the third
    """
    covariances = scaled_gram(hybrid.transpose(0, 1))  # on the CPU: many small steps follow
    half = WINDOW // 2
    local = pad(covariances, (0, 0, 0, 0, half, half)).unfold(0, WINDOW, 1).sum(-1)
    local = local + GLOBAL_SHARE * covariances.mean(0)
    matrices = torch.linalg.eigh(local).eigenvectors.flip(-1)[..., :coils].mH.contiguous()
    start, end = int(covariances.diagonal(dim1=-2, dim2=-1).real.sum(-1).argmax()), len(matrices)
    matrices[start] = _turned(matrices[start], svd_matrix(hybrid, coils).to(matrices))
    for position in range(start + 1, end):
        matrices[position] = _turned(matrices[position], matrices[position - 1])
    for position in range(start - 1, -1, -1):
        matrices[position] = _turned(matrices[position], matrices[position + 1])
    return matrices.to(hybrid)


def _turned(matrix: Tensor, target: Tensor) -> Tensor:
    """Return P · `matrix` with the unitary P that brings it closest to `target` (the Procrustes problem)."""
    u, _, vh = torch.linalg.svd(target @ matrix.mH)
    return u @ vh @ matrix


def _only_axis(acquisition: Acquisition) -> int:
    axes = fully_sampled_axes(acquisition.mask)
    if not axes:
        raise InputError(
            acquisition.source,
            "mask",
            "sampling that varies along y and along x",
            "a fully sampled axis for geometric coil compression; svd needs none",
        )
    return axes[0]


def _axis_first(tensor: Tensor, axis: int) -> Tensor:
    """Swap the last two axes where `axis` is the last, so that it becomes the one before."""
    return tensor.transpose(-2, -1) if axis == -1 else tensor


def _apply(matrices: Tensor, coils: Tensor, axis: int) -> Tensor:
    """Multiply coils ``(batch|1, coil, y, x)`` by matrices ``(batch, position|1, virtual, coil)`` along `axis`."""
    if matrices.shape[1] == 1:
        return (matrices[:, 0] @ coils.flatten(2)).unflatten(-1, coils.shape[2:])
    lines = _axis_first(coils, axis).transpose(1, 2)  # (batch, position, coil, other)
    return _axis_first((matrices @ lines).transpose(1, 2), axis).contiguous()
