"""Multi-coil Cartesian MRI (SENSE) with ESPIRiT coil maps."""

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {"operator:sense": "mriinv_sense.operator:SenseOperator"}
