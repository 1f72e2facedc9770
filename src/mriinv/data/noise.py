"""The one place that draws complex Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def complex_noise(
    shape: Sequence[int], std: float, generator: torch.Generator, dtype: torch.dtype = torch.complex64
) -> Tensor:
    """Return white complex Gaussian noise with standard deviation `std` per real component (E|n|² = 2 std²).

    ``torch.randn`` of a complex dtype has half of that variance per component; hence one helper, used everywhere.
    """
    real = torch.empty((), dtype=dtype).real.dtype
    parts = torch.randn(*shape, 2, generator=generator, device=generator.device, dtype=real)
    return torch.view_as_complex(parts).mul_(std)
