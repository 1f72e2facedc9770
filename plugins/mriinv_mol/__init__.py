"""MoL: monotone operator learning (doi:10.1109/TCI.2023.3246040)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:mol": "mriinv_mol.prior:MoL",
    }
