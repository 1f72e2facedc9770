"""One evaluation: a method on a test slice under a mask, kept as a small file."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import time
import traceback
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mriinv import __version__
from mriinv.benchmark.plan import HeldOut, slug, weight_file
from mriinv.benchmark.scans import HeldOutSlice
from mriinv.compose import UNTRAINED, Reconstruction, make_prior, make_solver
from mriinv.config import RunConfig
from mriinv.core.prior import Prior
from mriinv.core.problem import Samples
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.simulate import simulate_acquisition
from mriinv.errors import MriinvError
from mriinv.files import atomic_path, reason, sha256, write_text
from mriinv.jobs import file_states
from mriinv.manifest import Kind
from mriinv.metrics import evaluate
from mriinv.numerics.images import centre_crop
from mriinv.provenance import code_of, hardware
from mriinv.registry import registry
from mriinv.validation import Case, retrospective_case

Record = dict[str, Any]
logger = logging.getLogger("mriinv")


@dataclass(frozen=True)
class Cell:
    """A method on a slice under a mask.

    Attributes
    ----------
    method : its label in the plan
    config : what runs, the weights of a training filled in
    training : name of the training; "" for none
    trained_for : the mask of the training, or "all masks"; "" for none
    mask : label in the plan
    """

    method: str
    config: RunConfig
    training: str
    trained_for: str
    tested: HeldOutSlice
    mask: str
    choice: MaskChoice

    def key(self, plan: HeldOut, device: torch.device) -> Record:
        """Return everything that determines the result."""
        tested = self.tested
        simulated = plan.model_dump(mode="json", include={"shape", "coils", "noise_std"})
        source = {**simulated, "seed": tested.index} if tested.path is None else [tested.scan, *tested.state]
        files = file_states(plan.preparation.maps, self.choice.file)
        return {
            "method": _combination(self.config),
            "source": source,
            "slice": tested.index,
            "preparation": plan.preparation.model_dump(mode="json"),
            "mask": self.choice.model_dump(mode="json"),
            **({"files": files} if files else {}),
            "device": device.type,
            "versions": {"mriinv": __version__, "torch": torch.__version__},
        }

    def path(self, folder: Path, plan: HeldOut, device: torch.device) -> Path:
        """Return the file of this cell, whose name tells what it is and changes with whatever determines it."""
        key = json.dumps(self.key(plan, device), sort_keys=True)
        trained = f"{self.trained_for} to {self.mask}" if self.trained_for else self.mask
        parts = (self.method, self.tested.group, self.tested.name, trained)
        return folder / f"{'_'.join(slug(part) for part in parts)}_{hashlib.sha256(key.encode()).hexdigest()[:10]}.json"


def _combination(config: RunConfig) -> Record:
    """Return a combination with the defaults and the code of its components, and the checksum of its weights."""
    chosen = config.model_dump(mode="json", include={"operator", "prior", "solver", "seed"})
    for kind, choice in config.parts.items():
        chosen[kind] |= _component(kind, choice.name)
    if (prior := chosen["prior"]) is not None:
        weights = weight_file(prior["name"], prior["weights"])
        prior["weights"] = weights and (weights.checksum or sha256(weights.path))
    return chosen


@lru_cache(maxsize=256)
def _component(kind: Kind, name: str) -> Record:
    """Return the defaults of a component, and which code it is."""
    defaults = registry().load(kind, name).parse_settings({}).model_dump(mode="json")
    return {"defaults": defaults, "code": code_of(kind, name)}


def run_cells(cells: list[Cell], folder: Path, plan: HeldOut, device: torch.device, keep: bool) -> None:
    """Compute cells of one slice, one mask and one operator; a failure is stored as the result.

    Parameters
    ----------
    keep : whether to store the images too
    """
    case: Case | None = None
    for cell in cells:
        path = cell.path(folder, plan, device)
        record: Record = {**described(cell), "error": None, "hardware": hardware(device)}
        try:
            _warm_up(device)
            if case is None:
                case = make_case(cell, plan, device)
            measured, images = _measured(cell, case, device)
            record |= measured
        except Exception as error:  # whatever a method does, the others go on
            if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
                gc.collect()
            images = {}
            record["error"] = reason(error)
            if not isinstance(error, MriinvError):  # nobody has seen this one coming
                record["traceback"] = traceback.format_exc()
        if keep and images:
            with atomic_path(path.with_suffix(".npz")) as temporary:
                np.savez_compressed(temporary, **images)  # type: ignore[arg-type]
        write_text(path, json.dumps({**record, "key": cell.key(plan, device)}, indent=1))


def described(cell: Cell) -> Record:
    """Return what a cell is, as it stands in its file and in the tables."""
    return {
        "method": cell.method,
        "training": cell.training,
        "trained_for": cell.trained_for,
        "test_set": cell.tested.group,
        "scan": cell.tested.scan,
        "slice": cell.tested.index,
        "mask": cell.mask,
    }


def make_case(cell: Cell, plan: HeldOut, device: torch.device) -> Case:
    """Undersample the slice of a cell."""
    full = cell.tested.load(plan, device)
    return retrospective_case(
        cell.tested.name, full, cell.choice.mask_for(full), cell.config.operator, plan.preparation.crop
    )


def prior_of(cell: Cell) -> Prior | None:
    """Build the prior of a cell; None for a solver without.

    Raises
    ------
    MriinvError : the cell is to have the weights of a training that has left none
    """
    choice = cell.config.prior
    if choice is None:
        return None
    if cell.training and choice.weights is None:
        raise MriinvError(f"training {cell.training} has left no weights")
    return make_prior(choice.name, weights=choice.weights, **choice.settings)


@cache
def _warm_up(device: torch.device) -> None:
    """Reconstruct something tiny, once in a process: what libraries load and set up then counts for no method."""
    tiny = simulate_acquisition(shape=(32, 32), coils=2).to(device)
    prior = make_prior("deepen", weights=UNTRAINED, widths=[4], blocks=1)
    Reconstruction(prior, make_solver("mm-cg", max_iterations=1), str(device))(tiny)


def _measured(cell: Cell, case: Case, device: torch.device) -> tuple[Record, dict[str, np.ndarray]]:
    prior, solver = prior_of(cell), cell.config.solver
    reconstruct = Reconstruction(prior, make_solver(solver.name, **solver.settings), str(device))
    memory = PeakMemory(device)
    started = time.perf_counter()
    solution = reconstruct(case.problem, seed=cell.config.seed + cell.tested.index)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    if not solution.image.isfinite().all():
        raise MriinvError("diverged: the image is not finite")
    image, reference, support = case.cropped(solution.image)
    record: Record = {
        **evaluate(image, reference, support).as_dict(),
        "seconds": seconds,
        "iterations": int(solution.iterations[0]),
        "converged": bool(solution.converged[0]),
        "memory_mib": memory.increase(),
        "parameters": 0 if prior is None else sum(p.numel() for p in prior.parameters()),
        "notes": list(solution.notes),
    }
    images = {"image": _stored(image[0], reference)}
    if isinstance(solution, Samples):
        images["std"] = _stored(centre_crop(solution.magnitude_std, case.crop)[0], reference)
    return record, images


def _stored(image: Tensor, reference: Tensor) -> np.ndarray:
    """Return an image as float16 with a last axis of real and imaginary part, the reference having maximum 1."""
    scaled = (image / reference.abs().max()).to("cpu", torch.complex64)
    return torch.view_as_real(scaled).to(torch.float16).numpy()


def read_images(path: Path, reference: Tensor) -> dict[str, Tensor]:
    """Return the images kept beside a cell, in the units of `reference`."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}
    return {name: torch.view_as_complex(values) * reference.abs().max().cpu() for name, values in arrays.items()}


def read_cell(path: Path) -> Record | None:
    """Return a stored cell; None where there is none, or one that is damaged."""
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"found {type(record).__name__}; expected a mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is computed again: %s", path, error)
        return None
    return record


class PeakMemory:
    """The largest memory in use from now on, above what is in use now; known on Linux and with CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, 0
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # memory that was used and freed would hide what is taken
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except (OSError, AttributeError, KeyError):
            self._before = -1

    def increase(self) -> float | None:
        """Return MiB."""
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._before) / 2**20
        return None if self._before < 0 else max(0, _status("VmHWM") - self._before) / 2**10


def _status(field: str) -> int:
    """Return an entry of /proc/self/status in KiB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {name.rstrip(":"): int(values[0]) for name, *values in lines if values and values[0].isdigit()}[field]
