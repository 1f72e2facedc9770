"""A plug-in that claims a name of a built-in and one of another third party."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "solver:mm-cg": "mriinv_collision.solvers:OtherMMCG",
        "solver:gradient-descent": "mriinv_collision.solvers:OtherDescent",
    }
