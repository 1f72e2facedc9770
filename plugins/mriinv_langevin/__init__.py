"""Langevin sampling of the posterior: as published, Metropolis-adjusted, preconditioned."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "solver:langevin": "mriinv_langevin.sampler:Langevin",
        "solver:mala": "mriinv_langevin.adjusted:MALA",
        "solver:preconditioned-langevin": "mriinv_langevin.adjusted:PreconditionedLangevin",
    }
