"""Denoisers of deepinv by class name."""

from __future__ import annotations

import inspect
from typing import Any

import deepinv
import torch
from pydantic import JsonValue

from mriinv import ComponentSettings, DenoiserPrior, SettingsError, setting
from mriinv_deepinv.building import build

PROBE = 64  # pixels


class DeepinvDenoiser(DenoiserPrior):
    """A denoiser of deepinv: a classical one, or a network that is trained here (``mriinv train``).

    Networks whose constructor takes ``in_channels`` see real and imaginary part as two channels, unless `options` say
    ``in_channels: 1``; all others denoise both parts as images of their own. The noise level that a solver asks for is
    handed on, to thresholds of classical denoisers too. Weights that deepinv publishes are not loaded: they come from
    a network, as pickles.
    """

    name = "deepinv-denoiser"

    class Settings(ComponentSettings):
        model: str = setting("TVDenoiser", "name of a class in deepinv.models")
        options: dict[str, JsonValue] = setting({}, "arguments of its constructor")

    def __init__(self, **settings: Any) -> None:
        s = self.parse_settings(settings)
        found = getattr(deepinv.models, s.model, None)
        takes = inspect.signature(found).parameters if inspect.isclass(found) else {}
        channels = s.options.get("in_channels", 2 if "in_channels" in takes else 1)
        if channels not in (1, 2):
            raise SettingsError(f"prior.options: in_channels: found {channels}; expected 1 or 2 (real, imaginary)")
        filled = {"in_channels": channels, "out_channels": channels}
        model = build("prior.model", deepinv.models, deepinv.models.Denoiser, s.model, s.options, filled)
        super().__init__(model, channels=channels, **settings)
        try:
            self.denoise(torch.zeros(1, PROBE, PROBE, dtype=torch.complex64), 0.1)
        except (
            Exception
        ) as error:  # of a missing package, or of channels that it does not take, deepinv learns only now
            reason = str(error).strip().partition("\n")[0]
            raise SettingsError(
                f"prior.model: {s.model} does not denoise images of {channels} channel{'s' * (channels > 1)}: {reason}"
            ) from None
