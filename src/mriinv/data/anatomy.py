"""An axial head slice from formulas: nested contours, a folded cortex, ventricles and deep nuclei."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mriinv.data.texture import smooth_field, uniform
from mriinv.data.tissue import TISSUE

HALF_WIDTH = 74.0  # mm, of the head
_HEIGHT = 45.0  # mm from the basal ganglia, level 0, to above the ventricles, level 1
_RADIUS = 100.0  # mm, of the dome that the head forms above its widest level
_WIDEST = 0.2
_KINSHIP = 30.0  # mm along which contours and folds become different ones

_ANGLES = 2048  # entries of the tables that hold contours as functions of the polar angle

# Paired structures of the deep brain: centre (v, |u|), half axes, tilt in radians.
# v runs from anterior to posterior, u from the midline outwards; the unit is the brain's half width.
_NUCLEI = (
    ("putamen", (-0.10, 0.36), (0.26, 0.085), 0.25),
    ("pallidum", (-0.06, 0.28), (0.16, 0.06), 0.35),
    ("thalamus", (0.16, 0.15), (0.20, 0.115), -0.45),
    ("caudate", (-0.37, 0.17), (0.15, 0.065), -0.3),
)
_HORNS = (((-0.40, 0.095), (0.18, 0.045), -0.4), ((0.40, 0.27), (0.2, 0.06), 0.4))


class Chance:
    """The random numbers of one head: the same at every height, but for fields that change smoothly along it.

    Parameters
    ----------
    seed : determines the head
    turn : height in radians over which two independent fields are mixed, cos·a + sin·b
    """

    def __init__(self, seed: int, turn: float = 0.0) -> None:
        self._seed, self._turn = seed, turn
        self._first, self._second = (torch.Generator().manual_seed(seed + offset) for offset in (0, 500_009))

    def part(self, number: int) -> Chance:
        """Return the random numbers of one part of the head, which do not depend on whether others are there."""
        return Chance(self._seed + 1_000_003 * number, self._turn)

    def uniform(self, low: float, high: float) -> float:
        """Return one number uniform in [low, high), the same at every height."""
        return uniform(low, high, self._first)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers that change along the head."""
        return self._mixed(lambda generator: torch.randn(shape, generator=generator, dtype=torch.float32))

    def field(self, shape: tuple[int, int], knots: int) -> Tensor:
        """Return a smooth field ``(y, x)`` that changes along the head."""
        return self._mixed(lambda generator: smooth_field(shape, knots, generator))

    def _mixed(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        first = draw(self._first)
        if self._turn == 0:
            return first
        return math.cos(self._turn) * first + math.sin(self._turn) * draw(self._second)


def procedural_tissues(
    shape: tuple[int, int],
    seed: int,
    level: float,
    height: float = 0.0,
    half_width: float | None = None,
    *,
    lesions: bool,
) -> tuple[Tensor, float]:
    """Return the tissue map of one slice of a random head, uint8 ``(1, y, x)``, and the head's half width in samples.

    Everything is a level set of smooth functions of head coordinates, so that nothing is tied to the grid.

    Parameters
    ----------
    seed : determines the head
    level : where the slice lies at height 0, from 0 at the basal ganglia to 1 above the ventricles
    height : of the slice in mm
    half_width : of the head in samples; None for a head that fills most of the field of view
    lesions : whether the white matter has some
    """
    chance, level = Chance(seed, height / _KINSHIP), level + height / _HEIGHT
    dome = math.sqrt(max(1 - ((level - _WIDEST) * _HEIGHT / _RADIUS) ** 2, 0.04))
    v, u, half_width = _head_coordinates(shape, half_width, chance.part(0))
    v, u, level = v / dome, u / dome, min(max(level, 0.0), 1.0)
    tissues = torch.full(shape, TISSUE["air"], dtype=torch.uint8)
    depth, unit = _skull(tissues, v, u, chance.part(1))
    v, u = v / unit, u / unit
    inside = depth > 0
    knots = max(shape) / (half_width * unit)
    brain = _cortex(v, u, depth / unit, level, knots, chance)
    if lesions:
        _lesions(brain, v, u, height / (HALF_WIDTH * unit), chance.part(6))
    if level < 0.75:
        _deep_structures(brain, v, u, level, chance.part(4))
    tissues = torch.where(inside, brain, tissues)
    if level < 0.25:
        _orbits(tissues, v, u, chance.part(5))
    return tissues[None], half_width


def _head_coordinates(shape: tuple[int, int], half_width: float | None, chance: Chance) -> tuple[Tensor, Tensor, float]:
    """Return coordinates in which the head is near the unit circle, bent and with a random pose, and their unit."""
    elongation = chance.uniform(1.12, 1.3)
    fitting = 0.5 * min(shape[0] / elongation, shape[1]) * chance.uniform(0.8, 0.96)
    scale = fitting if half_width is None else half_width
    y = (torch.arange(shape[0]) - shape[0] / 2)[:, None] / scale
    x = (torch.arange(shape[1]) - shape[1] / 2)[None] / scale
    tilt = 0.12 * float(chance.normal())
    v = y * math.cos(tilt) - x * math.sin(tilt) + chance.uniform(-0.04, 0.04)
    u = y * math.sin(tilt) + x * math.cos(tilt) + chance.uniform(-0.04, 0.04)
    # the back of a head is wider than its front
    width = 1 + chance.uniform(0.0, 0.14) * torch.tanh(v)
    bend = [0.015 * chance.field(shape, 5) + 0.006 * chance.field(shape, 12) for _ in "vu"]
    return v / elongation + bend[0], u / width + bend[1], scale


def _skull(tissues: Tensor, v: Tensor, u: Tensor, chance: Chance) -> tuple[Tensor, float]:
    """Draw skin, fat, muscle and bone into `tissues`; return the depth below the inner table and the brain's size."""
    index = ((torch.atan2(v, u) / (2 * math.pi) + 0.5) * (_ANGLES - 1)).long()
    angle = 2 * math.pi * (torch.arange(_ANGLES) / (_ANGLES - 1) - 0.5)

    def contour(amplitude: float, lowest: int, highest: int) -> Tensor:
        n = torch.arange(lowest, highest + 1)
        c = amplitude * chance.normal(2, len(n)) / n
        return ((c[0] * (angle[:, None] * n).cos() + c[1] * (angle[:, None] * n).sin()).sum(1))[index]

    radius = torch.hypot(v, u) + contour(0.012, 2, 6)
    skin, scalp = chance.uniform(0.015, 0.03), chance.uniform(0.03, 0.08)
    bone, diploe = chance.uniform(0.018, 0.03), chance.uniform(0.01, 0.05)
    # thickness varies around the head; temporal muscle lies in front of the ears
    fat = scalp * torch.exp(contour(0.25, 1, 8))
    temporal = 0.04 + torch.exp(-(((v + 0.25) / 0.28) ** 2)) * (u.abs() - 0.3).clamp(0, 0.4) * 4
    temporal = temporal * chance.uniform(0.0, 0.06)
    marrow = (diploe + contour(0.03, 2, 20) - 0.7 * temporal).clamp(min=0)
    depth = 1 - radius
    for tissue, thickness in (("skin", skin), ("fat", fat), ("muscle", temporal), ("bone", bone), ("marrow", marrow)):
        tissues.masked_fill_(depth > 0, TISSUE[tissue])
        depth = depth - thickness
    tissues.masked_fill_(depth > 0, TISSUE["bone"])
    depth = depth - bone * torch.exp(contour(0.3, 2, 10))
    return depth, 1 - skin - scalp - 2 * bone - diploe


def _cortex(v: Tensor, u: Tensor, depth: Tensor, level: float, knots: float, head: Chance) -> Tensor:
    """Return white matter, cortex and CSF of the whole brain.

    The cortex is a band around the CSF, and CSF is what lies outside the brain's surface or near a sulcus. Sulci are
    zero contours of a band-limited function; the ratio of its magnitude and gradient approximates their distance.
    `knots` is the length of the grid in half widths of the brain.
    """
    shape, chance = (v.shape[0], v.shape[1]), head.part(2)
    pial = chance.uniform(0.01, 0.06)  # CSF under the skull
    thickness = chance.uniform(0.032, 0.048) * (1 + 0.15 * chance.field(shape, 16))
    opening = chance.uniform(0.0, 0.02) * (1 + 0.7 * chance.field(shape, 7)).clamp(min=0)
    reach = chance.uniform(0.28, 0.45) + 0.12 * chance.field(shape, 9)
    # sulci narrow towards their ends
    sulcus = _folds(v, u, knots, chance) - opening * (1.2 - depth / reach).clamp(0, 1)
    fade = (depth - reach).clamp(min=0)
    surface = depth - pial
    # the fissure between the hemispheres is open in front and behind, and above the ventricles all along
    gap = 0.62 - 0.7 * max(0.0, level - 0.5) if level < 0.85 else 0.0
    midline = u + 0.02 * chance.field(shape, 5)
    fissure = torch.hypot(midline, (gap - v.abs()).clamp(min=0)) - 0.008
    fade = torch.minimum(fade, (fissure - 0.5 * reach).clamp(min=0))
    distance = torch.minimum(torch.hypot(sulcus.clamp(min=0), fade) + sulcus.clamp(max=0), fissure)
    if level < 0.6:
        distance = torch.minimum(distance, _sylvian(v, u, head.part(3)) - opening)
    distance = torch.minimum(distance, surface)
    brain = torch.full(v.shape, TISSUE["white"], dtype=torch.uint8)
    brain[distance < thickness] = TISSUE["cortex"]
    brain[distance < 0] = TISSUE["csf"]
    return brain


def _folds(v: Tensor, u: Tensor, knots: float, chance: Chance) -> Tensor:
    """Return the approximate distance to the nearest sulcus."""
    shape = (v.shape[0], v.shape[1])
    step = float((v[1:] - v[:-1]).abs().mean())
    waves = chance.field(shape, max(4, round(knots / chance.uniform(0.155, 0.23))))  # half a wavelength apart
    # near the surface most sulci run inwards
    turn = torch.atan2(v, u) + 0.25 * chance.field(shape, 9)
    radial = torch.cos(round(chance.uniform(12, 18)) * turn + chance.uniform(0, 2 * math.pi))
    function = waves + torch.hypot(v, u).clamp(max=1) ** 2 * radial
    gy, gx = torch.gradient(function, spacing=step)
    slope = torch.hypot(gy, gx)
    return function.abs() / (slope + 0.25 * slope.mean())


def _sylvian(v: Tensor, u: Tensor, chance: Chance) -> Tensor:
    """Return the distance to the Sylvian fissures: from the side inwards, then along the insula."""
    shape = (v.shape[0], v.shape[1])
    v = v + 0.04 * chance.field(shape, 12)
    side = u.abs() + 0.025 * chance.field(shape, 12)
    opening, fork, front, middle, back = (
        (a + chance.uniform(-0.04, 0.04), b + chance.uniform(-0.03, 0.03))
        for a, b in ((-0.22, 0.95), (-0.1, 0.62), (-0.25, 0.52), (-0.05, 0.5), (0.12, 0.55))
    )
    distance = torch.full(shape, torch.inf)
    for start, end in ((opening, fork), (fork, middle), (front, middle), (middle, back)):
        dv, du = end[0] - start[0], end[1] - start[1]
        from_v, from_u = v - start[0], side - start[1]
        along = ((from_v * dv + from_u * du) / (dv**2 + du**2)).clamp(0, 1)
        distance = torch.minimum(distance, torch.hypot(from_v - along * dv, from_u - along * du))
    return distance


def _ellipse(v: Tensor, u: Tensor, centre: tuple[float, float], axes: tuple[float, float], tilt: float = 0.0) -> Tensor:
    """Return where the points are inside an ellipse; a positive `tilt` turns its back outwards."""
    dv, du = v - centre[0], u - centre[1]
    a, b = dv * math.cos(tilt) + du * math.sin(tilt), du * math.cos(tilt) - dv * math.sin(tilt)
    return (a / axes[0]).square() + (b / axes[1]).square() < 1


def _deep_structures(brain: Tensor, v: Tensor, u: Tensor, level: float, chance: Chance) -> None:
    """Draw deep nuclei, ventricles and choroid plexus into `brain`."""
    dilation, size = chance.uniform(0.6, 1.7), chance.uniform(0.88, 1.1) * (1 - 0.6 * level)
    shape = (v.shape[0], v.shape[1])
    v = v + 0.012 * chance.field(shape, 14)
    # the bend makes the two sides differ
    u = (u + 0.012 * chance.field(shape, 14) + 0.01 * chance.field(shape, 4)).abs()
    for tissue, (cv, cu), (long, short), tilt in _NUCLEI:
        centre = (cv + chance.uniform(-0.02, 0.02), cu + chance.uniform(-0.015, 0.015))
        if level < 0.5 or tissue == "caudate":
            brain[_ellipse(v, u, centre, (long * size, short * size), tilt)] = TISSUE[tissue]
    for (cv, cu), (long, short), tilt in _HORNS:
        centre = (cv * (1 - 0.5 * level), cu)
        brain[_ellipse(v, u, centre, (long * (1 + 0.7 * level), short * dilation), tilt)] = TISSUE["csf"]
    if level < 0.45:
        brain[_ellipse(v, u, (0.1, 0.0), (0.2, 0.014 * dilation))] = TISSUE["csf"]
        plexus = chance.uniform(0.0, 0.08)
        brain[_ellipse(v, u, (0.36, 0.25), (plexus, 0.4 * plexus + 1e-3), 0.4)] = TISSUE["vessel"]


def _lesions(brain: Tensor, v: Tensor, u: Tensor, height: float, chance: Chance) -> None:
    """Draw bright spots into the white matter of `brain`, most of them small; `height` has the unit of v and u."""
    shape = (v.shape[0], v.shape[1])
    rough = 1 + 0.3 * chance.field(shape, 24)
    for _ in range(round(chance.uniform(8, 40))):
        centre = [chance.uniform(-reach, reach) for reach in (0.75, 0.75, 0.3)]
        radius = 0.02 + 0.1 * chance.uniform(0, 1) ** 3
        distance = torch.hypot(torch.hypot(v - centre[0], u - centre[1]), torch.tensor(height - centre[2]))
        brain[(distance < radius * rough) & (brain == TISSUE["white"])] = TISSUE["lesion"]


def _orbits(tissues: Tensor, v: Tensor, u: Tensor, chance: Chance) -> None:
    """Draw eyes in their fat, and the air between them."""
    front, apart = chance.uniform(-1.0, -0.94), chance.uniform(0.36, 0.42)
    side, inside = u.abs(), tissues != TISSUE["air"]
    for tissue, centre, axes, tilt in (
        ("mucosa", (front, 0.0), (0.33, 0.145), 0.0),
        ("air", (front, 0.0), (0.3, 0.13), 0.0),
        ("bone", (front, apart), (0.39, 0.215), 0.35),
        ("fat", (front, apart), (0.36, 0.2), 0.35),
        ("optic", (front + 0.22, apart - 0.06), (0.18, 0.022), -0.35),
        ("eye", (front + 0.02, apart), (0.125, 0.125), 0.0),
        ("muscle", (front - 0.08, apart), (0.02, 0.05), 0.0),
    ):
        tissues[_ellipse(v, side, centre, axes, tilt) & inside] = TISSUE[tissue]
