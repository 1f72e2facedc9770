"""The examples of docs/plugins.md work, together and as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mriinv import (
    Solution,
    complex_noise,
    make_mask,
    make_problem,
    make_solver,
    open_scan,
    simulate_acquisition,
)
from mriinv.check import check_scan
from mriinv.core.capabilities import CAPABILITIES
from mriinv.data.heads import ProceduralHeads
from mriinv.data.training import SimulatedProblems
from mriinv.manifest import Manifest
from mriinv.registry import Registry
from mriinv.testing.analytic import gaussian_problem
from mriinv.training.loop import LoopOptions, train

GUIDE = (Path(__file__).resolve().parents[1] / "docs/plugins.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)\n```", GUIDE, flags=re.S)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the Python examples define, once they have run one after the other."""
    found: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/plugins.md", "exec"), found)
    return found


def test_the_catalogue_is_one(names: dict[str, Any]) -> None:
    (text,) = blocks("yaml")
    manifest = Manifest.model_validate(yaml.safe_load(text.replace('"…"', f'"{"0" * 64}"')))
    prior, solver = manifest.components
    assert names["mriinv_components"]() == {"prior:wiener": prior.target}
    assert set(prior.provides) == names["Wiener"].provides
    assert tuple(map(frozenset, solver.requires)) == names["ScoreLangevin"].requires
    assert prior.trained_by is not None and prior.trained_by.name == names["ScoreRegression"].name


def test_every_capability_is_explained() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|", GUIDE, flags=re.M)) == CAPABILITIES


def test_the_solver_finds_the_minimum(names: dict[str, Any]) -> None:
    problem, prior, hessian = gaussian_problem()
    solution = names["Descent"](tolerance=1e-9, max_iterations=20000)(problem, prior)
    assert solution.converged.all()
    exact = torch.linalg.solve(hessian, problem.back_projection().flatten(1).T).T.view_as(solution.image)
    torch.testing.assert_close(solution.image, exact, rtol=0, atol=1e-5)
    assert (solution.history["cost"].diff(dim=0) <= 1e-12).all()  # but for rounding


def test_the_trainer_trains_the_prior(names: dict[str, Any], tmp_path: Path) -> None:
    operator = names["LowResolutionSense"]
    source = SimulatedProblems(ProceduralHeads(), shape=(32, 32), coils=2, pool=8, make_operator=operator)
    prior, trainer = names["Wiener"](slope=0.5), names["ScoreRegression"](updates=30, batch=8)
    images = source.images(16, torch.Generator().manual_seed(1))

    def error() -> float:
        noise = 0.1 * complex_noise(images.shape, 1.0, torch.Generator().manual_seed(2))
        return float((prior.denoise(images + noise, 0.1) - images).abs().square().mean())

    before = error()
    train(prior, trainer, source, LoopOptions(tmp_path))
    assert error() < 0.9 * before


def test_the_temperature_widens_the_samples(names: dict[str, Any]) -> None:
    """The posterior of this prior is Gaussian; fully sampled, the chains mix in a few steps."""
    full = simulate_acquisition(shape=(24, 20), coils=4)
    problem = make_problem(full, names["LowResolutionSense"].from_acquisition(full, width=8))
    cold, hot = (
        names["ScoreLangevin"](samples=64, chains=64, batch=64, levels=10, burn_in=20, long_run=0, temperature=t)(
            problem, names["Wiener"]()
        )
        for t in (1.0, 4.0)
    )
    ratio = float(hot.std.square().mean() / cold.std.square().mean())
    assert ratio == pytest.approx(4.0, rel=0.1)


def test_the_operator_reconstructs(names: dict[str, Any]) -> None:
    full = simulate_acquisition(shape=(24, 20), coils=4)
    problem = make_problem(full, names["LowResolutionSense"].from_acquisition(full, width=8))
    assert problem.operator.settings.width == 8
    solution = make_solver("cg-sense")(problem)
    assert isinstance(solution, Solution) and torch.isfinite(solution.image.abs()).all()
    assert (problem.operator(solution.image) - full.kspace).norm() < 0.3 * full.kspace.norm()


def test_the_reader_reads(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = simulate_acquisition(shape=(48, 40), coils=4, slices=2)
    sampled = full.undersampled(make_mask("random-1d", (48, 40), 2.0, 16))
    np.save(tmp_path / "scan.npy", sampled.kspace.numpy())
    monkeypatch.setattr(Registry, "readers", lambda _: [names["NpyScan"]])
    with open_scan(tmp_path / "scan.npy") as scan:
        read, described = scan.read(1), scan.describe()
    assert torch.equal(read.kspace, sampled.kspace[1:]) and read.index == 1
    assert torch.equal(read.mask.expand(1, 48, 40), sampled.mask.expand(1, 48, 40))
    assert (described["slices"], described["coils"], described["matrix"]) == (2, 4, [48, 40])
    assert check_scan(tmp_path / "scan.npy").reconstructible
