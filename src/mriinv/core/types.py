"""The written vocabulary of tensor shapes.

``batch`` images, ``coil`` receivers, ``y`` rows, ``x`` columns. Images and k-space are native complex tensors;
k-space is centred and orthonormal; a line mask has ``y == 1`` and selects columns.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

COMPLEX = (torch.complex64, torch.complex128)  # what images and k-space are stored in

Image = Complex[Tensor, "batch y x"]
KSpace = Complex[Tensor, "batch coil y x"]
CoilMaps = Complex[Tensor, "#batch coil y x"]
CoilCovariance = Complex[Tensor, "coil coil"]
CoilMetric = Complex[Tensor, "#batch #y #x coil coil"]
Mask = Bool[Tensor, "#batch #y x"]
ImageSlice = Complex[Tensor, "y x"]  # the same without batch axis
CoilMapsSlice = Complex[Tensor, "coil y x"]
MaskSlice = Bool[Tensor, "y x"]
Support = Bool[Tensor, "#batch y x"]  # pixels that the data depend on
PerImage = Float[Tensor, " batch"]
