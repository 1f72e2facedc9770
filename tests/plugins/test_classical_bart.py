"""Total variation, wavelets and CG-SENSE against BART on a real scan: the same data, maps, λ and scaling."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mriinv import InverseProblem, Solution, make_mask, make_prior, make_problem, make_solver, open_scan
from mriinv.metrics import evaluate
from support import PATIENCE, read_cfl, write_cfl

pytestmark = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
WEIGHT = 0.003


def pics(problem: InverseProblem, folder: Path, *options: str) -> Tensor:
    """Reconstruct with BART, its own scaling off: y and x are its dimensions 0 and 1, coils dimension 3."""
    arrays = {"kspace": problem.data, "maps": problem.operator.exported_maps()["coil_maps"]}
    for name, array in arrays.items():
        write_cfl(folder / name, array[0].movedim(0, -1)[:, :, None].numpy())
    command = ["bart", "pics", "-S", "-w", "1", *options, "kspace", "maps", "image"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=PATIENCE)
    image = torch.from_numpy(np.ascontiguousarray(read_cfl(folder / "image").reshape(problem.data.shape[-2:])))
    # its transform differs from ours by a constant sign for some sizes
    sign = torch.sign(torch.vdot(image.flatten(), problem.back_projection().flatten()).real)
    return (sign * image * problem.operator.support)[0][None]


@pytest.fixture(scope="module")
def scan(shared_data: Path) -> tuple[InverseProblem, Tensor]:
    """The problem at reference scale 1, and its reference."""
    with open_scan(shared_data / "bart_full8/full.npz") as file:
        full = file.read(0)
    problem = make_problem(full.undersampled(make_mask("poisson-2d", (230, 180), 4)))
    reference = problem.operator.fully_sampled_image(full.kspace)
    return problem.normalised(), reference / problem.scale.view(-1, 1, 1)


def difference(image: Tensor, other: Tensor) -> float:
    return float((image - other).norm() / other.norm())


def reconstruct(problem: InverseProblem, prior: str) -> Solution:
    return make_solver("fista")(problem, make_prior(prior, weight=WEIGHT))


def test_total_variation_agrees(scan: tuple[InverseProblem, Tensor], tmp_path: Path) -> None:
    problem, _ = scan
    theirs = pics(problem, tmp_path, "-m", "-u", "0.1", "-i", "100", "-R", f"T:3:0:{WEIGHT}")
    ours = reconstruct(problem, "tv")
    assert ours.converged.all() and difference(ours.image, theirs) < 2e-3


def test_wavelets_agree_and_are_not_worse(scan: tuple[InverseProblem, Tensor], tmp_path: Path) -> None:
    """BART shifts at random and goes on wandering, so that the images agree up to that."""
    problem, reference = scan
    theirs = pics(problem, tmp_path, "-i", "50", "-R", f"W:3:0:{WEIGHT}")
    ours = reconstruct(problem, "l1-wavelet")
    support = problem.operator.support
    assert ours.converged.all() and difference(ours.image, theirs) < 3e-2
    assert evaluate(ours.image, reference, support).psnr > evaluate(theirs, reference, support).psnr


def test_regularised_least_squares_agree(scan: tuple[InverseProblem, Tensor], tmp_path: Path) -> None:
    problem, _ = scan
    theirs = pics(problem, tmp_path, "-l2", "-r", "0.01", "-i", "60")
    assert difference(make_solver("cg-sense", regularisation=0.01)(problem).image, theirs) < 1e-4
