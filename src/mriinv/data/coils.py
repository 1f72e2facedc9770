"""Simulated receive coils: loops of wire around the head, their fields, their coupling and their noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mriinv.core.types import CoilCovariance, CoilMaps, CoilMapsSlice
from mriinv.data.geometry import Vector
from mriinv.data.texture import uniform
from mriinv.errors import InputError

Axes = tuple[Vector, Vector, Vector]
AXIAL: Axes = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # rising y, rising x, across the slices, in LPS

_SEGMENTS = 24  # straight pieces of a loop
_NODES = 24  # per axis, at which fields are evaluated: they vary over tens of pixels
_SOFTENING = 0.35  # of the field near a wire, in half fields of view
_WIRE = 0.02  # radius of the wire, in half fields of view: about 2 mm
_QUALITY = 30.0  # ωL/R of a loop loaded by a head
_DECOUPLING = (15.0, 25.0)  # dB by which a preamplifier of low input impedance lowers the current in its loop
_OWN_NOISE = (0.2, 0.5)  # noise power of loop and preamplifier over that of the head
_HEAD = 0.8  # size of the head that makes noise, of what the field of view holds
_DEPTH = 0.8  # extent of the head across the slice, in half fields of view


@dataclass(frozen=True)
class CoilArray:
    """Coupled loops around a head, and the slices that they look at.

    Lengths are in units of half the larger field of view. Axes are the patient's (LPS, z along the main field); the
    origin is the centre of the stack of slices.

    Attributes
    ----------
    loops : corners ``(coil, segment, 3)``
    mixing : complex ``(coil, coil)``, from the voltages that the loops would show alone to the received signals
    shape : matrix size (y, x) of a slice
    axes : unit vectors along rising y, along rising x and across the slices

    References
    ----------
    Roemer et al., The NMR phased array, Magn. Reson. Med. 16:192 (1990).
    """

    loops: Tensor
    mixing: CoilCovariance
    shape: tuple[int, int]
    axes: Axes

    @staticmethod
    def draw(shape: tuple[int, int], coils: int, generator: torch.Generator, axes: Axes = AXIAL) -> CoilArray:
        """Draw loops on rings around z with random radius, place and tilt, and how well they are decoupled.

        The signals of loops that induce currents in each other are (I + κ)⁻¹ e, with e the voltages that they would
        show alone and κ_jk = i Q M_jk / √(L_j L_k) / p for j ≠ k: M is the mutual inductance, L = M_jj, Q the quality
        factor of a loaded loop, and p = 15 to 25 dB the factor by which preamplifiers lower the currents. Each
        receiver has a random constant phase.

        Raises
        ------
        InputError : no coil or an empty matrix
        """
        if coils < 1:
            raise InputError("simulated coils", "coils", str(coils), "at least 1")
        if len(shape) != 2 or min(shape) < 1:
            raise InputError("simulated coils", "shape", str(tuple(shape)), "two positive sizes (y, x)")
        loops = _loops(coils, _half_extent(shape, axes), generator)
        inductance = mutual_inductance(loops)
        own = inductance.diagonal().sqrt()
        suppression = 10 ** (uniform(*_DECOUPLING, generator) / 20)
        coupling = _QUALITY / suppression * inductance / (own[:, None] * own)
        identity = torch.eye(coils, dtype=torch.float64)
        alone = torch.linalg.inv(torch.complex(identity, coupling.fill_diagonal_(0)))
        phase = 2 * math.pi * torch.rand(coils, generator=generator, dtype=torch.float64)
        return CoilArray(loops, torch.polar(torch.ones_like(phase), phase)[:, None] * alone, shape, axes)

    def maps(self, heights: tuple[float, ...] = (0.0,), dtype: torch.dtype = torch.complex64) -> CoilMaps:
        """Return the sensitivities in slices at `heights` above the origin, unit sum of squares at every pixel.

        c(r) ∝ B_x − iB_y, with B(r) = ∮ dl × (r − r')/|r − r'|³ (Biot–Savart, no attenuation in tissue).

        Returns
        -------
        complex ``(len(heights), coil, y, x)``
        """
        return torch.stack([self._slice(height, dtype) for height in heights])

    def noise_covariance(self, noise_std: float, generator: torch.Generator) -> CoilCovariance:
        """Return E[n nᴴ] of the receivers: thermal noise of the head, correlated, and of the electronics, which is not.

        Ψ ∝ C (R + ρ I tr(R)/coils) Cᴴ with the mixing C and R_jk = ∫ A_j · A_k dV over an ellipsoid: the noise power
        is what the electric field E = −iωA of a unit current dissipates. The field of charges on the skin is left
        out. ρ is random, 0.2 to 0.5.

        Parameters
        ----------
        noise_std : root mean square over receivers of the standard deviation per real component
        generator : on the CPU

        Returns
        -------
        complex128 ``(coil, coil)``, Hermitian, positive definite when `noise_std` is, with mean diagonal 2 noise_std²
        """
        axis = torch.linspace(-1, 1, 10, dtype=torch.float64)
        ball = torch.cartesian_prod(axis, axis, axis)
        head = _HEAD * ball[ball.square().sum(1) < 1] * _half_extent(self.shape, self.axes)
        pieces, middle = _pieces(self.loops)
        potential = (pieces.mT @ _squared_distance(middle, head, _WIRE).rsqrt_()).flatten(1)
        resistance = potential @ potential.T
        resistance.diagonal().add_(uniform(*_OWN_NOISE, generator) * resistance.diagonal().mean())
        covariance = self.mixing @ resistance.to(self.mixing.dtype) @ self.mixing.mH
        covariance = (covariance + covariance.mH) / 2
        return covariance * (2 * noise_std**2 / covariance.diagonal().real.mean())

    def _slice(self, height: float, dtype: torch.dtype) -> CoilMapsSlice:
        real = torch.empty((), dtype=dtype).real.dtype
        (y, rows), (x, columns) = (_interpolation(size, size / max(self.shape)) for size in self.shape)
        points = torch.cartesian_prod(y, x, torch.tensor([height], dtype=torch.float64))
        field = self.mixing @ transverse_field(self.loops, points @ torch.tensor(self.axes, dtype=torch.float64))
        parts = torch.view_as_real(field).movedim(-1, 0).reshape(2, -1, len(y), len(x)).to(real)
        parts = rows.to(real) @ parts @ columns.T.to(real)
        parts = parts / parts.square().sum((0, 1)).sqrt()
        return torch.complex(parts[0], parts[1])


def simulate_coil_maps(
    shape: tuple[int, int], coils: int, generator: torch.Generator, dtype: torch.dtype = torch.complex64
) -> CoilMapsSlice:
    """Return complex ``(coil, y, x)``: the maps of a random `CoilArray` in one axial slice."""
    return CoilArray.draw(shape, coils, generator).maps(dtype=dtype)[0]


def transverse_field(loops: Tensor, points: Tensor) -> Tensor:
    """Return B_x − iB_y of a unit current (times 4π/μ₀), complex ``(coil, point)``, softened near the wires.

    Parameters
    ----------
    loops : corners ``(coil, segment, 3)``
    points : ``(point, 3)``
    """
    pieces, middle = _pieces(loops)
    inverse = _squared_distance(middle, points, _SOFTENING).rsqrt_()
    weight = inverse * inverse * inverse
    # Σ dl × (r − m) w = (Σ dl w) × r − Σ (dl × m) w: two small products instead of an array of vectors per piece
    sums = torch.cat([pieces, torch.linalg.cross(pieces, middle)], dim=-1).mT @ weight
    (dx, dy, dz), (x, y, z) = sums[:, :3].unbind(1), points.T
    return torch.complex(dy * z - dz * y - sums[:, 3], dx * z - dz * x + sums[:, 4])


def mutual_inductance(loops: Tensor) -> Tensor:
    """Return M_jk = ∮∮ dl_j · dl_k / |r_j − r_k| (Neumann), real ``(coil, coil)`` in units of μ₀/4π.

    The diagonal holds the self-inductance of round wire, 4π a (ln(8a/w) − 2) with radii a of loop and w of wire.
    """
    pieces, middle = (part.flatten(0, 1) for part in _pieces(loops))
    terms = (pieces @ pieces.T) * _squared_distance(middle, middle, _WIRE).rsqrt_()
    inductance = terms.reshape(*loops.shape[:2], *loops.shape[:2]).sum((1, 3))
    radius = torch.linalg.vector_norm(loops - loops.mean(1, keepdim=True), dim=-1).mean(1)
    inductance.diagonal().copy_(4 * math.pi * radius * ((8 * radius / _WIRE).log() - 2))
    return inductance


def _pieces(loops: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors along the straight pieces of loops, and the middles of these."""
    pieces = loops.roll(-1, 1) - loops
    return pieces, loops + pieces / 2


def _interpolation(size: int, half: float) -> tuple[Tensor, Tensor]:
    """Return Chebyshev nodes ``(node,)`` on [−half, half], and the matrix from values there to `size` pixels.

    Softened fields are analytic: the error falls exponentially with the number of nodes.
    """
    order = torch.arange(_NODES, dtype=torch.float64)
    nodes = torch.cos(math.pi * (order + 0.5) / _NODES)
    pixels = 2 * (torch.arange(size, dtype=torch.float64) - size // 2) / size
    at_nodes, at_pixels = (torch.cos(order * x.acos()[:, None]) for x in (nodes, pixels))
    matrix = at_pixels @ at_nodes.T * (2 / _NODES) - 1 / _NODES  # the polynomial of order 0 counts half
    return half * nodes, matrix


def _squared_distance(sources: Tensor, points: Tensor, softening: float) -> Tensor:
    """Return |r − s|² + softening² ``(…, source, point)``; rounding is far below the softening."""
    squares = sources.square().sum(-1, keepdim=True) + softening**2
    return torch.add(squares + points.square().sum(-1), sources @ points.T, alpha=-2)


def _half_extent(shape: tuple[int, int], axes: Axes) -> Tensor:
    """Return the semi-axes ``(3,)`` of a head that fills the field of view, along the patient's axes."""
    sizes = torch.tensor([shape[0] / max(shape), shape[1] / max(shape), _DEPTH], dtype=torch.float64)
    return (sizes @ torch.tensor(axes, dtype=torch.float64).abs()).clamp(min=0.6)


def _loops(coils: int, half: Tensor, generator: torch.Generator) -> Tensor:
    """Return the corners ``(coil, segment, 3)`` of random loops around a head with semi-axes `half`."""

    def jitter(scale: float) -> Tensor:
        return scale * (2 * torch.rand(coils, generator=generator, dtype=torch.float64) - 1)

    rings = 1 if coils <= 12 else 2 if coils <= 24 else 3
    per_ring = math.ceil(coils / rings)
    index = torch.arange(coils)
    ring = index // per_ring
    spacing = 2 * math.pi / per_ring
    angle = uniform(0, 2 * math.pi, generator) + spacing * (index + 0.5 * ring) + jitter(0.15 * spacing)
    # the former is an ellipse about the head; a loop overlaps its neighbours
    distance = 1.25 + uniform(-0.2, 0.2, generator) + jitter(0.08)
    size = (1.15 + jitter(0.2)) * torch.clamp(distance * math.sin(spacing / 2), 0.25, 0.6)
    height = (ring - (rings - 1) / 2) * 1.5 * size.mean() + jitter(0.15) + uniform(-0.2, 0.2, generator)

    outward = torch.stack([angle.cos(), angle.sin(), jitter(0.3)], dim=-1)
    along = torch.stack([-angle.sin(), angle.cos(), jitter(0.2)], dim=-1)
    axial = torch.linalg.cross(outward, along)
    along = torch.linalg.cross(axial, outward)
    axial, along = (v / torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (axial, along))
    centre = torch.stack([distance * half[0] * angle.cos(), distance * half[1] * angle.sin(), height], dim=-1)
    t = 2 * math.pi * torch.arange(_SEGMENTS, dtype=torch.float64)[None, :, None] / _SEGMENTS
    return centre[:, None] + size[:, None, None] * (t.cos() * along[:, None] + t.sin() * axial[:, None])
