"""deepinv's denoisers, priors, physics and unrolled networks, by name."""

from __future__ import annotations

from mriinv import hookimpl


@hookimpl
def mriinv_components() -> dict[str, str]:
    return {
        "prior:deepinv-denoiser": "mriinv_deepinv.denoiser:DeepinvDenoiser",
        "prior:deepinv-prior": "mriinv_deepinv.prior:DeepinvPrior",
        "prior:modl": "mriinv_deepinv.unrolled:MoDL",
        "prior:varnet": "mriinv_deepinv.unrolled:VarNet",
        "operator:deepinv": "mriinv_deepinv.operators:DeepinvPhysics",
        "operator:blur": "mriinv_deepinv.operators:Blur",
        "operator:inpainting": "mriinv_deepinv.operators:Inpainting",
        "operator:tomography": "mriinv_deepinv.operators:Tomography",
    }
