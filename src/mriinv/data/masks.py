"""Sampling masks for retrospective undersampling: bool ``(1, y, x)`` in 2D, ``(1, 1, x)`` for whole columns.

The acceleration is grid locations over sampled locations, the calibration centre included; every mask here holds the
nearest possible number of samples exactly, instead of holding it on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch

from mriinv.core.types import Mask
from mriinv.errors import InputError, UnknownNameError, is_size, shown
from mriinv.numerics.noise import seeded

CENTRE_RADIUS = 0.5  # of the Poisson disc at k = 0, in grid steps: with the dither below, the centre is fully sampled
DITHER = 0.5  # half a grid step: without it, the few distances that a grid knows show as rings of constant density
TRIM = 0.005  # excess of samples at which the bisection stops; the rest is dropped one by one
ACS_WIDTH = 24
ACS_FRACTION = 0.08  # of the lines (fastMRI at fourfold acceleration)
ACS_LINES = 16  # at least: with fewer, ESPIRiT with its usual kernel loses signal
ACS_SHARE = 2 / 3  # of all samples that a default calibration region may take
FEWEST_LINES = 12  # that it takes anyway where there are so many: twice the kernel of ESPIRiT


def poisson_disc_mask(
    shape: tuple[int, int],
    acceleration: float,
    generator: torch.Generator,
    acs: int = ACS_WIDTH,
    origin: tuple[int, int] | None = None,
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
    acs : width of the fully sampled square in the centre, in samples; 0 for none
    origin : location (y, x) of k = 0; the middle when None

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
    top, left = origin = origin or (y // 2, x // 2)
    _check_acs(acs, min(map(_room, shape, origin)), acs**2, samples)
    centre = np.zeros((y, x), dtype=bool)
    centre[_centre(top, acs), _centre(left, acs)] = True

    rows, columns = np.meshgrid(np.arange(y) - top, np.arange(x) - left, indexing="ij")
    k = np.sqrt(((2 * rows / y) ** 2 + (2 * columns / x) ** 2) / 2).ravel()
    order = torch.randperm(y * x, generator=generator, device=generator.device).cpu().numpy()
    uniform = torch.rand(y * x, generator=generator, dtype=torch.float32, device=generator.device)
    dither = DITHER * (2 * uniform.cpu().double().numpy() - 1)

    wanted = samples - acs**2
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


def random_line_mask(
    shape: tuple[int, int],
    acceleration: float,
    generator: torch.Generator,
    acs: int,
    origin: tuple[int, int] | None = None,
) -> Mask:
    """Return a mask of whole columns: `acs` central ones and others drawn uniformly (fastMRI "random").

    Where fastMRI keeps each outer line with probability p = (N/R − N_low)/(N − N_low), this draws exactly the
    expected number of them without replacement.

    Parameters
    ----------
    shape : (y, x); columns are the phase-encoding lines
    acceleration : R = N lines over lines kept, calibration lines included; met to the nearest line
    generator : source of randomness
    acs : N_low, number of adjacent lines in the centre; 0 for none
    origin : location (y, x) of k = 0; the middle when None

    Returns
    -------
    bool ``(1, 1, x)``

    Raises
    ------
    InputError : values out of range, or more calibration lines than the acceleration allows
    """
    mask, outer, wanted = _acs_lines(shape, acceleration, acs, origin)
    chosen = torch.randperm(len(outer), generator=generator, device=generator.device)[:wanted].cpu()
    mask[outer[chosen]] = True
    return mask[None, None]


def equispaced_line_mask(
    shape: tuple[int, int],
    acceleration: float,
    generator: torch.Generator,
    acs: int,
    origin: tuple[int, int] | None = None,
) -> Mask:
    """Return a mask of whole columns: `acs` central ones and others equally spaced (fastMRI "equispaced").

    The spacing outside the centre is (N − N_low)/(N/R − N_low), rounded line by line, with a random offset.
    Parameters, result and errors are those of `random_line_mask`.
    """
    mask, outer, wanted = _acs_lines(shape, acceleration, acs, origin)
    offset = float(torch.rand((), generator=generator, dtype=torch.float32, device=generator.device))
    chosen = ((torch.arange(wanted, dtype=torch.float64) + offset) * (len(outer) / max(wanted, 1))).long()
    mask[outer[chosen]] = True
    return mask[None, None]


def _acs_lines(
    shape: tuple[int, int], acceleration: float, acs: int, origin: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the mask ``(x,)`` with its centre set, the outer lines, and how many of these to keep."""
    _check_shape(shape)
    x = shape[1]
    lines = _count(x, acceleration)
    middle = x // 2 if origin is None else origin[1]
    _check_acs(acs, _room(x, middle), acs, lines)
    mask = torch.zeros(x, dtype=torch.bool)
    mask[_centre(middle, acs)] = True
    return mask, torch.nonzero(~mask)[:, 0], lines - acs


MASKS: dict[str, Callable[[tuple[int, int], float, torch.Generator, int, tuple[int, int] | None], Mask]] = {
    "poisson-2d": poisson_disc_mask,
    "random-1d": random_line_mask,
    "equispaced-1d": equispaced_line_mask,
}


