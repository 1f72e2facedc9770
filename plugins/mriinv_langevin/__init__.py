"""Unadjusted Langevin sampling of the posterior."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {"solver:langevin": "mriinv_langevin.sampler:Langevin"}
