"""Writing the HDF5 layout of the fastMRI multi-coil brain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from ismrmrd import xsd
from torch import Tensor

from mriinv.core.types import Mask
from mriinv.data.acquisition import Acquisition
from mriinv.data.geometry import Geometry
from mriinv.errors import InputError
from mriinv.files import atomic_path
from mriinv.numerics.fft import ifft2c

_FIELD_STRENGTH = 3.0  # T
_PROTON = 42.577478e6  # Hz/T


def write_fastmri(
    path: str | Path,
    acquisition: Acquisition,
    *,
    mask: Mask | None = None,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write a volume as fastMRI has it: ``kspace`` (slices, coil, y, x), readout along y, phase encoding along x.

    Beside it, ``ismrmrd_header``; ``reconstruction_rss`` (slices, y, x), the root sum of squares of the coil images,
    and its maximum and norm as the attributes ``max`` and ``norm``, unless the acquisition is itself undersampled;
    ``mask`` (x,), or (y, x) for one in two dimensions, which fastMRI does not have, when not everything is sampled.
    Further, as known: ``noise_cov`` (coil, coil), ``reference`` (slices, y, x) and ``coil_maps`` (…, coil, y, x), the
    latter two complex. The attribute ``acquisition`` is that of the header, ``patient_id`` the source, ``geometry`` the
    place of the first slice, for which the header has no room.

    Parameters
    ----------
    path : replaced when it exists
    acquisition : its batch axis are the slices; needs a geometry
    mask : keeps only these samples, one mask for all slices; what is made from the full k-space stays
    attributes : further attributes of the file

    Raises
    ------
    InputError : no geometry, masks that differ between slices, a mask that does not fit, a place that is not writable

    References
    ----------
    Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv:1811.08839 (2018).
    """
    geometry = acquisition.geometry
    if geometry is None:
        raise InputError(acquisition.source, "geometry", "none", "pixel sizes, which the header has to state")
    acquisition = acquisition.to("cpu")
    stored = acquisition if mask is None else acquisition.undersampled(mask)
    if (stored.mask != stored.mask[:1]).any():
        raise InputError(acquisition.source, "mask", "a mask for each slice", "one for all slices")
    with atomic_path(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = _array(stored.kspace)
        file["ismrmrd_header"] = ismrmrd_header(acquisition, geometry)
        if not stored.fully_sampled:
            grid = stored.mask[0]
            file["mask"] = (grid[0] if (grid == grid[:1]).all() else grid).numpy()
        if acquisition.gapless:
            rss = torch.stack([torch.linalg.vector_norm(ifft2c(one), dim=0) for one in acquisition.kspace])
            file["reconstruction_rss"] = rss.float().numpy()
            file.attrs.update(max=float(rss.max()), norm=float(torch.linalg.vector_norm(rss)))
        if (covariance := _noise_covariance(acquisition)) is not None:
            file["noise_cov"] = _array(covariance)
        for name in ("reference", "coil_maps"):
            if (values := getattr(acquisition, name)) is not None:
                file[name] = _array(values)
        file.attrs["acquisition"] = acquisition.header.get("acquisition", "")
        file.attrs["patient_id"] = acquisition.source
        file.attrs["geometry"] = geometry.to_json()
        file.attrs.update(attributes or {})


def ismrmrd_header(acquisition: Acquisition, geometry: Geometry) -> str:
    """Return the header in ISMRMRD's XML: encoding, receivers and a nominal field of 3 T.

    Its x is the readout, along y of the k-space; its y is the phase encoding. A slice is as thick as slices are apart.
    """
    slices, coils, y, x = acquisition.kspace.shape
    size = xsd.matrixSizeType(x=y, y=x, z=1)
    fov = xsd.fieldOfViewMm(x=y * geometry.pixel[0], y=x * geometry.pixel[1], z=geometry.spacing)
    space = xsd.encodingSpaceType(matrixSize=size, fieldOfView_mm=fov)
    steps = {"kspace_encoding_step_0": y, "kspace_encoding_step_1": x, "slice": slices}
    limits = {name: xsd.limitType(minimum=0, maximum=count - 1, center=count // 2) for name, count in steps.items()}
    encoding = xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(**limits),
        trajectory=xsd.trajectoryType.CARTESIAN,
    )
    header = xsd.ismrmrdHeader(
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemFieldStrength_T=_FIELD_STRENGTH, receiverChannels=coils
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=round(_PROTON * _FIELD_STRENGTH)),
        encoding=[encoding],
    )
    return str(xsd.ToXML(header))


def _noise_covariance(acquisition: Acquisition) -> Tensor | None:
    """Return E[n nᴴ], for white noise 2 noise_std² I; None when unknown or zero, which nothing can be weighted by."""
    if acquisition.noise_covariance is not None or acquisition.noise_std is None:
        return acquisition.noise_covariance
    variance = float(torch.as_tensor(acquisition.noise_std).square().mean())
    return 2 * variance * torch.eye(acquisition.kspace.shape[1], dtype=torch.complex64) if variance else None


def _array(values: Tensor) -> np.ndarray:
    return values.to(torch.complex64).numpy()