def make_mask(
    name: str,
    shape: tuple[int, int],
    acceleration: float,
    acs: int | None = None,
    seed: int = 0,
    origin: tuple[int, int] | None = None,
) -> Mask:
    """Return the mask called `name`.

    Parameters
    ----------
    name : one of `MASKS`
    shape : (y, x)
    acceleration : locations over samples, calibration included
    acs : width of the central square (2D) or number of central lines (1D); None takes 24, or 8 % of the
        lines, at least 16, and less, down to 12, where that would be more than two thirds of all samples
    seed : from 0 to 2^63 - 1
    origin : location (y, x) of k = 0; the middle when None

    Raises
    ------
    UnknownNameError : no such mask
    InputError : a value out of range, or an acceleration that cannot be reached
    """
    if name not in MASKS:
        raise UnknownNameError("mask", name, MASKS)
    _check_shape(shape)
    if acs is None:
        acs = _default_acs(name, shape, acceleration, origin or (shape[0] // 2, shape[1] // 2))
    return MASKS[name](shape, acceleration, seeded("mask", seed), acs, origin)


class MaskKind(NamedTuple):
    """Masks that differ in their random numbers alone; the fields are parameters of `make_mask`."""

    name: str
    acceleration: float
    acs: int | None = None


def draw_mask(
    kind: MaskKind, grid: tuple[int, int], extent: tuple[int, int, int, int] | None = None, seed: int = 0
) -> Mask:
    """Return a mask on `grid` with the acceleration in a rectangle of it, around the k = 0 of the grid.

    Data that are padded with zeros were acquired in the rectangle only.

    Parameters
    ----------
    grid : (y, x)
    extent : first row, row after the last, first column, column after the last; None for all of the grid

    Returns
    -------
    bool ``(1, y, x)``, or ``(1, 1, x)`` for lines
    """
    return _drawn(kind, grid, extent or (0, grid[0], 0, grid[1]), seed).clone()


@lru_cache(maxsize=4)  # the slices of a volume share one mask
def _drawn(kind: MaskKind, grid: tuple[int, int], extent: tuple[int, int, int, int], seed: int) -> Mask:
    top, bottom, left, right = extent
    origin = (grid[0] // 2 - top, grid[1] // 2 - left)
    name, acceleration, acs = kind
    drawn = make_mask(name, (bottom - top, right - left), acceleration, acs, seed, origin)
    rows = (0, 0) if drawn.shape[1] == 1 else (top, grid[0] - bottom)
    return torch.nn.functional.pad(drawn, (left, grid[1] - right, *rows))


def fully_sampled_axes(mask: Mask) -> tuple[int, ...]:
    """Return which of the axes −2 (y) and −1 (x) the mask does not vary along, so that they can be transformed alone.

    Zero padding counts as variation: what lies beyond the samples was not measured.
    """
    return tuple(axis for axis in (-2, -1) if bool((mask == mask.narrow(axis, 0, 1)).all()))


def _default_acs(name: str, shape: tuple[int, int], acceleration: float, origin: tuple[int, int]) -> int:
    (y, x), room = shape, list(map(_room, shape, origin))
    if name == "poisson-2d":
        samples = _count(y * x, acceleration)
        affordable = max(math.isqrt(int(ACS_SHARE * samples)), min(FEWEST_LINES, math.isqrt(samples)))
        return min(ACS_WIDTH, *room, affordable)
    samples = _count(x, acceleration)
    wanted = max(round(ACS_FRACTION * x), ACS_LINES)
    return min(wanted, room[1], max(int(ACS_SHARE * samples), min(FEWEST_LINES, samples)))


def _centre(origin: int, width: int) -> slice:
    """Return the `width` samples around k = 0, which the centred transform puts at ``length // 2``."""
    start = origin - width // 2
    return slice(start, start + width)


def _room(length: int, origin: int) -> int:
    """Return the width of the widest centre that fits into `length` samples with k = 0 at `origin`."""
    return max(0, min(2 * origin + 1, 2 * (length - origin)))


def _count(locations: int, acceleration: float) -> int:
    """Return the number of samples nearest to the acceleration."""
    if not isinstance(acceleration, Real) or not 1 <= acceleration <= locations:
        expected = f"a number from 1 to {locations}, the number of locations"
        raise InputError("mask", "acceleration", shown(acceleration), expected)
    return round(locations / acceleration)


def _check_shape(shape: tuple[int, int]) -> None:
    if not is_size(shape, 1):
        raise InputError("mask", "shape", shown(shape), "two positive sizes (y, x)")


def _check_acs(acs: int, length: int, needed: int, samples: int) -> None:
    if not isinstance(acs, Integral) or not 0 <= acs <= length:
        raise InputError("mask", "acs", shown(acs), f"0 to {length}, an integer")
    if needed > samples:
        raise InputError(
            "mask",
            "acs",
            f"{acs}, which takes {needed} samples",
            f"at most the {samples} samples that the acceleration leaves; lower one of the two",
        )
