"""Image quality against a reference: one definition of each number, with its region and range stated.

All metrics compare magnitudes in float64. The data range is the largest magnitude of the reference *slice*, whatever
the region; fastMRI's leaderboard takes that of the volume, which `data_range` allows. With it, and without a support,
`psnr`, `ssim` and `nmse` are those of fastMRI (tested against ``fastmri.evaluate``).

deepinv and torchmetrics know no region, and their definitions are others: 1e-8 inside the logarithm of the PSNR (which
ends at 80 dB), biased variances and reflected borders in the SSIM (on the images of the tests 5e-3 below these; 5e-4
above where the borders are left out).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mriinv.core.types import PerImage, Support
from mriinv.errors import InputError, require_kind

WINDOW = 7
K1, K2 = 0.01, 0.03

Images = Complex[Tensor, "batch y x"] | Float[Tensor, "batch y x"]


@dataclass(frozen=True)
class Metrics:
    """PSNR (dB), SSIM, NMSE and inflated SSIM of one slice, with the region and the data range that they refer to."""

    psnr: float
    ssim: float
    nmse: float
    ssim_legacy: float
    region: str
    data_range: str

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {"psnr": self.psnr, "ssim": self.ssim, "nmse": self.nmse, "ssim_legacy": self.ssim_legacy}

    def __str__(self) -> str:
        return f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}"


def psnr(
    image: Images, reference: Images, support: Support | None = None, data_range: float | PerImage | None = None
) -> PerImage:
    """Return 10·log10(L² / mean (|x| − |x_ref|)²) in dB per image (fastMRI).

    Parameters
    ----------
    image, reference : complex or real ``(batch, y, x)``, in the same units, on any device each
    support : bool ``(batch|1, y, x)``, the region that the mean runs over; None for the whole image
    data_range : L; the largest |x_ref| of each slice when None

    Returns
    -------
    float64 ``(batch,)``; infinite where the images agree exactly

    Raises
    ------
    InputError : shapes that differ, an empty support, or a reference that is zero everywhere
    """
    x, y, limit = _prepare(image, reference, data_range)
    error = _mean((x - y).square(), _region(support, x))
    return 10 * torch.log10(limit.square() / error)


def ssim(
    image: Images, reference: Images, support: Support | None = None, data_range: float | PerImage | None = None
) -> PerImage:
    """Return the mean structural similarity per image: uniform 7×7 window, K₁ = 0.01, K₂ = 0.03 (fastMRI).

    Equal to ``skimage.metrics.structural_similarity(reference, image, data_range=L)`` on magnitudes: unbiased
    variances, and only windows that lie inside the image. `support` selects the centres of the windows over which
    the map is averaged. Parameters, result and errors are those of `psnr`; an image must be at least 7×7.

    Source: Wang et al., IEEE TIP 13 (2004) 600, eq. 13.
    """
    x, y, limit = _prepare(image, reference, data_range)
    if min(x.shape[-2:]) < WINDOW:
        raise InputError("ssim", "image", f"shape {tuple(x.shape)}", f"at least {WINDOW} × {WINDOW} pixels")
    mean_x, mean_y, xx, yy, xy = (avg_pool2d(t, WINDOW, stride=1) for t in (x, y, x * x, y * y, x * y))
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x, var_y, cov = ((t - m) * unbiased for t, m in ((xx, mean_x**2), (yy, mean_y**2), (xy, mean_x * mean_y)))
    c1, c2 = ((k * limit[:, None, None]).square() for k in (K1, K2))
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    edge = WINDOW // 2
    return _mean(similarity, _region(support, x)[:, edge:-edge, edge:-edge])


def nmse(image: Images, reference: Images, support: Support | None = None) -> PerImage:
    """Return ‖|x| − |x_ref|‖² / ‖|x_ref|‖² per image over the support (fastMRI); see `psnr`."""
    x, y, _ = _prepare(image, reference, None)
    region = _region(support, x)
    return _mean((x - y).square(), region) / _mean(y.square(), region)


def ssim_legacy(
    image: Images, reference: Images, support: Support | None = None, data_range: float | PerImage | None = None
) -> PerImage:
    """Return `ssim` with twice the data range, as papers report it that left the range to older scikit-image.

    That took 2 for floating-point images, whatever they held: of images divided by their largest value, twice the
    range, which doubles K₁ and K₂. The numbers come out higher than those of `ssim`; never compare the two.
    """
    return ssim(image, reference, support, 2 * _prepare(image, reference, data_range)[2])


def evaluate(
    image: Images, reference: Images, support: Support | None = None, volume_maximum: float | None = None
) -> Metrics:
    """Return the metrics of one slice ``(1, y, x)``; `volume_maximum` replaces the slice's own data range.

    `support`, that of the operator or of a result, is where they are taken: air, zero in both images, makes them better
    by several dB, and no two regions can be compared.
    """
    if image.ndim == 3 and len(image) > 1:
        raise InputError("evaluate", "image", f"{len(image)} slices", "one; psnr, ssim and nmse take several")
    return Metrics(
        psnr=float(psnr(image, reference, support, volume_maximum)),
        ssim=float(ssim(image, reference, support, volume_maximum)),
        nmse=float(nmse(image, reference, support)),
        ssim_legacy=float(ssim_legacy(image, reference, support, volume_maximum)),
        region="whole image" if support is None else "support",
        data_range=f"maximum of the reference {'slice' if volume_maximum is None else 'volume'}",
    )


def _prepare(image: Tensor, reference: Tensor, data_range: float | Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    for name, one in (("image", image), ("reference", reference)):
        require_kind("metrics", name, one, Tensor, "a tensor (batch, y, x)")
    if image.shape != reference.shape or image.ndim != 3 or image.numel() == 0:
        found = f"shape {tuple(image.shape)} and a reference of shape {tuple(reference.shape)}"
        raise InputError("metrics", "image", found, "two equal shapes (batch, y, x)")
    x, y = image.detach().abs().double(), reference.detach().abs().double().to(image.device)
    limit = y.amax((1, 2)) if data_range is None else torch.as_tensor(data_range, dtype=y.dtype, device=y.device)
    if limit.shape not in ((), (1,), (len(y),)):
        raise InputError("metrics", "data_range", f"shape {tuple(limit.shape)}", f"one number, or {(len(y),)}")
    limit = limit.expand(len(y))
    if not limit.isfinite().all():
        raise InputError("metrics", "reference", "NaN or infinity", "an image")
    if not (limit > 0).all():
        raise InputError("metrics", "reference", "a largest magnitude that is not above 0", "an image")
    return x, y, limit


def _region(support: Tensor | None, image: Tensor) -> Tensor:
    if support is None:
        return torch.ones_like(image, dtype=torch.bool)
    if support.ndim != 3 or support.shape[-2:] != image.shape[-2:] or support.shape[0] not in (1, len(image)):
        raise InputError("metrics", "support", f"shape {tuple(support.shape)}", f"{(1, *image.shape[-2:])}")
    return support.bool().to(image.device).expand_as(image)


def _mean(values: Tensor, region: Tensor) -> Tensor:
    count = region.sum((1, 2))
    if not (count > 0).all():
        raise InputError("metrics", "support", "an empty region", "at least one pixel away from the edge")
    return torch.where(region, values, 0).sum((1, 2)) / count
