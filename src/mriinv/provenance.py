"""What a result was made with."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mriinv import __version__
from mriinv.files import sha256
from mriinv.manifest import Kind
from mriinv.registry import registry


def code_of(kind: Kind, name: str) -> str:
    """Return distribution and version of a component, and a checksum of the code of its package as it is now."""
    plugin = registry().find(kind, name).plugin
    top = sys.modules[registry().load(kind, name).__module__.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] or [Path(str(top.__file__))]
    checksum = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:12]
    return f"{plugin.distribution} {plugin.version} {checksum}"


def hardware(device: torch.device, count: int = 1) -> str:
    """Return what computes, `count` times."""
    one = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return one if count == 1 else f"{count} × {one}"


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
