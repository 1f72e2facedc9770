"""Simulated receive coils: the fields of current loops around the head."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mriinv.core.types import CoilMapsSlice
from mriinv.errors import InputError

_SEGMENTS = 24  # straight pieces of a loop
_COARSE = 40  # samples per axis at which fields are evaluated: they vary over tens of pixels
_WIRE = 0.35  # softening length near the wire, in half fields of view


def simulate_coil_maps(
    shape: tuple[int, int], coils: int, generator: torch.Generator, dtype: torch.dtype = torch.complex64
) -> CoilMapsSlice:
    """Return the sensitivities of circular loops on one or two rings around the head.

    c(r) ∝ B_x − iB_y, with B(r) = ∮ dl × (r − r')/|r − r'|³ (Biot–Savart, no attenuation in tissue); radius,
    distance, tilt and height of each loop and its constant phase are random.

    Parameters
    ----------
    shape : matrix size (y, x)
    coils : number of loops; from 13 on they form two rings
    generator : on the CPU

    Returns
    -------
    complex ``(coil, y, x)``, unit sum of squares at every pixel

    Raises
    ------
    InputError : no coil or an empty matrix

    References
    ----------
    Roemer et al., The NMR phased array, Magn. Reson. Med. 16:192 (1990).
    """
    if coils < 1:
        raise InputError("simulate_coil_maps", "coils", str(coils), "at least 1")
    if len(shape) != 2 or min(shape) < 1:
        raise InputError("simulate_coil_maps", "shape", str(tuple(shape)), "two positive sizes (y, x)")
    coarse = [min(size, _COARSE) for size in shape]
    wires = _loops(coils, shape, generator)
    fields = _biot_savart(wires, _points(shape, coarse))
    real = torch.empty((), dtype=dtype).real.dtype
    phase = 2 * math.pi * torch.rand(coils, 1, 1, generator=generator, dtype=torch.float64)
    fields = torch.view_as_real(fields * torch.polar(torch.ones_like(phase), phase)).movedim(-1, 0).to(real)
    fields = interpolate(fields, size=shape, mode="bicubic", align_corners=True)
    fields = fields / fields.square().sum((0, 1)).sqrt()
    return torch.complex(fields[0], fields[1])


def _points(shape: tuple[int, int], coarse: list[int]) -> Tensor:
    """Return positions ``(y, x, 3)`` in the plane z = 0, in units of half the larger field of view."""
    half = [size / max(shape) for size in shape]
    y, x = (torch.linspace(-h, h, n, dtype=torch.float64) for h, n in zip(half, coarse, strict=True))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
    return torch.cat([grid, torch.zeros(*coarse, 1, dtype=torch.float64)], dim=-1)


def _loops(coils: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return corner points ``(coil, segment, 3)`` (y, x, z) of all loops."""

    def jitter(scale: float) -> Tensor:
        return scale * (2 * torch.rand(coils, generator=generator, dtype=torch.float64) - 1)

    rings = 1 if coils <= 12 else 2
    per_ring = math.ceil(coils / rings)
    index = torch.arange(coils)
    ring = index // per_ring
    turn = 2 * math.pi * float(torch.rand((), generator=generator, dtype=torch.float64))
    spacing = 2 * math.pi / per_ring
    angle = turn + spacing * (index + 0.5 * ring) + jitter(0.15 * spacing)
    height = (ring - (rings - 1) / 2) * 0.7 + jitter(0.15) + float(jitter(0.2)[0])
    # the former is an ellipse about the field of view; a loop overlaps its neighbours
    distance = 1.25 + float(jitter(0.2)[0]) + jitter(0.08)
    half = torch.tensor([size / max(shape) for size in shape], dtype=torch.float64).clamp(min=0.6)
    size = (1.15 + jitter(0.2)) * torch.clamp(distance * torch.tensor(math.sin(spacing / 2)), 0.25, 0.6)

    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    outward = torch.stack([angle.sin(), angle.cos(), jitter(0.3)], dim=-1)
    along = torch.stack([angle.cos(), -angle.sin(), jitter(0.2)], dim=-1)
    axial = torch.linalg.cross(outward, along)
    along = torch.linalg.cross(axial, outward)
    axial, along = (v / torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (axial, along))
    centre = distance[:, None] * torch.stack([half[0] * angle.sin(), half[1] * angle.cos(), zero], -1)
    centre = centre + torch.stack([zero, zero, one * height], dim=-1)
    t = 2 * math.pi * torch.arange(_SEGMENTS, dtype=torch.float64)[None, :, None] / _SEGMENTS
    return centre[:, None] + size[:, None, None] * (t.cos() * along[:, None] + t.sin() * axial[:, None])


def _biot_savart(wires: Tensor, points: Tensor) -> Tensor:
    """Return the transverse field B_x − iB_y ``(coil, y, x)`` at `points`; the main field is along z."""
    pieces = wires.roll(-1, 1) - wires
    middle = wires + pieces / 2
    # summed one piece at a time to bound the memory: coils × pixels × 3 numbers
    field = torch.zeros(2, len(wires), *points.shape[:2], dtype=torch.float64)
    for step in range(wires.shape[1]):
        dy, dx, dz = (pieces[:, step, axis, None, None] for axis in range(3))
        ry, rx, rz = (points[..., axis] - middle[:, step, axis, None, None] for axis in range(3))
        inverse = (ry * ry + rx * rx + rz * rz + _WIRE**2).rsqrt()
        weight = inverse * inverse * inverse
        field[0] += (dy * rz - dz * ry) * weight
        field[1] -= (dz * rx - dx * rz) * weight
    return torch.complex(field[0], field[1])
