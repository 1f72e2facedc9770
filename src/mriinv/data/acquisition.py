"""One slice as it leaves a reader: k-space, what was sampled, and what came with it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from mriinv.core.types import COMPLEX, CoilCovariance, CoilMaps, CoilMetric, Image, KSpace, Mask, PerImage
from mriinv.data.geometry import Geometry
from mriinv.errors import InputError, require_kind
from mriinv.files import reason

Array = np.ndarray | torch.Tensor
Sampling = Literal["full", "2D", "lines"]
NOISE_AGREES = 0.1  # by which two ways to state the noise level may differ, relative
TENSORS = ("kspace", "mask", "coil_maps", "reference", "noise_covariance", "coil_metric", "map_covariance")


@dataclass(frozen=True, repr=False)
class Acquisition:
    """Multi-coil Cartesian k-space of one or more slices of equal size.

    Attributes
    ----------
    kspace : complex ``(batch, coil, y, x)``, centred, orthonormal FFT, zero where nothing was sampled
    mask : bool, or zeros and ones, ``(batch|1, y|1, x)``: where sampled; ``y == 1`` means whole columns
    coil_maps : complex ``(batch|1, coil, y, x)`` when the file brings maps or the simulation knows them
    reference : complex ``(batch, y, x)`` image to compare with, when one exists
    noise_std : standard deviation of the noise per real component of a k-space sample, in the units of `kspace`, one
        number or one per slice; the root mean square over coils where they differ
    noise_covariance : E[n nᴴ] between coils, complex ``(coil, coil)``, when it was measured and is not yet white
    coil_metric : G with cᴴGc = ‖c₀‖², for maps c of these coils and c₀ of those that they were made of, complex
        ``(batch|1, y|1, x|1, coil, coil)``; None where coils were not mixed but by unitary matrices
    map_covariance : mean of c cᴴ over the maps of a middle slice of the scan, complex ``(coil, coil)``, by whose trace
        an operator knows the units of all of them; None: each slice has its own
    geometry : size and place of the (first) slice, when known
    source : file and slice, for messages and file names
    index : number of the (first) slice in the scan that it is from
    header : strings that came with the file
    remarks : what a user should know of this slice, such as what the reader had to put right

    Raises
    ------
    InputError : shapes that do not fit together; arrays that are no torch tensors; values outside the mask
    """

    kspace: KSpace
    mask: Mask
    coil_maps: CoilMaps | None = None
    reference: Image | None = None
    noise_std: float | PerImage | None = None
    noise_covariance: CoilCovariance | None = None
    coil_metric: CoilMetric | None = None
    map_covariance: CoilCovariance | None = None
    geometry: Geometry | None = None
    source: str = "array"
    index: int = 0
    header: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in TENSORS:
            if (value := getattr(self, name)) is not None:
                expected = "a torch tensor; Acquisition.from_arrays takes other arrays"
                require_kind(self.source, name, value, torch.Tensor, expected)
        object.__setattr__(self, "mask", self._as_mask(self.mask))
        shape = tuple(self.kspace.shape)
        if len(shape) != 4 or min(shape) < 1 or self.kspace.dtype not in COMPLEX:
            raise InputError(self.source, "kspace", f"{self.kspace.dtype} {shape}", "complex (batch, coil, y, x)")
        batch, coils, y, x = shape
        self._check("mask", self.mask, [(1, batch), (1, y), (x,)], "(batch|1, y|1, x)")
        if not self.fully_sampled and torch.where(self.mask[:, None].to(self.kspace.device), 0, self.kspace).any():
            expected = "zeros where the mask is false; of a fully sampled acquisition, .undersampled(mask)"
            raise InputError(self.source, "kspace", "values outside the mask", expected)
        require_kind(self.source, "remarks", self.remarks, tuple | list, "a tuple of strings")
        require_kind(self.source, "header", self.header, dict, "a dict of strings")
        require_kind(self.source, "geometry", self.geometry, Geometry | None, "a Geometry, or None")
        if bad := [name for name in map(str, self.header) if not re.fullmatch(r"[^/\0]+", name) or name == "."]:
            raise InputError(
                self.source, "header", repr(bad[0]), "names without '/', as datasets of a result have them"
            )
        if self.noise_std is not None:
            object.__setattr__(self, "noise_std", self._as_noise(self.noise_std))
        if self.coil_maps is not None:
            self._check("coil_maps", self.coil_maps, [(1, batch), (coils,), (y,), (x,)], "(batch|1, coil, y, x)")
            if self.coil_maps.dtype not in COMPLEX:
                raise InputError(self.source, "coil_maps", str(self.coil_maps.dtype), "complex values")
        if self.reference is not None:
            self._check("reference", self.reference, [(batch,), (y,), (x,)], "(batch, y, x)")
        if self.noise_covariance is not None:
            self._check("noise_covariance", self.noise_covariance, [(coils,), (coils,)], "(coil, coil)")
            self._check_noise(self.noise_covariance)
        if self.map_covariance is not None:
            self._check("map_covariance", self.map_covariance, [(coils,), (coils,)], "(coil, coil)")
        if self.coil_metric is not None:
            allowed = [(1, batch), (1, y), (1, x), (coils,), (coils,)]
            self._check("coil_metric", self.coil_metric, allowed, "(batch|1, y|1, x|1, coil, coil)")

    @classmethod
    def from_arrays(
        cls,
        kspace: Array,
        mask: Array | None = None,
        coil_maps: Array | None = None,
        reference: Array | None = None,
        **fields: Any,
    ) -> Acquisition:
        """Return the acquisition of arrays of NumPy or torch, whose first axes may be left out.

        Parameters
        ----------
        kspace : ``([batch,] coil, y, x)``; what lies outside the mask is left out
        mask : ``([[batch,] y,] x)``; None: where any coil has a sample that is not zero
        coil_maps : ``([batch,] coil, y, x)``
        reference : ``([batch,] y, x)``
        fields : any other attribute
        """
        source = fields.get("source", "array")
        data = _tensor(source, "kspace", kspace, 4)
        fields["coil_maps"] = None if coil_maps is None else _tensor(source, "coil_maps", coil_maps, 4)
        fields["reference"] = None if reference is None else _tensor(source, "reference", reference, 3)
        for name, axes in (("noise_covariance", 2), ("coil_metric", 5)):
            if fields.get(name) is not None:
                fields[name] = _tensor(source, name, fields[name], axes)
        whole = cls(data, torch.ones(1, 1, data.shape[-1], dtype=torch.bool), **fields)
        sampled = (whole.kspace != 0).any(1) if mask is None else whole._as_mask(_tensor(source, "mask", mask, 3))
        return whole.undersampled(sampled)

    def __repr__(self) -> str:
        sampled = f"acceleration {self.acceleration:.2f}, noise_std {self.noise_std}"
        return f"Acquisition({self.source}, kspace {tuple(self.kspace.shape)}, {sampled})"

    def _as_noise(self, value: Any) -> float | PerImage:
        try:
            found = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputError(self.source, "noise_std", repr(value), "a number, or one per slice") from None
        if found.numel() != 1 and found.shape != self.kspace.shape[:1]:
            expected = f"one number, or {len(self.kspace)}, one per slice"
            raise InputError(self.source, "noise_std", f"shape {tuple(found.shape)}", expected)
        if not ((found >= 0) & found.isfinite()).all():
            raise InputError(self.source, "noise_std", str(value), "finite numbers from 0 on")
        return float(found) if found.numel() == 1 else found

    def _check_noise(self, covariance: CoilCovariance) -> None:
        """Require that the noise level, where it is given too, is that of the covariance."""
        own = level_of(covariance)
        if self.noise_std is None or not math.isfinite(own):
            return
        if not (torch.as_tensor(self.noise_std) - own).abs().max() <= NOISE_AGREES * own:
            expected = f"{own:.3g}, that of noise_covariance, E[n nᴴ] in the units of kspace; or one of the two"
            raise InputError(self.source, "noise_std", str(self.noise_std), expected)

    def _as_mask(self, mask: torch.Tensor) -> Mask:
        """Return a mask as bool; zeros and ones of another type are one as well."""
        if mask.dtype == torch.bool:
            return mask
        if not ((mask == 0) | (mask == 1)).all():
            raise InputError(self.source, "mask", f"{mask.dtype} with other values than 0 and 1", "bool, or 0 and 1")
        return mask == 1

    def _check(self, name: str, value: torch.Tensor, allowed: list[tuple[int, ...]], axes: str) -> None:
        """Compare the shape of `value` with the sizes allowed along each axis."""
        if value.ndim != len(allowed) or any(size not in a for size, a in zip(value.shape, allowed, strict=True)):
            expected = f"{axes} for k-space {tuple(self.kspace.shape)}"
            raise InputError(self.source, name, f"shape {tuple(value.shape)}", expected)

    @property
    def fully_sampled(self) -> bool:
        """Whether every k-space location was acquired."""
        return bool(self.mask.all())

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """The smallest rectangle of k-space that holds every sample: rows from, to, columns from, to (exclusive)."""
        y = self.kspace.shape[-2]
        rows, columns = (
            torch.nonzero(line)[:, 0].tolist() or [0] for line in (self.mask.any(0).any(1), self.mask.any(0).any(0))
        )
        top, bottom = (0, y) if self.mask.shape[-2] == 1 else (rows[0], rows[-1] + 1)
        return top, bottom, columns[0], columns[-1] + 1

    @property
    def gapless(self) -> bool:
        """Whether the samples of every slice fill one rectangle: all locations, or all but zero padding around them."""
        return bool(self._grid.all())

    @property
    def sampling(self) -> Sampling:
        """What was left out: nothing (`gapless`), single locations, or whole columns or rows."""
        if self.gapless:
            return "full"
        grid = self._grid.any(0)
        return "lines" if any(bool((grid.any(axis) == grid.all(axis)).all()) for axis in (0, 1)) else "2D"

    @property
    def _grid(self) -> torch.Tensor:
        """What was sampled of the rectangle of the samples, in each slice."""
        top, bottom, left, right = self.extent
        rows = slice(top, bottom) if self.mask.shape[-2] > 1 else slice(None)
        return self.mask[:, rows, left:right]

    @property
    def acceleration(self) -> float:
        """Locations in the grid over locations sampled, calibration centre included."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    def undersampled(self, mask: Array) -> Acquisition:
        """Keep only the samples in `mask` ``([[batch,] y,] x)``, retrospectively, of a fully sampled acquisition.

        Zero padding around the samples, common in fastMRI brain data, is allowed and stays outside the mask.
        """
        batch, _, y, x = self.kspace.shape
        mask = self._as_mask(_tensor(self.source, "mask", mask, 3))
        if mask.ndim != 3 or mask.shape[0] not in (1, batch) or mask.shape[1] not in (1, y) or mask.shape[2] != x:
            raise InputError(self.source, "mask", f"shape {tuple(mask.shape)}", f"(1, {y}, {x}) or (1, 1, {x})")
        if not self.gapless:
            raise InputError(
                self.source,
                "kspace",
                f"already undersampled data (acceleration {self.acceleration:.2f})",
                "fully sampled data for a retrospective mask; leave the mask out to reconstruct what was acquired",
            )
        mask = mask.to(self.mask.device) & self.mask
        if not mask.any():
            raise InputError(self.source, "mask", "no sampled location", "at least one")
        kspace = torch.where(mask.to(self.kspace.device)[:, None], self.kspace, 0)
        return replace(self, kspace=kspace, mask=mask)

    def remarked(self, *remarks: str) -> Acquisition:
        """Return this acquisition with further remarks, each once."""
        new = [remark for remark in remarks if remark not in self.remarks]
        return replace(self, remarks=(*self.remarks, *new)) if new else self

    def to(self, device: torch.device | str) -> Acquisition:
        """Return this acquisition on `device`."""
        moved = {name: value.to(device) for name in TENSORS if (value := getattr(self, name)) is not None}
        return replace(self, **moved)


def map_covariance(coil_maps: np.ndarray) -> CoilCovariance | None:
    """Return the mean of c cᴴ over the pixels of maps ``(coil, y, x)`` that are not zero; None where all are."""
    maps = coil_maps.reshape(len(coil_maps), -1)
    maps = maps[:, maps.any(0)].astype(np.complex128)
    if not maps.size:
        return None
    with np.errstate(all="ignore"):  # what is not finite is refused elsewhere
        return torch.from_numpy((maps @ maps.conj().T / maps.shape[1]).astype(np.complex64))


def level_of(covariance: CoilCovariance) -> float:
    """Return the standard deviation per real component, the root mean square over coils, of E[n nᴴ]."""
    return float(covariance.diagonal().real.double().mean().clamp_min(0) / 2) ** 0.5


def _tensor(source: str, name: str, array: Array, axes: int) -> torch.Tensor:
    """Return an array as a tensor, with leading axes of size 1 up to so many."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(source, name, f"no array of numbers ({reason(error)})", "an array of NumPy or torch") from None
    return tensor.reshape((1,) * (axes - tensor.ndim) + tuple(tensor.shape))
