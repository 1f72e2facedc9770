"""What a run is made of, whatever its inputs: a settled configuration, prior and solver, and a calibration."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mriinv.calibration import Calibration, calibration_path, read_calibration
from mriinv.compose import Reconstruction, make_prior, make_solver, resolve_device
from mriinv.config import SIMULATION_MASK, RunConfig
from mriinv.core.solver import unused_prior
from mriinv.data.mask_choice import MaskChoice
from mriinv.errors import SettingsError
from mriinv.provenance import code_of
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
        logger.warning("%s", unused_prior(config.solver.name, config.prior.name))
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
    registry().check(config)
    resolve_device(config.device)
    solver = make_solver(config.solver.name, **config.solver.settings)
    torch.manual_seed(config.seed)  # of an untrained prior; everything else draws from explicit generators
    prior = make_prior(chosen.name, weights=chosen.weights, **chosen.settings) if chosen else None
    return Reconstruction(prior, solver, config.device)


@dataclass(frozen=True)
class Run:
    """A settled configuration, its prior and solver, and the calibration in use; `remark` says which, or why none.

    `components` says which code the parts are, by kind (`code_of`).
    """

    config: RunConfig
    reconstruction: Reconstruction
    components: Mapping[str, str]
    calibration: Calibration | None = None
    remark: str = ""


def set_up(config: RunConfig) -> Run:
    """Settle a configuration, build prior and solver, and take the temperature of a calibration.

    That is the one the configuration names, or else the one beside the weights. The latter says nothing here where it
    is for another solver or the temperature is set; where it is for other weights or other settings, it is not used,
    and the remark says why.

    Raises
    ------
    InputError : the calibration cannot be read
    SettingsError : that which is named is for something else, or the temperature is set beside it
    """
    config = settle(config)
    run = Run(config, combine(config), {kind: code_of(kind, choice.name) for kind, choice in config.parts.items()})
    path = config.calibration or _beside_weights(run)
    if path is None:
        return run
    found = read_calibration(path)
    different = _difference(found, run)
    if different and config.calibration is not None:
        raise SettingsError(f"calibration {path}: {different}")
    if found.solver != config.solver.name or "temperature" in config.solver.settings:
        return run
    if different:
        return replace(run, remark=f"{path.name} is not used: {different}")
    masks = ", ".join(one.mask for one in found.coverage if one.fitted)
    count = "1 slice" if found.slices == 1 else f"{found.slices} slices"
    remark = f"calibrated by {path.name}, fitted on {count} under {masks or 'its masks'}"
    if found.scale is not None:
        remark += f" with {found.draws} samples; measured coverage is no guarantee for others"
    reconstruct = run.reconstruction
    tempered = reconstruct.changed(reconstruct.solver.changed(temperature=found.temperature))
    return replace(run, reconstruction=tempered, calibration=found, remark=remark)


def _beside_weights(run: Run) -> Path | None:
    """Return the calibration that is stored beside the weights, if there is one."""
    prior = run.reconstruction.prior
    if prior is None or prior.loaded_weights is None:
        return None
    path = calibration_path(prior.loaded_weights.path)
    return path if os.path.exists(path) else None


def _difference(calibration: Calibration, run: Run) -> str:
    """Say why a calibration is not for a run; or ""."""
    prior, solver = run.reconstruction.prior, run.reconstruction.solver
    if calibration.solver != solver.name:
        return f"solver: found {solver.name}; it was fitted for {calibration.solver}"
    if "temperature" in run.config.solver.settings:
        return "it sets solver.temperature, which is set already: leave one of them out"
    if prior is None or prior.loaded_weights is None:
        return "it was fitted for weights; found none"
    settings = [part.settings.model_dump(mode="json") for part in (prior, solver)]
    return calibration.mismatch(prior.loaded_weights.sha256, run.config.operator.name, *settings)


def resolved(run: Run) -> dict[str, Any]:
    """Return what determines a result: the configuration with every setting of every component."""
    content = run.config.model_dump(mode="json", exclude={"input", "out", "calibration"})
    operator, parts = run.config.operator, run.reconstruction
    settings = {
        "operator": registry().settings("operator", operator),
        "prior": parts.prior and parts.prior.settings,
        "solver": parts.solver.settings,
    }
    for part, values in settings.items():
        if values is not None:
            content[part]["settings"] = values.model_dump(mode="json")
    return content


def weights_record(run: Run) -> dict[str, str] | None:
    """Return the file name and the checksum of the weights that the prior was loaded from."""
    prior = run.reconstruction.prior
    weights = None if prior is None else prior.loaded_weights
    return None if weights is None else {"file": weights.path.name, "sha256": weights.sha256}
