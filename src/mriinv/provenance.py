"""What a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from mriinv import __version__


def provenance(device: torch.device, seed: int, **more: Any) -> dict[str, Any]:
    """Return versions, device and seed, and whatever else identifies a run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = {package: version(package) for package in ("torch", "numpy", "h5py", "deepinv")}
    return {
        "mriinv": __version__,
        "python": platform.python_version(),
        **versions,
        "device": f"{device} ({name})",
        "seed": seed,
        **more,
    }
