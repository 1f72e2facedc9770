"""A training by name: prior, trainer, simulated data, validation on scans."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
from lightning_fabric import Fabric

from mriinv.compose import (
    UNTRAINED,
    make_prior,
    make_solver,
    make_trainer,
    resolve_device,
    with_reference,
)
from mriinv.config import TrainConfig, TrainingData
from mriinv.core.capabilities import match
from mriinv.core.prior import Prior
from mriinv.core.solver import Monitor, mismatch
from mriinv.core.types import Image
from mriinv.data.acquisition import Acquisition
from mriinv.data.heads import ImageSource, LabelMapHeads, ProceduralHeads
from mriinv.data.masks import draw_mask
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import open_scan
from mriinv.data.scan_images import ScanImages
from mriinv.data.training import SimulatedProblems
from mriinv.errors import SettingsError
from mriinv.inputs import distinct_names
from mriinv.provenance import hardware
from mriinv.registry import registry
from mriinv.training.checkpoint import Progress
from mriinv.training.log import require_tensorboard
from mriinv.training.loop import LoopOptions, train
from mriinv.validation import Case, retrospective_case


def run_training(
    config: TrainConfig,
    *,
    max_time: float = math.inf,
    command: str = "",
    workers: int = 0,
    plot: bool = False,
    tensorboard: bool = False,
    monitor: Monitor | None = None,
) -> Progress:
    """Train as `config` says, resuming when ``config.out`` holds a checkpoint.

    For several devices the command that is running is started again, once for each other one.

    Parameters
    ----------
    max_time : seconds for this call
    command : what the user typed, for the model card
    workers : processes that render heads ahead; the result does not depend on it
    plot, tensorboard : draw ``curves.png`` at the end; write the log for TensorBoard as well
    """
    if tensorboard:
        require_tensorboard()
    fabric = _fabric(config)
    device = fabric.device
    torch.manual_seed(config.seed)  # initial weights; everything else draws from explicit generators
    trainer = make_trainer(config.trainer.name, **config.trainer.settings)
    prior = _prior(config).to(device)
    if match(prior.provides, trainer.requires) is None:
        raise mismatch(f"train prior '{prior.name}' with '{trainer.name}'", trainer.requires, prior.provides)
    prior.requires_grad_(True)
    if not any(True for _ in prior.parameters()):
        raise SettingsError(f"prior '{prior.name}' has no parameters to train")
    operator = registry().load("operator", config.operator.name)
    registry().settings("operator", config.operator)
    if operator.measures_images:
        raise SettingsError(f"operator '{config.operator.name}' measures images; training needs one for k-space")
    data = config.data
    source = SimulatedProblems(
        _heads(data),
        shape=data.shape,
        coils=data.coils,
        masks=data.masks,
        masks_per_kind=data.masks_per_kind,
        noise_std=data.noise_std,
        noise_floor=data.noise_floor,
        fresh=data.fresh,
        make_operator=operator,
        seed=config.seed,
        workers=workers,
    )
    validation = ScanValidation(config, device) if config.validation.scans else None
    options = LoopOptions(
        config.out,
        config.seed,
        max_time=max_time,
        averaging=config.loop.averaging,
        clip=config.loop.clip,
        validate_every=config.validation.every,
        configuration=_configuration(config),
        validated_on=config.validation.model_dump_json(exclude={"every"}) if validation else "",
        card={"command": command, "hardware": hardware(device, config.devices), "precision": config.precision},
        plot=plot,
        tensorboard=tensorboard,
    )
    fabric.launch()
    try:
        with closing(source):
            done = train(prior, trainer, source, options, validation=validation, monitor=monitor, fabric=fabric)
        fabric.barrier()
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # its threads may abort a process that ends around them
    return done


def _prior(config: TrainConfig) -> Prior:
    """Return the prior where its training begins, told the noise of its measurements.

    Raises
    ------
    SettingsError : weights whose strength belongs to another noise
    """
    name, weights, settings = config.prior.name, config.prior.weights or UNTRAINED, config.prior.settings
    noise = registry().load("prior", name).settings_for_noise(config.data.noise_std)
    if weights == UNTRAINED:
        return make_prior(name, weights=weights, **{**noise, **settings})
    prior = make_prior(name, weights=weights, **settings)
    for field in noise.keys() - settings.keys():
        if (own := getattr(prior.settings, field)) != noise[field]:
            raise SettingsError(
                f"data.noise_std: found {config.data.noise_std:g}; the weights are as strong as for {own}: leave "
                f"it out, or set prior.{field} as well, where the training learns the strength anew"
            )
    return prior


def _fabric(config: TrainConfig) -> Fabric:
    """Return the processes and the precision of a training, not yet launched."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device, several = resolve_device(config.device), config.devices > 1
    if several and ":" in config.device:
        raise SettingsError(f"device: found '{config.device}'; expected cuda or cpu with {config.devices} devices")
    if several and device.type == "cuda" and config.devices > torch.cuda.device_count():
        raise SettingsError(f"devices: found {config.devices}; this machine has {torch.cuda.device_count()} of CUDA")
    one: int | list[int] = 1 if device.index is None else [device.index]
    return Fabric(
        accelerator=device.type,
        devices=config.devices if several else one,
        strategy="ddp" if several else "auto",
        precision=config.precision,
    )


