"""How strong the noise is, from the data themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from mriinv.core.types import KSpace, Mask
from mriinv.data.acquisition import Acquisition, level_of
from mriinv.data.masks import fully_sampled_axes
from mriinv.numerics.fft import ifftc
from mriinv.numerics.spectral import scaled_gram

GROUP = 32  # neighbouring samples that are quiet or not together
MEDIAN = (1 - 1 / (9 * (GROUP // 2))) ** 3  # of the power of noise in half a group, over its mean
FEWEST = 8  # groups
QUIET = 0.05  # fraction of the groups
FLAT = 1.2  # a wider set of groups has at most this times the power of the quiet ones, where both hold noise only
NOISELESS = 1e-6  # of the root mean square sample: the rounding of single precision
# by the number of fully sampled axes: where it is quiet, and the fraction of the groups that should be about as quiet
WHERE = (
    ("outer k-space", 0.25),
    ("background along the fully sampled axis", 0.1),
    ("background of the coil images", 0.1),
)


class NoiseEstimate(NamedTuple):
    """Standard deviation per real component of a k-space sample, and in words where it was found."""

    std: float
    method: str


def with_noise_std(acquisition: Acquisition) -> Acquisition:
    """Return an acquisition with its noise level: known, of the covariance, or estimated for each slice and remarked.

    Slices that give no estimate, such as empty ones, take the root mean square of those that do.
    """
    if acquisition.noise_std is not None:
        return acquisition
    if acquisition.noise_covariance is not None:
        return replace(acquisition, noise_std=level_of(acquisition.noise_covariance))
    masks = acquisition.mask.expand(len(acquisition.kspace), -1, -1)
    slices = (Acquisition(one[None], mask[None]) for one, mask in zip(acquisition.kspace, masks, strict=True))
    estimates = [estimate_noise_std(one) for one in slices]
    found = [estimate for estimate in estimates if estimate is not None]
    if not found:
        return acquisition.remarked("noise level not in the file and not to be found in the data")
    usual = math.sqrt(fmean(estimate.std**2 for estimate in found))
    levels = [usual if estimate is None else estimate.std for estimate in estimates]
    low, high = f"{min(levels):.3g}", f"{max(levels):.3g}"
    methods = "; ".join(dict.fromkeys(estimate.method for estimate in found))
    remark = f"noise level not in the file: estimated as {low if low == high else f'{low} to {high}'} ({methods})"
    return replace(acquisition, noise_std=torch.tensor(levels, dtype=torch.float64)).remarked(remark)


def estimate_noise_std(acquisition: Acquisition) -> NoiseEstimate | None:
    """Estimate the noise level, one for all slices, in the quietest places, where the least signal adds to it.

    Axes that are fully sampled are transformed to the image, whose background is free of signal. Samples are taken
    in groups of neighbours. In each coil, one half of each group says which groups are quiet and the other half, whose
    noise is independent, says how strong their noise is: choosing causes no bias. What is left is signal, so the
    result is rather too high than too low. The variance is the mean over coils, those without any data left out.

    Where even the quiet groups differ in power, signal reaches them all. In outer k-space, the weakest principal
    component of the coils holds little of it, and its noise is taken instead: that is right when noise is equal and
    independent in all coils and low otherwise. Where it is clearly less than that of quiet groups that agree, they may
    still hold signal, and `method` says so. Filters that the scanner applied to k-space lower an estimate from outer
    k-space.

    Returns
    -------
    NoiseEstimate, or None when there is no noise above rounding or there are too few samples to tell
    """
    top, bottom, left, right = acquisition.extent  # without padding, which would hide that an axis is fully sampled
    kspace = acquisition.kspace[:, (acquisition.kspace != 0).any(3).any(2).any(0), top:bottom, left:right]
    mask = acquisition.mask.expand(len(kspace), *acquisition.kspace.shape[-2:])[:, top:bottom, left:right]
    samples = int(mask.sum())
    if samples < len(mask) * FEWEST * GROUP or not kspace.shape[1]:
        return None
    axes = fully_sampled_axes(mask)
    values = ifftc(kspace, axes) if axes else kspace
    method, wider = WHERE[len(axes)]
    variance, flat = _floor(_group_powers(values, mask), wider)
    if not axes and kspace.shape[1] > 1:
        weakest, quiet = _floor(_group_powers(_weakest_component(values), mask), wider)
        if not flat and weakest < variance:
            variance, flat, method = weakest, quiet, f"{method}, weakest component of the coils"
        else:  # signal may be as strong everywhere; pure noise has a weakest component too (Marchenko and Pastur 1967)
            least = (1 - math.sqrt(min(kspace.shape[1] / samples, 1.0))) ** 2
            flat = flat and FLAT * weakest >= least * variance
    if not flat:
        method += "; signal may reach everywhere, so this is rather an upper bound"
    mean = float(torch.linalg.vector_norm(kspace)) ** 2 / (samples * kspace.shape[1])
    return None if variance <= NOISELESS**2 * mean else NoiseEstimate(math.sqrt(variance / 2), method)


def _group_powers(values: KSpace, mask: Mask) -> Float[Tensor, "coil group 2"]:
    """Return E|n|² over the even and over the odd samples of each group, groups of all images together."""
    y, x = values.shape[-2:]
    edge = math.ceil(math.sqrt(GROUP * mask.numel() / int(mask.sum())))  # of a block with one group in it on average
    rows, columns = torch.arange(y, device=mask.device) // edge, torch.arange(x, device=mask.device) // edge
    blocks = rows[:, None] * (x // edge + 1) + columns
    powers = []
    for image, sampled in zip(values, mask, strict=True):
        order = blocks[sampled].argsort(stable=True)
        power = image[:, sampled].abs().square()[:, order[: len(order) // GROUP * GROUP]]
        powers.append(power.unflatten(1, (-1, GROUP // 2, 2)).mean(2))
    return torch.cat(powers, 1)


def _floor(powers: Float[Tensor, "coil group 2"], wider: float) -> tuple[float, bool]:
    """Return the power of the quiet groups, and whether the fraction `wider` of all groups is about as quiet.

    The median over groups: where an edge runs through a group, its halves differ. It is brought to the mean that the
    power of noise has, which in a half is distributed as χ² (Wilson and Hilferty 1931, doi:10.1073/pnas.17.12.684).
    """
    order = powers.argsort(1).flip(-1)  # groups ranked by their other half
    ranked = powers.gather(1, order)
    quiet, more = (
        float(ranked[:, : max(1, int(share * powers.shape[1]))].quantile(0.5, dim=1).mean()) for share in (QUIET, wider)
    )
    return quiet / MEDIAN, more <= FLAT * quiet


def _weakest_component(values: KSpace) -> Complex[Tensor, "batch 1 y x"]:
    """Return the coil combination with the least energy that there is, one for all, complex ``(batch, 1, y, x)``.

    Of coils that are sums of others some combinations are empty but for rounding.
    """
    energies, vectors = torch.linalg.eigh(scaled_gram(values.transpose(0, 1).flatten(1).to(torch.complex128)))
    vector = vectors[:, int((energies <= NOISELESS**2 * energies.mean()).sum())]
    return (vector.conj().to(values)[:, None, None] * values).sum(1, keepdim=True)
