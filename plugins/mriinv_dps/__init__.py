"""Diffusion models and posterior sampling with them (arXiv:2209.14687, arXiv:2303.05754)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:diffusion": "mriinv_dps.prior:Diffusion",
        "solver:dps": "mriinv_dps.dps:DPS",
        "solver:dds": "mriinv_dps.dds:DDS",
    }
