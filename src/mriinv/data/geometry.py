"""Where a slice lies in the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pydantic import TypeAdapter

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Size and, when known, place of one slice, in mm and in the patient's LPS axes (as DICOM and ISMRMRD have them).

    Attributes
    ----------
    pixel : size of a pixel along y and along x
    spacing : distance between the centres of neighbouring slices; with a single slice its thickness
    centre : position of the pixel (⌊y/2⌋, ⌊x/2⌋), which a centred crop keeps; None when unknown
    axes : unit vectors along rising y, along rising x and across the slices; None when unknown

    Raises
    ------
    ValueError : a size that is not positive, or axes that are not orthonormal
    """

    pixel: tuple[float, float]
    spacing: float
    centre: Vector | None = None
    axes: tuple[Vector, Vector, Vector] | None = None

    def __post_init__(self) -> None:
        if not all(0 < size < math.inf for size in (*self.pixel, self.spacing)):
            raise ValueError(f"pixel {self.pixel} and spacing {self.spacing} must be positive")
        if self.axes is not None:
            axes = np.array(self.axes)
            if axes.shape != (3, 3) or not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
                raise ValueError("axes must be three orthonormal vectors")

    def neighbour(self, steps: int) -> Geometry:
        """Return the geometry of the slice `steps` further on."""
        if self.centre is None or self.axes is None:
            return self
        x, y, z = (c + steps * self.spacing * a for c, a in zip(self.centre, self.axes[2], strict=True))
        return replace(self, centre=(x, y, z))

    def to_json(self) -> str:
        """Return this geometry as text, for a result file."""
        return GEOMETRY.dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> Geometry:
        """Return the geometry that `to_json` wrote (`ValueError` for anything else)."""
        return GEOMETRY.validate_json(text)


GEOMETRY = TypeAdapter(Geometry)
