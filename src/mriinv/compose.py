"""How names become objects, and objects a reconstruction."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mriinv.core.operator import Operator
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem, Solution, reference_scale
from mriinv.core.solver import Monitor, Solver
from mriinv.core.trainer import Trainer
from mriinv.data.acquisition import Acquisition
from mriinv.data.noise_level import with_noise_std
from mriinv.data.preparation import prepare_acquisition
from mriinv.discovery import content_folder
from mriinv.errors import InputError, SettingsError, UnknownNameError, require_kind
from mriinv.manifest import PriorChoice, WeightEntry
from mriinv.numerics.noise import seeded
from mriinv.registry import registry
from mriinv.weights import load_prior

UNTRAINED = "none"
# Keep the noise of measured images and what a solver draws apart from each other and from simulation, at equal seeds
MEASUREMENT, SOLUTION = 0x6D656173, 0x736F6C76


def make_operator(name: str, acquisition: Acquisition, **settings: Any) -> Operator:
    """Build a registered operator for `acquisition`; it calibrates itself on the data.

    As `make_solver` and `make_trainer`, it raises `UnknownNameError` for names that nothing has, `SettingsError` for
    settings that do not fit and `PluginError` for plug-ins that cannot be imported.
    """
    with torch.inference_mode(False):  # solvers may differentiate through what is made here
        operator: Operator = registry().load("operator", name).from_acquisition(acquisition, **settings)
    return operator


def make_prior(name: str, *, weights: str | None = None, **settings: Any) -> Prior:
    """Build a registered prior in evaluation mode.

    Parameters
    ----------
    weights : name in the catalogue, path of a weight file, ``"none"`` for an untrained prior; None takes the default
        of the catalogue, or no weights for a prior without parameters
    settings : of the prior; those stored with the weights apply unless given here

    Raises
    ------
    SettingsError : a prior with parameters for which there are no weights
    """
    cls = registry().load("prior", name)
    file = find_weights(name, weights)
    with torch.inference_mode(False):  # solvers may differentiate through what is made here
        prior: Prior = cls(**settings) if file is None else load_prior(cls, file.path, settings, file.checksum)
    if file is None and weights is None and any(True for _ in prior.parameters()):
        raise SettingsError(
            f"prior '{name}' has no weights: train it (mriinv train --prior {name}) and name the file, or "
            f"'{UNTRAINED}' for random ones"
        )
    return prior.eval().requires_grad_(False)


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, and the SHA-256 that the catalogue has of it: None for a file of one's own."""

    path: Path
    checksum: str | None = None


def find_weights(prior: str, weights: str | None) -> WeightFile | None:
    """Return the file that `weights` stands for; None for an untrained prior."""
    component = registry().find("prior", prior)
    entries: dict[str, WeightEntry] = {w.name: w for w in component.entry.weights}
    if weights == UNTRAINED or (weights is None and not entries):
        return None
    entry = next(iter(entries.values())) if weights is None else entries.get(weights)
    if entry is not None:
        return WeightFile(content_folder(component.plugin) / entry.file, entry.sha256)
    assert weights is not None
    if Path(weights).suffix != ".safetensors" and not os.path.exists(weights):
        raise UnknownNameError(f"weights of prior '{prior}'", weights, [*entries, UNTRAINED])
    return WeightFile(Path(weights))


def make_solver(name: str, **settings: Any) -> Solver:
    """Build a registered solver."""
    return registry().load("solver", name)(**settings)


def make_trainer(name: str, **settings: Any) -> Trainer:
    """Build a registered trainer."""
    return registry().load("trainer", name)(**settings)


def make_problem(
    acquisition: Acquisition, operator: str | Operator = "sense", *, seed: int = 0, **settings: Any
) -> InverseProblem:
    """Build the inverse problem of an acquisition: its k-space, or its image where the operator measures images.

    Where the operator measures images (`Operator.measures_images`) the scale is that of the regularised least-squares
    image, since that of Aᴴb may be far from it. Noise that the acquisition does not tell is estimated;
    `prepare_acquisition` whitens it too, and says what it did.

    Parameters
    ----------
    operator : a registered name, with `settings`, or an operator
    seed : of the noise of measured images

    Raises
    ------
    InputError : undersampled k-space without reference, for an operator that measures images
    SettingsError : settings for an operator that is built already
    """
    require_kind("make_problem", "acquisition", acquisition, Acquisition, "an Acquisition")
    if settings and not isinstance(operator, str):
        raise SettingsError(f"make_problem: found {', '.join(settings)} beside an operator, which has its settings")
    built = make_operator(operator, acquisition, **settings) if isinstance(operator, str) else operator
    require_kind("make_problem", "operator", built, Operator, "a name, or an instance of Operator")
    if not built.measures_images:
        return InverseProblem(built, acquisition.kspace, with_noise_std(acquisition).noise_std)
    image = with_reference(acquisition).reference
    assert image is not None
    data, noise_std = built.measure(image, seeded("make_problem", seed, image.device, MEASUREMENT))
    unscaled = InverseProblem(built, data, noise_std, scale=1)
    return replace(unscaled, scale=reference_scale(unscaled.sense()))


