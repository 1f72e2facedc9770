"""Sampling masks for retrospective undersampling: bool ``(1, y, x)`` in 2D, ``(1, 1, x)`` for whole columns.

The acceleration is grid locations over sampled locations, the calibration centre included; every mask here holds the
nearest possible number of samples exactly, instead of holding it on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from mriinv.core.types import Mask
from mriinv.errors import InputError, UnknownNameError

CENTRE_RADIUS = 0.5  # of the Poisson disc at k = 0, in grid steps: with the dither below, the centre is fully sampled
DITHER = 0.5  # half a grid step: without it, the few distances that a grid knows show as rings of constant density
TRIM = 0.005  # excess of samples at which the bisection stops; the rest is dropped one by one
CALIBRATION_WIDTH = 24
CALIBRATION_FRACTION = 0.08  # of the lines (fastMRI at fourfold acceleration)
CALIBRATION_LINES = 16  # at least: with fewer, ESPIRiT with its usual kernel loses signal
CALIBRATION_SHARE = 2 / 3  # of all samples that a default calibration region may take


def poisson_disc_mask(
    shape: tuple[int, int], acceleration: float, generator: torch.Generator, calibration: int = CALIBRATION_WIDTH
) -> Mask:
    """Return a variable-density Poisson-disc mask, corners of k-space included.

    Locations are visited in random order and kept unless an earlier one is closer than that one's radius
    r(k) = 0.5 + s·k grid steps, dithered by ±0.5; k is 0 in the centre and 1 in the corners. Bisection finds the slope
    s that gives the acceleration.

    Parameters
    ----------
    shape : (y, x)
    acceleration : locations over samples, calibration region included; met to the nearest sample
    generator : source of randomness; the same seed gives the same mask
    calibration : width of the fully sampled square in the centre, in samples; 0 for none

    Returns
    -------
    bool ``(1, y, x)``

    Raises
    ------
    InputError : values out of range, or a calibration region with more samples than the acceleration allows
    """
    y, x = shape
    _check_shape(shape)
    samples = _count(y * x, acceleration)
    _check_calibration(calibration, min(y, x), calibration**2, samples)
    centre = np.zeros((y, x), dtype=bool)
    centre[_centre(y, calibration), _centre(x, calibration)] = True

    rows, columns = np.meshgrid(np.arange(y) - y // 2, np.arange(x) - x // 2, indexing="ij")
    k = np.sqrt(((2 * rows / y) ** 2 + (2 * columns / x) ** 2) / 2).ravel()
    order = torch.randperm(y * x, generator=generator, device=generator.device).cpu().numpy()
    dither = DITHER * (2 * torch.rand(y * x, generator=generator, device=generator.device).cpu().double().numpy() - 1)

    wanted = samples - calibration**2
    outside = ~centre.ravel()

    def throw(slope: float) -> np.ndarray:
        accepted = _throw_darts(shape, order, CENTRE_RADIUS + slope * k + dither)
        return accepted[outside[accepted]]

    kept = _steepest(throw, wanted, slack=int(TRIM * samples), limit=2.0 * max(shape))
    mask = centre.ravel()
    mask[kept[:wanted]] = True
    return torch.from_numpy(mask.reshape(1, y, x))


def _steepest(throw: Callable[[float], np.ndarray], wanted: int, slack: int, limit: float) -> np.ndarray:
    """Return the locations for the largest slope that still gives `wanted` of them, or at most `slack` more."""
    lower, upper, best = 0.0, 1.0, throw(0.0)
    while upper < limit and len(trial := throw(upper)) >= wanted:
        lower, upper, best = upper, 2 * upper, trial
    for _ in range(25):
        if len(best) <= wanted + slack:
            break
        middle = (lower + upper) / 2
        trial = throw(middle)
        if len(trial) >= wanted:
            lower, best = middle, trial
        else:
            upper = middle
    return best


def _throw_darts(shape: tuple[int, int], order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Visit flat locations in `order`; keep each that no kept one, within that one's own `radius`, has blocked."""
    y, x = shape
    radius = np.clip(radius, 0, max(shape))
    limits = np.ceil(radius**2).astype(int)  # squared distances are whole: d < r is d² < ceil(r²)
    pad = math.isqrt(int(limits.max()))
    width = x + 2 * pad
    padded = (order // x + pad) * width + order % x + pad
    discs: dict[int, list[tuple[int, bytes]]] = {}
    blocked = bytearray((y + 2 * pad) * width)
    accepted = []
    for index, position, limit in zip(order.tolist(), padded.tolist(), limits[order].tolist(), strict=True):
        if not blocked[position]:
            accepted.append(index)
            if limit not in discs:
                discs[limit] = _disc_rows(limit, width)
            for start, run in discs[limit]:
                blocked[position + start : position + start + len(run)] = run
    return np.array(accepted, dtype=int)


def _disc_rows(limit: int, width: int) -> list[tuple[int, bytes]]:
    """Return the rows of the disc d² < `limit` as offset and bytes to write in an image `width` wide."""
    if limit <= 1:
        return []  # blocks itself only, and it is not visited again
    reach = math.isqrt(limit - 1)
    halves = [(row, math.isqrt(limit - 1 - row * row)) for row in range(-reach, reach + 1)]
    return [(row * width - half, bytes([1]) * (2 * half + 1)) for row, half in halves]


def random_line_mask(shape: tuple[int, int], acceleration: float, generator: torch.Generator, calibration: int) -> Mask:
    """Return a mask of whole columns: `calibration` central ones and others drawn uniformly (fastMRI "random").

    Where fastMRI keeps each outer line with probability p = (N/R − N_low)/(N − N_low), this draws exactly the
    expected number of them without replacement.

    Parameters
    ----------
    shape : (y, x); columns are the phase-encoding lines
    acceleration : R = N lines over lines kept, calibration lines included; met to the nearest line
    generator : source of randomness
    calibration : N_low, number of adjacent lines in the centre; 0 for none

    Returns
    -------
    bool ``(1, 1, x)``

    Raises
    ------
    InputError : values out of range, or more calibration lines than the acceleration allows
    """
    mask, outer, wanted = _calibration_lines(shape, acceleration, calibration)
    chosen = torch.randperm(len(outer), generator=generator, device=generator.device)[:wanted].cpu()
    mask[outer[chosen]] = True
    return mask[None, None]


def equispaced_line_mask(
    shape: tuple[int, int], acceleration: float, generator: torch.Generator, calibration: int
) -> Mask:
    """Return a mask of whole columns: `calibration` central ones and others equally spaced (fastMRI "equispaced").

    The spacing outside the centre is (N − N_low)/(N/R − N_low), rounded line by line, with a random offset.
    Parameters, result and errors are those of `random_line_mask`.
    """
    mask, outer, wanted = _calibration_lines(shape, acceleration, calibration)
    offset = float(torch.rand((), generator=generator, device=generator.device))
    chosen = ((torch.arange(wanted, dtype=torch.float64) + offset) * (len(outer) / max(wanted, 1))).long()
    mask[outer[chosen]] = True
    return mask[None, None]


def _calibration_lines(
    shape: tuple[int, int], acceleration: float, calibration: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the mask ``(x,)`` with its centre set, the outer lines, and how many of these to keep."""
    _check_shape(shape)
    x = shape[1]
    lines = _count(x, acceleration)
    _check_calibration(calibration, x, calibration, lines)
    mask = torch.zeros(x, dtype=torch.bool)
    mask[_centre(x, calibration)] = True
    return mask, torch.nonzero(~mask)[:, 0], lines - calibration


MASKS: dict[str, Callable[[tuple[int, int], float, torch.Generator, int], Mask]] = {
    "poisson-2d": poisson_disc_mask,
    "random-1d": random_line_mask,
    "equispaced-1d": equispaced_line_mask,
}


def make_mask(
    name: str, shape: tuple[int, int], acceleration: float, calibration: int | None = None, seed: int = 0
) -> Mask:
    """Return the mask called `name`.

    Parameters
    ----------
    name : one of `MASKS`
    shape : (y, x)
    acceleration : locations over samples, calibration included
    calibration : width of the central square (2D) or number of central lines (1D); None takes 24, or 8 % of the
        lines, and less where that would be more than two thirds of all samples
    seed : from 0 to 2^63 - 1

    Raises
    ------
    UnknownNameError : no such mask
    InputError : a value out of range, or an acceleration that cannot be reached
    """
    if name not in MASKS:
        raise UnknownNameError("mask", name, MASKS)
    if not 0 <= seed < 2**63:
        raise InputError("mask", "seed", str(seed), "0 to 2^63 - 1")
    _check_shape(shape)
    if calibration is None:
        calibration = _default_calibration(name, shape, acceleration)
    return MASKS[name](shape, acceleration, torch.Generator().manual_seed(seed), calibration)


def _default_calibration(name: str, shape: tuple[int, int], acceleration: float) -> int:
    y, x = shape
    if name == "poisson-2d":
        return min(CALIBRATION_WIDTH, y, x, math.isqrt(int(CALIBRATION_SHARE * _count(y * x, acceleration))))
    wanted = max(round(CALIBRATION_FRACTION * x), CALIBRATION_LINES)
    return min(wanted, int(CALIBRATION_SHARE * _count(x, acceleration)))


def _centre(length: int, width: int) -> slice:
    """Return the `width` samples around k = 0, which the centred transform puts at ``length // 2``."""
    start = length // 2 - width // 2
    return slice(start, start + width)


def _count(locations: int, acceleration: float) -> int:
    """Return the number of samples nearest to the acceleration."""
    if not 1 <= acceleration <= locations:
        raise InputError("mask", "acceleration", f"{acceleration:g}", f"1 to {locations}, the number of locations")
    return round(locations / acceleration)


def _check_shape(shape: tuple[int, int]) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("mask", "shape", str(tuple(shape)), "two positive sizes (y, x)")


def _check_calibration(calibration: int, length: int, needed: int, samples: int) -> None:
    if not 0 <= calibration <= length:
        raise InputError("mask", "calibration", str(calibration), f"0 to {length}")
    if needed > samples:
        raise InputError(
            "mask",
            "calibration",
            f"{calibration}, which takes {needed} samples",
            f"at most the {samples} samples that the acceleration leaves; lower one of the two",
        )