def _configuration(config: TrainConfig) -> dict[str, Any]:
    """Return what a resumed training must have in common with the one before: what is trained on what.

    Fields that checkpoints may be older than are left out at their defaults.
    """
    other = {"out", "device", "devices", "precision", "validation", "loop"}
    found = config.model_dump(mode="json", exclude=other)
    if "masks_per_kind" not in config.data.model_dump(exclude_defaults=True):
        del found["data"]["masks_per_kind"]
    loop = config.loop.model_dump(exclude_defaults=True)
    return found | ({"loop": loop} if loop else {})


class ScanValidation:
    """`Case.measured_at_convergence` for the middle slice of each scan under each mask; ``score`` is the mean PSNR.

    Parameters
    ----------
    config : names scans and masks; scans must be fully sampled
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._device = device
        self._solver = config.validation.solver or registry().usual(config.prior.name).solver
        self._cases: list[Case] = []
        scans = config.validation.scans
        for path, name in zip(scans, distinct_names(scans), strict=True):
            with open_scan(path) as scan:
                full = prepare_acquisition(scan.read(len(scan) // 2).to(device))
            for kind in config.validation.masks:
                mask = draw_mask(kind, (full.kspace.shape[-2], full.kspace.shape[-1]), full.extent)
                width = "" if kind.acs is None else f" {kind.acs}"
                label = f"{name.with_suffix('').as_posix()} {kind.name} {kind.acceleration:g}{width}"
                if label in (case.name for case in self._cases):
                    raise SettingsError(f"validation: found '{label}' twice; expected each scan and each mask once")
                self._cases.append(retrospective_case(label, full, mask, config.operator))

    def __call__(self, prior: Prior) -> Mapping[str, float]:
        solver = make_solver(self._solver.name, **self._solver.settings)
        prior.eval()
        found = {case.name: case.measured_at_convergence(prior, solver, str(self._device)) for case in self._cases}
        prior.train()
        values = {f"{what}/{name}": value for name, case in found.items() for what, value in case.items()}
        return {"score": sum(case["psnr"] for case in found.values()) / len(found), **values}


def training_command(arguments: list[str]) -> str:
    """Return the command line that started a training, for its model card."""
    return shlex.join(["mriinv", "train", *arguments])


def _heads(data: TrainingData) -> ImageSource:
    if data.scans is not None:
        return ScanImages(data.scans, data.scan_slices, _combined)
    return ProceduralHeads() if data.heads is None else LabelMapHeads(data.heads)


def _combined(full: Acquisition) -> Image:
    reference = with_reference(full).reference
    assert reference is not None
    return reference
