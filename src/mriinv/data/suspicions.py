"""What looks wrong in k-space that can be reconstructed all the same."""

from __future__ import annotations

import torch

from mriinv.data.acquisition import Acquisition

NOISE_PEAK = 10  # largest over median magnitude of a coil: noise stays near 5, an object has hundreds
FEWEST = 1024  # samples of a coil that this holds for
FLAT = 2  # largest over median magnitude of k-space without a peak, as of a point
OFF_CENTRE = 0.25  # of the matrix, by which the peak of centred k-space never lies off its middle
CORNER = 2  # samples, within which a peak is in the corner


def suspicions(acquisition: Acquisition) -> tuple[str, ...]:
    """Return what looks wrong: coils without signal, data that are not centred, axes that may be mixed up."""
    kspace, found = acquisition.kspace.abs(), []
    coils, (y, x) = kspace.shape[1], kspace.shape[2:]
    samples = kspace.transpose(0, 1)[:, acquisition.mask.expand(len(kspace), y, x)]
    peak, median = samples.amax(1), samples.median(1).values
    for what, chosen in (
        ("zero everywhere", peak == 0),
        ("noise without signal", (peak > FLAT * median) & (peak < NOISE_PEAK * median) & (samples.shape[1] >= FEWEST)),
    ):
        if chosen.any():
            numbers = torch.nonzero(chosen)[:, 0].tolist()
            found.append(f"{len(numbers)} of {coils} coils hold {what}: {', '.join(map(str, numbers))}")
    row, column = divmod(int(kspace.square().sum((0, 1)).argmax()), x)
    peaked = bool((peak > FLAT * median).any())
    if peaked and (abs(row - y // 2) > OFF_CENTRE * y or abs(column - x // 2) > OFF_CENTRE * x):
        place, middle = (row, column), (y // 2, x // 2)
        corner = all(min(at, size - at) <= CORNER for at, size in zip(place, (y, x), strict=True))
        question = "is an fftshift missing?" if corner else "are they k-space, and centred?"
        found.append(f"the data are largest at {place}, far from their middle {middle}: {question}")
    if coils > min(y, x):
        found.append(f"there are {coils} coils of {y}×{x} samples: is the coil axis before y and x?")
    return tuple(found)
