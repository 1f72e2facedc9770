"""A training by name: prior, trainer, simulated data, validation on scans."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch

from mriinv.compose import (
    UNTRAINED,
    Reconstruction,
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
from mriinv.data.heads import HeadSource, LabelMapHeads, ProceduralHeads
from mriinv.data.masks import draw_mask
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.readers import open_scan
from mriinv.data.scan_images import ScanImages
from mriinv.data.training import SimulatedProblems
from mriinv.errors import SettingsError
from mriinv.manifest import Choice
from mriinv.registry import registry
from mriinv.training.checkpoint import Progress
from mriinv.training.loop import LoopOptions, train
from mriinv.validation import Case, retrospective_case


def run_training(
    config: TrainConfig,
    *,
    max_time: float = math.inf,
    command: str = "",
    workers: int = 0,
    monitor: Monitor | None = None,
) -> Progress:
    """Train as `config` says, resuming when ``config.out`` holds a checkpoint.

    Parameters
    ----------
    max_time : seconds for this call
    command : what the user typed, for the model card
    workers : processes that render heads ahead; the result does not depend on it
    """
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)  # initial weights; everything else draws from explicit generators
    trainer = make_trainer(config.trainer.name, **config.trainer.settings)
    noise = registry().load("prior", config.prior.name).settings_for_noise(config.data.noise_std)
    settings = {**noise, **config.prior.settings}
    prior = make_prior(config.prior.name, weights=config.prior.weights or UNTRAINED, **settings).to(device)
    if match(prior.provides, trainer.requires) is None:
        raise mismatch(f"train prior '{prior.name}' with '{trainer.name}'", trainer.requires, prior.provides)
    prior.requires_grad_(True)
    if not any(True for _ in prior.parameters()):
        raise SettingsError(f"prior '{prior.name}' has no parameters to train")
    operator = registry().load("operator", config.operator.name)
    operator.parse_settings(config.operator.settings)
    if operator.measures_images:
        raise SettingsError(f"operator '{config.operator.name}' measures images; training needs one for k-space")
    data = config.data
    source = SimulatedProblems(
        _heads(data),
        shape=data.shape,
        coils=data.coils,
        masks=data.masks,
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
        validate_every=config.validation.every,
        configuration=config.model_dump(mode="json", exclude={"out", "device", "validation"}),
        card={"command": command, "hardware": _hardware(device)},
    )
    with closing(source):
        return train(prior, trainer, source, options, validation=validation, monitor=monitor)


class ScanValidation:
    """PSNR of the reconstruction of the middle slice of each scan under each mask; ``score`` is the mean.

    Parameters
    ----------
    config : names scans and masks; scans must be fully sampled
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._device, self._solver = device, _solver(config)
        self._cases: list[Case] = []
        for path in config.validation.scans:
            with open_scan(path) as scan:
                full = prepare_acquisition(scan.read(len(scan) // 2).to(device))
            for name, acceleration in config.validation.masks:
                mask = draw_mask(name, (full.kspace.shape[-2], full.kspace.shape[-1]), full.extent, acceleration)
                label = f"{Path(path).stem} {name} {acceleration:g}"
                self._cases.append(retrospective_case(label, full, mask, config.operator))

    def __call__(self, prior: Prior) -> Mapping[str, float]:
        solver = make_solver(self._solver.name, **self._solver.settings)
        reconstruct = Reconstruction(prior.eval(), solver, str(self._device))
        values = {case.name: case.psnr(reconstruct) for case in self._cases}
        prior.train()
        return {"score": sum(values.values()) / len(values), **values}


def _solver(config: TrainConfig) -> Choice:
    """Return the solver that validates: the chosen one, or that of the first recipe with this prior."""
    recipes = registry().recipes.values()
    usual = (recipe.solver for recipe in recipes if recipe.prior and recipe.prior.name == config.prior.name)
    return config.validation.solver or next(usual, Choice(name="mm-cg"))


def training_command(arguments: list[str]) -> str:
    """Return the command line that started a training, for its model card."""
    return shlex.join(["mriinv", "train", *arguments])


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _heads(data: TrainingData) -> HeadSource:
    if data.scans is not None:
        return ScanImages(data.scans, data.scan_slices, _combined)
    return ProceduralHeads() if data.heads is None else LabelMapHeads(data.heads)


def _combined(full: Acquisition) -> Image:
    reference = with_reference(full).reference
    assert reference is not None
    return reference
