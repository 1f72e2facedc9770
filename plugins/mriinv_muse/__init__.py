"""MuSE: multi-scale energies learned by denoising (doi:10.1109/TCI.2024.3458411)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:muse": "mriinv_muse.energy:MuseEnergy",
        "trainer:denoising": "mriinv_muse.trainer:Denoising",
        "solver:muse-mm": "mriinv_muse.solver:MuseMM",
    }
