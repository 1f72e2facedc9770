"""Whether the standard deviation of posterior samples says how far their mean is from a reference.

Magnitudes are compared, as the phase of a reference that comes with a scan is not that of the coil maps. A reference
that is one more draw from the posterior differs from the mean of n draws by an error of variance s²(1 + 1/n), s their
standard deviation. If the magnitudes are Gaussian, z = error/(s√(1 + 1/n)) follows Student's t with n − 1 degrees of
freedom, since s is estimated from the same draws; the central interval of level p is |z| ≤ `quantile` (p, n). For many
draws that is the normal quantile: 1.645 for 90 %, 1.753 with 16 draws. Draws of one chain count as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from mriinv.core.problem import Samples, reference_scale
from mriinv.core.types import Image, Support
from mriinv.errors import require

LEVELS = (0.5, 0.68, 0.9, 0.95)


@dataclass(frozen=True)
class Deviations:
    """Errors of the mean magnitude of one slice, and what its samples say of them.

    The unit is the 99th percentile of |reference|.

    Attributes
    ----------
    error : mean magnitude − |reference|, of the pixels on the support
    std : standard deviation of the error if the reference were one more draw, s√(1 + 1/n)
    draws : n
    """

    error: Float[Tensor, " pixel"]
    std: Float[Tensor, " pixel"]
    draws: int

    @property
    def z(self) -> Float[Tensor, " pixel"]:
        """Normalised errors; 0 where the error is 0, infinite where only the standard deviation is."""
        return torch.where(self.error == 0, 0.0, self.error / self.std)


def deviations(samples: Samples, reference: Image, support: Support | None = None) -> Deviations:
    """Compare the draws of one image with a reference ``(1, y, x)`` in the same units; without a support everywhere.

    Raises
    ------
    InputError : more than one image, fewer than two draws, other shapes, no pixel, NaN or infinity
    """
    magnitude = samples.draws.flatten(0, 1).abs()
    region = torch.ones_like(reference, dtype=torch.bool) if support is None else support
    finite = bool(torch.isfinite(magnitude).all() and torch.isfinite(reference.abs()).all())
    require(
        "uncertainty",
        ("draws", f"shape {tuple(samples.draws.shape)}", len(magnitude) > 1, "at least two draws"),
        ("reference", f"shape {tuple(reference.shape)}", reference.shape == magnitude.shape[1:], "that of the draws"),
        ("reference", f"{len(reference)} images", len(reference) == 1, "one image"),
        ("support", f"shape {tuple(region.shape)}", region.shape == reference.shape, "that of the reference"),
        ("support", "no pixel", bool(region.any()), "at least one"),
        ("draws, reference", "NaN or infinity", finite, "finite values"),
    )
    error, std = samples.mean_magnitude - reference.abs(), samples.predicted_error
    scale = reference_scale(reference)
    return Deviations((error[region] / scale).cpu(), (std[region] / scale).cpu(), len(magnitude))


def predicted_psnr(samples: Samples, support: Support | None = None) -> float:
    """Return the PSNR (dB) that the draws of one image expect of their mean: 10·log10(L²/mean of s²(1 + 1/n)).

    L is the largest magnitude of the mean image. Infinite where the draws agree.
    """
    variance = samples.predicted_error.double().square()
    mean = float((variance if support is None else variance[support]).mean())
    return 10 * log10(float(samples.image.abs().max()) ** 2 / mean) if mean > 0 else float("inf")


def quantile(level: float, draws: int) -> float:
    """Return the largest |z| in the central interval of `level` for Gaussian magnitudes (Student's t)."""
    return float(stdtrit(draws - 1, 0.5 * (1 + level)))


def coverage(slices: Sequence[Deviations], level: float, limit: float | None = None) -> float:
    """Return the share of pixels inside their interval, each slice weighing the same.

    The interval is the Gaussian one of `level`, or |z| ≤ `limit`.
    """
    shares = [
        float((one.z.abs() <= (quantile(level, one.draws) if limit is None else limit)).double().mean())
        for one in slices
    ]
    return sum(shares) / len(shares)


def pooled_quantile(slices: Sequence[Deviations], level: float) -> float:
    """Return the smallest limit for which the `coverage` of |z| ≤ limit is at least `level`."""
    sizes, order = torch.cat([one.z.abs() for one in slices]).sort()
    weights = torch.cat([torch.full((len(one.error),), 1 / len(one.error), dtype=torch.float64) for one in slices])
    total = weights[order].cumsum(0)
    rank = torch.searchsorted(total, level * len(slices) * (1 - 1e-9))  # the sum is rounded
    return float(sizes[min(int(rank), len(sizes) - 1)])


def histogram(slices: Sequence[Deviations], edges: Float[Tensor, " edge"]) -> Float[Tensor, " bin"]:
    """Return the density of z between `edges`, each slice weighing the same; what lies outside is not in it."""
    total = torch.zeros(len(edges) - 1, dtype=torch.float64)
    for one in slices:
        z = one.z[one.z.isfinite()].double()
        total += torch.histogram(z, edges.double()).hist / len(one.error)
    return total / (len(slices) * edges.double().diff())


def correlation(slices: Sequence[Deviations]) -> float:
    """Return the correlation of the standard deviation with |error| over pixels, mean over slices; NaN if constant."""
    pairs = [torch.stack([one.std.double(), one.error.double().abs()]) for one in slices]
    return sum(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) / len(pairs)


def rms(slices: Sequence[Deviations]) -> tuple[float, float]:
    """Return root mean squares of standard deviation and error, each slice weighing the same."""
    means = [torch.stack([one.std, one.error]).double().square().mean(1) for one in slices]
    std, error = (torch.stack(means).mean(0)).sqrt().tolist()
    return std, error


def error_by_std(slices: Sequence[Deviations], bins: int = 12) -> Float[Tensor, "two bin"]:
    """Return root mean squares of standard deviation and error in groups of equally many pixels of similar std."""
    std, error = (torch.cat([getattr(one, name) for one in slices]).double() for name in ("std", "error"))
    std, order = std.sort()
    pairs = zip(std.tensor_split(bins), error[order].tensor_split(bins), strict=True)
    return torch.tensor([[float(values.square().mean().sqrt()) for values in pair] for pair in pairs if len(pair[0])]).T
