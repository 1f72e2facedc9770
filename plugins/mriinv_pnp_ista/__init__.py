"""Plug-and-play ISTA with a learned denoiser (doi:10.1109/MSP.2022.3199595)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:cnn-denoiser": "mriinv_pnp_ista.denoiser:CNNDenoiser",
        "solver:ista": "mriinv_pnp_ista.solver:ISTA",
    }
