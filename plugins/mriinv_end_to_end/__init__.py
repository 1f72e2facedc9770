"""Priors that are learned together with the operator: how they are run and trained."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "solver:end-to-end": "mriinv_end_to_end.solver:EndToEnd",
        "trainer:end-to-end": "mriinv_end_to_end.trainer:EndToEndTrainer",
    }
