"""Explicit priors of deepinv by class name."""

from __future__ import annotations

from typing import Any

import deepinv
from pydantic import JsonValue

from mriinv import ComponentSettings, PotentialPrior, SettingsError, setting
from mriinv_deepinv.building import build

PROXIMAL = frozenset({"proximal"})


class DeepinvPrior(PotentialPrior):
    """E(x) = `weight`·g(x) with a prior g of deepinv that has a function and its proximal map, such as ``TVPrior``.

    g sees real and imaginary part as two channels; most treat them apart. ``L12Prior`` with ``l2_axis: 1`` takes the
    magnitude.
    """

    name = "deepinv-prior"
    provides = PROXIMAL

    class Settings(ComponentSettings):
        model: str = setting("TVPrior", "name of a class in deepinv.optim")
        options: dict[str, JsonValue] = setting({}, "arguments of its constructor")
        weight: float = setting(0.002, "factor on the prior at image scale 1", gt=0, tune=(1e-4, 1e-1))

    def __init__(self, **settings: Any) -> None:
        s = self.parse_settings(settings)
        potential = build("prior.model", deepinv.optim, deepinv.optim.Prior, s.model, s.options, {})
        if not potential.explicit_prior:
            raise SettingsError(f"prior.model: {s.model} has no function g; deepinv-denoiser is for denoisers")
        if type(potential).prox is deepinv.optim.Prior.prox:  # deepinv would take 50 gradient steps instead, or diverge
            raise SettingsError(f"prior.model: {s.model} has no proximal map of its own")
        super().__init__(potential, PROXIMAL, s.weight, **settings)
