"""What tests of several files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import SafetensorError
from torch import Tensor

from mriinv import InverseProblem, Operator, complex_noise
from mriinv.cli import main
from mriinv.testing.analytic import DenseOperator, QuadraticPrior, gaussian_problem

PATIENCE = 600  # seconds for a process to end: no busy machine needs them, and a hanging test does not last for ever


def invoke(*arguments: object) -> Result:
    """Run the command line in this process; what it does not turn into a message is raised."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def succeed(*arguments: object) -> str:
    """Run the command line, which must end well, and return what it prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def random(*shape: int, seed: int = 0, std: float = 1.0, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Draw complex noise with `std` per real component: other numbers for another sum of `shape` and `seed`."""
    return complex_noise(shape, std, torch.Generator().manual_seed(seed + sum(shape)), dtype)


def kspace(*shape: int) -> np.ndarray:
    """Draw k-space as files hold it, in single precision."""
    return random(*shape, dtype=torch.complex64).numpy()


def scaled_problem(factor: float = 3.0, **options: Any) -> tuple[InverseProblem, QuadraticPrior, Tensor]:
    """The problem of `gaussian_problem` with A and b times `factor`."""
    problem, prior, hessian = gaussian_problem(**options)
    operator = cast(DenseOperator, problem.operator)
    larger = DenseOperator(factor * operator.matrix, operator.shape)
    return InverseProblem(larger, factor * problem.data, scale=problem.scale), prior, hessian


def unit_maps(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Draw coil maps ``(batch, coil, y, x)`` with unit sum of squares."""
    maps = random(*shape, seed=5, dtype=dtype)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


class Identity(Operator):
    """Measures the image itself."""

    name = "identity"

    def forward(self, image: Tensor) -> Tensor:
        return image

    def adjoint(self, data: Tensor) -> Tensor:
        return data


def graph_size(node: Any) -> int:
    """Count the nodes of the graph that ends in `node`."""
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return len(seen)


def write_hdf5(path: str | Path, **arrays: Any) -> Path:
    """Write a file of these datasets."""
    with h5py.File(path, "w") as file:
        file.update(arrays)
    return Path(path)


def write_npz(path: Path, **arrays: Any) -> Path:
    """Write an archive of these arrays, k-space under the name that it has there."""
    with path.open("wb") as file:  # given a name, NumPy would append .npz
        np.savez(file, **{"ksp" if name == "kspace" else name: value for name, value in arrays.items()})
    return path


def write_cfl(base: Path, array: np.ndarray) -> None:
    """Write an array, first axis fastest, as BART's pair of files."""
    base.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(base.with_suffix(".cfl"))


def read_cfl(base: Path) -> np.ndarray:
    """Read BART's pair of files."""
    sizes = [int(size) for size in base.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(base.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F")


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write of a safetensors file end halfway, as on a full disk."""

    def write(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mriinv.weights.save_file", write)
