"""An axial head slice from formulas: nested contours, a folded cortex, ventricles and deep nuclei."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mriinv.data.texture import smooth_field, uniform
from mriinv.data.tissue import TISSUE

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


def procedural_tissues(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return a random tissue map, uint8 ``(1, y, x)``.

    Everything is a level set of smooth functions of head coordinates, so that nothing is tied to the grid.
    """
    v, u = _head_coordinates(shape, generator)
    tissues = torch.full(shape, TISSUE["air"], dtype=torch.uint8)
    depth, unit = _skull(tissues, v, u, generator)
    v, u = v / unit, u / unit
    inside = depth > 0
    level = uniform(0, 1, generator)  # 0: basal ganglia, 1: above the ventricles
    brain = _cortex(v, u, depth / unit, level, generator)
    if level < 0.75:
        _deep_structures(brain, v, u, level, generator)
    tissues = torch.where(inside, brain, tissues)
    if level < 0.25:
        _orbits(tissues, v, u, generator)
    return tissues[None]


def _head_coordinates(shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return coordinates in which the head is near the unit circle, bent and with a random pose."""
    elongation = uniform(1.12, 1.3, generator)
    scale = 0.5 * min(shape[0] / elongation, shape[1]) * uniform(0.8, 0.96, generator)
    y = (torch.arange(shape[0]) - shape[0] / 2)[:, None] / scale
    x = (torch.arange(shape[1]) - shape[1] / 2)[None] / scale
    tilt = 0.12 * float(torch.randn((), generator=generator))
    v = y * math.cos(tilt) - x * math.sin(tilt) + uniform(-0.04, 0.04, generator)
    u = y * math.sin(tilt) + x * math.cos(tilt) + uniform(-0.04, 0.04, generator)
    # the back of a head is wider than its front
    width = 1 + uniform(0.0, 0.14, generator) * torch.tanh(v)
    bend = [0.015 * smooth_field(shape, 5, generator) + 0.006 * smooth_field(shape, 12, generator) for _ in "vu"]
    return v / elongation + bend[0], u / width + bend[1]


def _skull(tissues: Tensor, v: Tensor, u: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Draw skin, fat, muscle and bone into `tissues`; return the depth below the inner table and the brain's size."""
    index = ((torch.atan2(v, u) / (2 * math.pi) + 0.5) * (_ANGLES - 1)).long()
    angle = 2 * math.pi * (torch.arange(_ANGLES) / (_ANGLES - 1) - 0.5)

    def contour(amplitude: float, lowest: int, highest: int) -> Tensor:
        n = torch.arange(lowest, highest + 1)
        c = amplitude * torch.randn(2, len(n), generator=generator) / n
        return ((c[0] * (angle[:, None] * n).cos() + c[1] * (angle[:, None] * n).sin()).sum(1))[index]

    radius = torch.hypot(v, u) + contour(0.012, 2, 6)
    skin, scalp = uniform(0.015, 0.03, generator), uniform(0.03, 0.08, generator)
    bone, diploe = uniform(0.018, 0.03, generator), uniform(0.01, 0.05, generator)
    # thickness varies around the head; temporal muscle lies in front of the ears
    fat = scalp * torch.exp(contour(0.25, 1, 8))
    temporal = 0.04 + torch.exp(-(((v + 0.25) / 0.28) ** 2)) * (u.abs() - 0.3).clamp(0, 0.4) * 4
    temporal = temporal * uniform(0.0, 0.06, generator)
    marrow = (diploe + contour(0.03, 2, 20) - 0.7 * temporal).clamp(min=0)
    depth = 1 - radius
    for tissue, thickness in (("skin", skin), ("fat", fat), ("muscle", temporal), ("bone", bone), ("marrow", marrow)):
        tissues.masked_fill_(depth > 0, TISSUE[tissue])
        depth = depth - thickness
    tissues.masked_fill_(depth > 0, TISSUE["bone"])
    depth = depth - bone * torch.exp(contour(0.3, 2, 10))
    return depth, 1 - skin - scalp - 2 * bone - diploe


def _cortex(v: Tensor, u: Tensor, depth: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Return white matter, cortex and CSF of the whole brain.

    The cortex is a band around the CSF, and CSF is what lies outside the brain's surface or near a sulcus. Sulci are
    zero contours of a band-limited function; the ratio of its magnitude and gradient approximates their distance.
    """
    shape = (v.shape[0], v.shape[1])
    step = float((v[1:] - v[:-1]).abs().mean())
    pial = uniform(0.01, 0.06, generator)  # CSF under the skull
    thickness = uniform(0.032, 0.048, generator) * (1 + 0.15 * smooth_field(shape, 16, generator))
    opening = uniform(0.0, 0.02, generator) * (1 + 0.7 * smooth_field(shape, 7, generator)).clamp(min=0)
    reach = uniform(0.28, 0.45, generator) + 0.12 * smooth_field(shape, 9, generator)
    # sulci narrow towards their ends
    sulcus = _folds(v, u, step, generator) - opening * (1.2 - depth / reach).clamp(0, 1)
    fade = (depth - reach).clamp(min=0)
    surface = depth - pial
    # the fissure between the hemispheres is open in front and behind, and above the ventricles all along
    gap = 0.62 - 0.7 * max(0.0, level - 0.5) if level < 0.85 else 0.0
    midline = u + 0.02 * smooth_field(shape, 5, generator)
    fissure = torch.hypot(midline, (gap - v.abs()).clamp(min=0)) - 0.008
    fade = torch.minimum(fade, (fissure - 0.5 * reach).clamp(min=0))
    distance = torch.minimum(torch.hypot(sulcus.clamp(min=0), fade) + sulcus.clamp(max=0), fissure)
    if level < 0.6:
        distance = torch.minimum(distance, _sylvian(v, u, generator) - opening)
    distance = torch.minimum(distance, surface)
    brain = torch.full(v.shape, TISSUE["white"], dtype=torch.uint8)
    brain[distance < thickness] = TISSUE["cortex"]
    brain[distance < 0] = TISSUE["csf"]
    return brain


def _folds(v: Tensor, u: Tensor, step: float, generator: torch.Generator) -> Tensor:
    """Return the approximate distance to the nearest sulcus."""
    shape = (v.shape[0], v.shape[1])
    cells = max(4, round(max(shape) * step / uniform(0.13, 0.19, generator)))  # knots about half a wavelength apart
    waves = smooth_field(shape, cells, generator)
    # near the surface most sulci run inwards
    turn = torch.atan2(v, u) + 0.25 * smooth_field(shape, 9, generator)
    radial = torch.cos(round(uniform(12, 18, generator)) * turn + uniform(0, 2 * math.pi, generator))
    function = waves + 1.0 * torch.hypot(v, u).clamp(max=1) ** 2 * radial
    gy, gx = torch.gradient(function, spacing=step)
    slope = torch.hypot(gy, gx)
    return function.abs() / (slope + 0.25 * slope.mean())


def _sylvian(v: Tensor, u: Tensor, generator: torch.Generator) -> Tensor:
    """Return the distance to the Sylvian fissures: from the side inwards, then along the insula."""
    shape = (v.shape[0], v.shape[1])
    v = v + 0.04 * smooth_field(shape, 12, generator)
    side = u.abs() + 0.025 * smooth_field(shape, 12, generator)
    opening, fork, front, middle, back = (
        (a + uniform(-0.04, 0.04, generator), b + uniform(-0.03, 0.03, generator))
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


def _deep_structures(brain: Tensor, v: Tensor, u: Tensor, level: float, generator: torch.Generator) -> None:
    """Draw deep nuclei, ventricles and choroid plexus into `brain`."""
    dilation, size = uniform(0.6, 1.7, generator), uniform(0.88, 1.1, generator) * (1 - 0.6 * level)
    shape = (v.shape[0], v.shape[1])
    v = v + 0.012 * smooth_field(shape, 14, generator)
    # the bend makes the two sides differ
    u = (u + 0.012 * smooth_field(shape, 14, generator) + 0.01 * smooth_field(shape, 4, generator)).abs()
    for tissue, (cv, cu), (long, short), tilt in _NUCLEI:
        if level < 0.5 or tissue == "caudate":
            centre = (cv + uniform(-0.02, 0.02, generator), cu + uniform(-0.015, 0.015, generator))
            brain[_ellipse(v, u, centre, (long * size, short * size), tilt)] = TISSUE[tissue]
    for (cv, cu), (long, short), tilt in _HORNS:
        centre = (cv * (1 - 0.5 * level), cu)
        brain[_ellipse(v, u, centre, (long * (1 + 0.7 * level), short * dilation), tilt)] = TISSUE["csf"]
    if level < 0.45:
        brain[_ellipse(v, u, (0.1, 0.0), (0.2, 0.014 * dilation))] = TISSUE["csf"]
        plexus = uniform(0.0, 0.08, generator)
        brain[_ellipse(v, u, (0.36, 0.25), (plexus, 0.4 * plexus + 1e-3), 0.4)] = TISSUE["vessel"]


def _orbits(tissues: Tensor, v: Tensor, u: Tensor, generator: torch.Generator) -> None:
    """Draw eyes in their fat, and the air between them."""
    front, apart = uniform(-1.0, -0.94, generator), uniform(0.36, 0.42, generator)
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
