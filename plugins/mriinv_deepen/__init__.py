"""DEEPEN: deep end-to-end posterior energies and their maximum-likelihood training (arXiv:2503.17244)."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:deepen": "mriinv_deepen.energy:DeepenEnergy",
        "trainer:maximum-likelihood": "mriinv_deepen.trainer:MaximumLikelihood",
    }
