"""What a result was made with."""

from __future__ import annotations

import inspect
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mriinv import __version__
from mriinv.files import sha256
from mriinv.manifest import Kind
from mriinv.registry import registry


def code_of(kind: Kind, name: str) -> str:
    """Return distribution, version and a checksum of the file with the class of a component, as it runs now."""
    plugin = registry().find(kind, name).plugin
    file = inspect.getsourcefile(registry().load(kind, name))
    checksum = "" if file is None else f" {sha256(Path(file))[:12]}"
    return f"{plugin.distribution} {plugin.version}{checksum}"


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
