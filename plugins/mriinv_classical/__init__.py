"""Classical reconstructions: CG-SENSE."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {"solver:cg-sense": "mriinv_classical.cg_sense:CGSense"}
