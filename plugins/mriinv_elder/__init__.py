"""ELDER: energies learned through their own gradient descent (arXiv:2303.05386)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:elder": "mriinv_elder.prior:ELDER",
    }
