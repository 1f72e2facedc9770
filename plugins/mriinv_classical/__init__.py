"""Classical reconstructions: zero-filled, CG-SENSE, and FISTA with total variation or wavelets."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:l1-wavelet": "mriinv_classical.wavelet:L1Wavelet",
        "prior:tv": "mriinv_classical.tv:TotalVariation",
        "solver:cg-sense": "mriinv_classical.cg_sense:CGSense",
        "solver:fista": "mriinv_classical.fista:FISTA",
        "solver:zero-filled": "mriinv_classical.zero_filled:ZeroFilled",
    }
