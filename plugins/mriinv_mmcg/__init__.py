"""MAP estimates by majorise-minimise with conjugate gradients."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {"solver:mm-cg": "mriinv_mmcg.solver:MMCG"}
