"""The smallest plug-in that offers a prior, a solver, a reader and a recipe."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:toy-quadratic": "mriinv_toy.prior:Quadratic",
        "solver:gradient-descent": "mriinv_toy.solver:GradientDescent",
    }


@hookimpl
def mriinv_readers() -> list[type]:
    from mriinv_toy.reader import ToyScan

    return [ToyScan]
