"""From what a reader gives to what an operator takes: whiten, estimate the noise, crop, compress the coils."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from mriinv.core.component import StrictModel
from mriinv.data.acquisition import Acquisition
from mriinv.data.compression import Method, compress_coils
from mriinv.data.maps import WHITENED, with_maps
from mriinv.data.masks import fully_sampled_axes
from mriinv.data.noise_level import with_noise_std
from mriinv.data.suspicions import suspicions
from mriinv.errors import InputError, require_kind
from mriinv.numerics.fft import fftc, ifftc
from mriinv.numerics.images import centre_crop

WHITE = 1e-3  # largest deviation of a covariance from a multiple of I that is left alone, relative to it
CONDITION = 1e8  # of a covariance, above which coils without noise of their own would be blown up

Size = Annotated[int, Field(ge=1)]


class Preparation(StrictModel):
    """What to do with a scan before it is reconstructed."""

    maps: Path | None = Field(
        None, description="file with coil maps of the coils of the scan; none: its own or ESPIRiT"
    )
    whiten: bool = Field(True, description="make noise equal and independent in all coils, where it was measured")
    crop: tuple[Size, Size] | None = Field(None, description="centre (y, x) of the image to keep; none: all of it")
    coils: int | None = Field(None, ge=1, description="number of virtual coils; none: the coils as they are")
    compression: Method = Field("svd", description="svd, or geometric, which needs a fully sampled axis")

    def cropped(self, matrix: Sequence[int]) -> tuple[int, int]:
        """Return the size (y, x) of fully sampled k-space of size `matrix` after the crop."""
        y, x = matrix
        return (y, x) if self.crop is None else (min(y, self.crop[0]), min(x, self.crop[1]))


DEFAULT = Preparation()


def prepare_acquisition(acquisition: Acquisition, preparation: Preparation = DEFAULT) -> Acquisition:
    """Take coil maps from a file, whiten, find the noise level, crop and compress, in this order.

    Each step that changes the data adds a remark, and changes the maps alike. `suspicions` are remarked first.

    The noise level is found where there is background, which the crop takes away; neither crop nor compression
    changes it, and one that is known is never replaced. Compression orders coil combinations by energy, so noise must
    be equal in them; the crop comes before it, as what lies outside needs no virtual coils.

    Raises
    ------
    InputError : k-space that is not finite; see also `with_maps`, `whiten` and `compress_coils`
    """
    require_kind("prepare_acquisition", "acquisition", acquisition, Acquisition, "an Acquisition")
    require_kind("prepare_acquisition", "preparation", preparation, Preparation, "a Preparation")
    if not acquisition.kspace.isfinite().all():
        raise InputError(acquisition.source, "kspace", "NaN or infinity", "finite values")
    acquisition = acquisition.remarked(*suspicions(acquisition))
    if preparation.maps is not None:
        acquisition = with_maps(acquisition, preparation.maps)
    if preparation.whiten:
        acquisition = whiten(without_dead_coils(acquisition))
    acquisition = with_noise_std(acquisition)
    if preparation.crop is not None:
        acquisition = crop(acquisition, preparation.crop)
    if preparation.coils is not None:
        acquisition = compress_coils(acquisition, preparation.coils, preparation.compression)
    return acquisition


def without_dead_coils(acquisition: Acquisition) -> Acquisition:
    """Leave out coils that have neither noise, by a covariance that was measured, nor data."""
    covariance = acquisition.noise_covariance
    if covariance is None:
        return acquisition
    dead = (covariance == 0).all(0) & (acquisition.kspace == 0).all(-1).all(-1).all(0).to(covariance.device)
    if not dead.any() or dead.all():
        return acquisition
    kept = torch.nonzero(~dead)[:, 0]
    maps, typical = acquisition.coil_maps, acquisition.map_covariance
    numbers = ", ".join(map(str, torch.nonzero(dead)[:, 0].tolist()))
    alive = replace(
        acquisition,
        kspace=acquisition.kspace[:, kept.to(acquisition.kspace.device)],
        coil_maps=None if maps is None else maps[:, kept.to(maps.device)],
        noise_std=None,  # as of all coils; that of these follows from the covariance
        noise_covariance=covariance[kept][:, kept],
        map_covariance=None if typical is None else typical[kept][:, kept],
    )
    return alive.remarked(f"left out without noise and without data: coil {numbers}")


def whiten(acquisition: Acquisition) -> Acquisition:
    """Make noise equal and independent in all coils: k' = s Ψ^(−1/2) k, with Ψ = E[n nᴴ] and s² = tr Ψ / coils.

    The Hermitian square root changes the coils least, and s keeps the units: the noise has variance s² in each coil
    afterwards, ``noise_std`` s/√2. Coil maps are multiplied by the same matrix and not renormalised: b' = F(c' x) + n'
    has the same image x as before, and least squares in b' is the most likely x. Their sum of squares is then not 1
    but near it. Maps that are estimated from b' have a sum of squares of 1, and
    the image another intensity, which `Operator.reference_image` gives the reference too. Without Ψ nothing is done.

    Raises
    ------
    InputError : Ψ is not finite, not Hermitian, or has a condition number above 1e8, as with a dead coil

    References
    ----------
    Pruessmann et al., Advances in sensitivity encoding, Magn. Reson. Med. 46:638 (2001), on noise decorrelation.
    """
    if acquisition.noise_covariance is None:
        return acquisition
    covariance = acquisition.noise_covariance.detach().cpu().to(torch.complex128)
    values, vectors = _eigen(acquisition.source, covariance)
    variance = values.mean()
    known = replace(acquisition, noise_covariance=None, noise_std=float(variance / 2) ** 0.5)
    relative = covariance / variance
    if (relative - torch.eye(len(relative))).abs().max() < WHITE:
        return known
    matrix = ((vectors * (variance / values).sqrt()) @ vectors.mH).to(acquisition.kspace)
    maps, typical = acquisition.coil_maps, acquisition.map_covariance
    known = replace(
        known,
        kspace=(matrix @ acquisition.kspace.flatten(2)).view_as(acquisition.kspace),
        coil_maps=None if maps is None else (matrix.to(maps) @ maps.flatten(2)).view_as(maps),
        map_covariance=None if typical is None else matrix.to(typical) @ typical @ matrix.to(typical).mH,
        coil_metric=relative.to(acquisition.kspace)[None, None, None],
    )
    std = relative.diagonal().real.sqrt()
    correlation = (relative / torch.outer(std, std)).abs().fill_diagonal_(0).max()
    return known.remarked(
        f"{WHITENED}: it was {std.min():.2f} to {std.max():.2f} times the mean, "
        f"with correlations up to {correlation:.2f}",
    )


def crop(acquisition: Acquisition, shape: tuple[int, int]) -> Acquisition:
    """Keep the centre (y, x) of the image, by a transform to the image and back along each axis.

    That is possible where an axis is fully sampled; an axis along which the mask varies, or with zero padding around
    the samples, is left as it is: there the reconstructed image has to be cropped (`centre_crop`). An axis
    smaller than asked for is left too. Pixels keep their values and their place, noise its standard deviation, as the
    transforms are orthonormal; maps and reference are cropped alike, and `geometry` holds for the centre pixel anyway.
    """
    before = (acquisition.kspace.shape[-2], acquisition.kspace.shape[-1])
    larger = tuple(axis for axis in (-2, -1) if before[axis] > shape[axis])
    smaller = before[0] < shape[0] or before[1] < shape[1]
    axes = tuple(axis for axis in larger if axis in fully_sampled_axes(acquisition.mask))
    remarks = [
        f"k-space is not fully sampled along {name}: there it is the reconstructed image that is cropped"
        for axis, name in ((-2, "y"), (-1, "x"))
        if axis in larger and axis not in axes
    ]
    if smaller:
        asked = f"the crop to {shape[0]}×{shape[1]}"
        remarks.append(f"the image is {before[0]}×{before[1]} (y×x), smaller than {asked}, and is not extended")
    if axes:
        kept = (shape[0] if -2 in axes else before[0], shape[1] if -1 in axes else before[1])
        maps, reference, metric = acquisition.coil_maps, acquisition.reference, acquisition.coil_metric
        if metric is not None:
            metric = centre_crop(metric.movedim((1, 2), (-2, -1)), kept).movedim((-2, -1), (1, 2))
        acquisition = replace(
            acquisition,
            kspace=fftc(centre_crop(ifftc(acquisition.kspace, axes), kept), axes),
            mask=centre_crop(acquisition.mask, kept),
            coil_maps=centre_crop(maps, kept),
            reference=centre_crop(reference, kept),
            coil_metric=metric,
        )
        remarks.insert(0, f"image cropped from {before[0]}×{before[1]} to {kept[0]}×{kept[1]} (y×x)")
    return acquisition.remarked(*remarks)


def _eigen(source: str, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues and eigenvectors of a covariance that can be inverted."""

    def refuse(found: str, expected: str) -> InputError:
        return InputError(source, "noise_covariance", found, expected)

    if not covariance.isfinite().all():
        raise refuse("NaN or infinity", "finite values")
    if (covariance - covariance.mH).abs().max() > WHITE * covariance.abs().max():
        raise refuse("a matrix that is not Hermitian", "E[n nᴴ] between coils")
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] * CONDITION < values[-1] or values[-1] <= 0:
        power = covariance.diagonal().real
        dead = [str(coil) for coil in torch.nonzero(power * CONDITION <= power.max())[:, 0].tolist()]
        found = f"no noise in coil {', '.join(dead)}" if dead else f"eigenvalues {values[0]:.2g} to {values[-1]:.2g}"
        raise refuse(
            found, "noise of its own in every coil; leave out dead coils, measure more noise samples, or do not whiten"
        )
    return values, vectors
