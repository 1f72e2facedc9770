"""PnP-Flow: plug-and-play with flow matching (arXiv:2410.02423)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "solver:pnp-flow": "mriinv_pnp_flow.solver:PnPFlow",
    }
