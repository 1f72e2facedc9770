"""What a run is made of, whatever its inputs: a settled configuration, prior and solver, and a calibration."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from mriinv.calibration import Calibration, calibration_path, read_calibration
from mriinv.compose import Reconstruction, find_weights, make_prior, make_solver, resolve_device
from mriinv.config import SIMULATION_MASK, RunConfig
from mriinv.data.mask_choice import MaskChoice
from mriinv.errors import SettingsError
from mriinv.registry import registry

logger = logging.getLogger("mriinv")


def settle(config: RunConfig) -> RunConfig:
    """Leave out, with a warning, a prior that the solver does not take, and give the mask its seed.

    The mask that a simulated scan has unless told otherwise is left out for an operator that measures images.

    Raises
    ------
    SettingsError : any other mask for such an operator
    """
    changes: dict[str, Any] = {}
    if config.prior is not None and not registry().find("solver", config.solver.name).entry.requires:
        logger.warning("solver '%s' takes no prior: '%s' is not used", config.solver.name, config.prior.name)
        changes["prior"] = None
    if config.mask is not None and measures_images(config):
        if config.input or config.mask != MaskChoice(**SIMULATION_MASK):
            raise SettingsError(
                f"mask: found '{config.mask.name}'; operator '{config.operator.name}' measures the fully sampled "
                "image, which no mask undersamples: leave it out"
            )
        changes["mask"] = None
    elif config.mask is not None and config.mask.seed is None:
        changes["mask"] = config.mask.model_copy(update={"seed": config.seed})
    return config.model_copy(update=changes)


def measures_images(config: RunConfig) -> bool:
    """Say whether the operator measures the fully sampled image of a scan instead of its k-space."""
    return bool(registry().load("operator", config.operator.name).measures_images)


def combine(config: RunConfig) -> Reconstruction:
    """Build prior and solver, refusing what does not fit before anything heavy."""
    chosen = config.prior
    registry().match(chosen.name if chosen else None, config.solver.name)
    resolve_device(config.device)
    registry().load("operator", config.operator.name).parse_settings(config.operator.settings)
    solver = make_solver(config.solver.name, **config.solver.settings)
    torch.manual_seed(config.seed)  # of an untrained prior; everything else draws from explicit generators
    prior = make_prior(chosen.name, weights=chosen.weights, **chosen.settings) if chosen else None
    return Reconstruction(prior, solver, config.device)


@dataclass(frozen=True)
class Run:
    """A settled configuration, its prior and solver, and the calibration in use; `remark` says which, or why none."""

    config: RunConfig
    reconstruction: Reconstruction
    calibration: Calibration | None = None
    remark: str = ""


def set_up(config: RunConfig) -> Run:
    """Settle a configuration, build prior and solver, and take the temperature of a calibration beside the weights.

    One for another solver says nothing here, nor does any where the temperature is set. One for other weights or other
    settings is not used, and the remark says why.
    """
    config = settle(config)
    run = Run(config, combine(config))
    chosen, solver = config.prior, config.solver
    weights = find_weights(chosen.name, chosen.weights) if chosen else None
    if weights is None or not os.path.exists(path := calibration_path(weights.path)):
        return run
    found = read_calibration(path)
    if found.solver != solver.name or "temperature" in solver.settings:
        return run
    prior = run.reconstruction.prior
    assert prior is not None
    settings = [part.settings.model_dump(mode="json") for part in (prior, run.reconstruction.solver)]
    if different := found.mismatch(weights.sha256, config.operator.name, *settings):
        return replace(run, remark=f"{path.name} is not used: {different}")
    masks = ", ".join(one.mask for one in found.coverage if one.fitted)
    remark = f"calibrated by {path.name}, fitted on {masks or 'its masks'}"
    if found.scale:
        sure = found.slices / (found.slices + 1)
        remark += f" of {found.slices} slices: intervals hold at least {100 * sure:.0f} % of what they promise"
    sampler = run.reconstruction.solver.changed(temperature=found.temperature)
    return Run(config, Reconstruction(prior, sampler, config.device), found, remark)


def resolved(run: Run) -> dict[str, Any]:
    """Return what determines a result: the configuration with every setting of every component."""
    content = run.config.model_dump(mode="json", exclude={"input", "out"})
    operator, parts = run.config.operator, run.reconstruction
    settings = {
        "operator": registry().load("operator", operator.name).parse_settings(operator.settings),
        "prior": parts.prior and parts.prior.settings,
        "solver": parts.solver.settings,
    }
    for part, values in settings.items():
        if values is not None:
            content[part]["settings"] = values.model_dump(mode="json")
    return content


def weights_record(config: RunConfig) -> dict[str, str] | None:
    """Return the file name and the checksum of the prior's weights."""
    if config.prior is None:
        return None
    weights = find_weights(config.prior.name, config.prior.weights)
    return None if weights is None else {"file": weights.path.name, "sha256": weights.sha256}