def with_reference(acquisition: Acquisition) -> Acquisition:
    """Return a fully sampled acquisition with its coil-combined image as reference, unless it brings one."""
    if acquisition.reference is not None:
        return acquisition
    if not acquisition.gapless:
        raise InputError(
            acquisition.source,
            "kspace",
            f"undersampled data (acceleration {acquisition.acceleration:.2f})",
            "fully sampled data, for an operator that measures images",
        )
    reference = make_operator("sense", acquisition).fully_sampled_image(acquisition.kspace)
    return replace(acquisition, reference=reference)


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device of ``auto`` (CUDA where there is one), ``cpu`` or ``cuda[:n]``."""
    device = str(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", device):
        raise SettingsError(f"device: found '{device}'; expected auto, cpu, cuda or cuda:<number>")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device: found '{device}'; this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.empty(0, device=found).device  # with its number, as tensors have it


def _moved(problem: InverseProblem, device: torch.device) -> InverseProblem:
    return replace(problem, operator=problem.operator.to(device), data=problem.data.to(device))


class Reconstruction:
    """A prior and a solver, combined; call it with a problem.

    Parameters
    ----------
    prior : registered name, or object, which is moved to the device; None for a solver such as ``cg-sense``
    solver : registered name or object; None takes that of the prior's first recipe, or ``mm-cg``. Names that a recipe
        combines have its settings
    device : ``auto`` (CUDA where there is one), ``cpu`` or ``cuda[:n]``; problems are moved there
    operator : registered name, for acquisitions; a problem has its own

    Examples
    --------
    >>> reconstruct = Reconstruction(prior="deepen", solver="mm-cg")  # doctest: +SKIP
    >>> solution = reconstruct(make_problem(simulate_acquisition()))  # doctest: +SKIP
    """

    def __init__(
        self,
        prior: str | Prior | None = None,
        solver: str | Solver | None = None,
        device: str | torch.device = "auto",
        *,
        operator: str = "sense",
    ) -> None:
        chosen: PriorChoice | None = None
        if solver is None or isinstance(solver, str):
            recipe = registry().usual(prior if isinstance(prior, str) else getattr(prior, "name", ""), solver)
            if prior is None or isinstance(prior, str):
                registry().match(prior, recipe.solver.name)  # before anything heavy
            chosen, solver = recipe.prior, make_solver(recipe.solver.name, **recipe.solver.settings)
        self.device, self.solver, self.operator = resolve_device(device), solver, operator
        if isinstance(prior, str):
            chosen = chosen or PriorChoice(name=prior)
            prior = make_prior(prior, weights=chosen.weights, **chosen.settings)
        if prior is not None:
            require_kind("Reconstruction", "prior", prior, Prior, "a name, or an instance of Prior")
        require_kind("Reconstruction", "solver", solver, Solver, "a name, or an instance of Solver")
        self.prior = None if prior is None else prior.to(self.device)

    def changed(self, solver: Solver) -> Reconstruction:
        """Return this reconstruction with another solver."""
        return Reconstruction(self.prior, solver, self.device, operator=self.operator)

    def __call__(
        self,
        problem: InverseProblem | Acquisition,
        *,
        seed: int = 0,
        initial: torch.Tensor | None = None,
        monitor: Monitor | None = None,
    ) -> Solution:
        """Reconstruct a problem, or an acquisition, prepared as `prepare_acquisition` does by default.

        `seed` is that of all draws: of the solver, and of the noise of an acquisition whose image is measured. The
        notes of the solution begin with what there is to say of the acquisition and of the operator.
        """
        kinds, expected = InverseProblem | Acquisition, "an InverseProblem or an Acquisition"
        require_kind("Reconstruction", "problem", problem, kinds, expected)
        said: tuple[str, ...] = ()
        if isinstance(problem, Acquisition):
            prepared = prepare_acquisition(problem.to(self.device))
            problem, said = make_problem(prepared, self.operator, seed=seed), prepared.remarks
        elif problem.data.device != self.device:
            problem = _moved(problem, self.device)
        generator = seeded("Reconstruction", seed, problem.data.device, SOLUTION)
        solution = self.solver(problem, self.prior, initial=initial, generator=generator, monitor=monitor)
        return replace(solution, notes=(*said, *problem.operator.notes, *solution.notes))
