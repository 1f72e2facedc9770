"""Plug-ins of other distributions, really installed: one that works, one that is broken, one that claims names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mriinv import InverseProblem, make_mask, make_problem, simulate_acquisition
from mriinv.data.results import Result, read_result
from mriinv.manifest import load_manifest
from mriinv.registry import Registry
from support import PATIENCE

PROJECTS = Path(__file__).parent / "third_party"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-input", "--disable-pip-version-check", "-q"]
    projects = sorted(str(project) for project in PROJECTS.glob("mriinv-*"))
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *projects]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kspace = simulate_acquisition(shape=(48, 40), coils=4).kspace[0]
    path = tmp_path_factory.mktemp("toy") / "scan.toy"
    path.write_bytes(b"TOY 4 48 40\n" + kspace.numpy().tobytes())
    return path


def undersampled_problem() -> InverseProblem:
    """What `reconstruct` solves."""
    acquisition = simulate_acquisition(shape=(48, 40), coils=4)
    return make_problem(acquisition.undersampled(make_mask("random-1d", (48, 40), 2.0, 16)))


def ridge(weight: float) -> torch.Tensor:
    """The minimiser of ½‖Ax − b‖² + ½·weight·‖x‖²."""
    problem = undersampled_problem()
    return problem.operator.solve_normal(problem.back_projection(), weight, tolerance=1e-7, max_iterations=200).solution


def reconstruct(
    run_mriinv: Run, site: Path, toy_file: Path, out: Path, *options: str, **environment: str
) -> tuple[Result, str]:
    undersampling = ("--mask", "random-1d", "--acceleration", "2", "--acs", "16")
    done = run_mriinv("run", toy_file, *undersampling, "--out", out, *options, site=site, **environment)
    assert done.returncode == 0, done.stderr
    return read_result(out / "scan.h5"), done.stderr


def listing(run_mriinv: Run, site: Path, **environment: str) -> dict[tuple[str, str], str]:
    done = run_mriinv("list", "--json", site=site, **environment)
    assert done.returncode == 0, done.stderr
    return {(row["kind"], row["name"]): row["from"] for row in json.loads(done.stdout)}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_list_shows_components_with_their_distribution(run_mriinv: Run, site: Path) -> None:
    found = listing(run_mriinv, site, MRIINV_PLUGINS="mriinv-toy")
    assert found["prior", "toy-quadratic"] == found["solver", "gradient-descent"] == "mriinv-toy"
    assert ("recipe", "mriinv-toy:ridge") in found
    shown = run_mriinv("list", "solver", site=site, MRIINV_PLUGINS="mriinv-toy").stdout
    assert "steepest descent with a fixed step  [mriinv-toy]" in shown


def test_the_list_shows_names_claimed_twice_as_they_must_be_written(run_mriinv: Run, site: Path) -> None:
    found = listing(run_mriinv, site)
    assert found["solver", "mm-cg"] == "mriinv"
    assert ("solver", "gradient-descent") not in found
    for name in ("mriinv-toy:gradient-descent", "mriinv-collision:gradient-descent", "mriinv-collision:mm-cg"):
        assert found["solver", name] == name.partition(":")[0]


@pytest.mark.parametrize(
    ("value", "expected"), [("", set()), ("mriinv-toy, mriinv-broken", {"mriinv-toy", "mriinv-broken"})]
)
def test_the_environment_chooses_the_distributions(run_mriinv: Run, site: Path, value: str, expected: set[str]) -> None:
    done = run_mriinv("plugins", "--json", site=site, MRIINV_PLUGINS=value)
    assert done.returncode == 0 and "WARNING" not in done.stderr
    origins = {row["distribution"].split()[0] for row in json.loads(done.stdout)["plugins"]}
    assert origins - {"mriinv"} == expected
    if not value:
        found = listing(run_mriinv, site, MRIINV_PLUGINS="")
        assert ("solver", "mm-cg") in found and "mriinv-toy" not in found.values()
        assert not any(name.startswith("mriinv-toy:") for _, name in found)


def test_a_foreign_prior_works_with_a_built_in_solver_on_the_simulated_scan(
    run_mriinv: Run, site: Path, tmp_path: Path
) -> None:
    settings = ("--set", "prior.weight=0.05", "--set", "solver.robust=false")  # the closed form is that of squares
    options = ("--prior", "toy-quadratic", "--solver", "mm-cg", *settings, "--out", tmp_path)
    done = run_mriinv("run", *options, "--json", site=site)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["slices"][0]["converged"]
    acquisition = simulate_acquisition()
    problem = make_problem(acquisition.undersampled(make_mask("poisson-2d", (192, 160), 4.0)))
    wanted = problem.operator.solve_normal(problem.back_projection(), 0.05).solution
    assert relative(read_result(tmp_path / "simulated.h5").image, wanted) < 2e-3
    assert (tmp_path / "simulated.png").is_file()


def test_the_gradient_of_a_foreign_energy_is_derived_and_reported(run_mriinv: Run, site: Path) -> None:
    plan = run_mriinv("run", "--prior", "toy-quadratic", "--dry-run", "--json", site=site)
    assert json.loads(plan.stdout)["derivations"] == ["energy -> gradient (autograd)"]


def test_a_foreign_solver_works_with_a_foreign_prior_and_reader(
    run_mriinv: Run, site: Path, toy_file: Path, tmp_path: Path
) -> None:
    chosen = ("--prior", "toy-quadratic", "--solver", "gradient-descent", "--set", "prior.weight=0.2")
    result, _ = reconstruct(run_mriinv, site, toy_file, tmp_path, *chosen, MRIINV_PLUGINS="mriinv-toy")
    assert relative(result.image, ridge(0.2)) < 1e-4
    unread = run_mriinv("run", toy_file, "--recipe", "cg-sense", "--out", tmp_path, site=site, MRIINV_PLUGINS="")
    assert unread.returncode == 1 and "none of the known formats" in unread.stderr  # it was the plug-in that read it


def test_a_recipe_means_the_components_of_its_own_distribution(
    run_mriinv: Run, site: Path, toy_file: Path, tmp_path: Path
) -> None:
    options = ("--recipe", "mriinv-toy:ridge", "--set", "solver.iterations=300")
    result, warnings = reconstruct(run_mriinv, site, toy_file, tmp_path, *options)
    assert relative(result.image, ridge(0.05)) < 1e-4
    assert result.settings["solver"]["name"] == "mriinv-toy:gradient-descent"
    assert "plug-in 'broken' of mriinv-broken 1.0 failed: ImportError: mriinv_broken needs a library" in warnings


def test_a_broken_plugin_is_reported_and_the_rest_works(run_mriinv: Run, site: Path) -> None:
    done = run_mriinv("plugins", "--json", site=site)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    states: dict[str, Any] = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert states["broken"]["status"] == "failed"
    assert states["broken"]["problem"] == "ImportError: mriinv_broken needs a library of 1994"
    assert {row["status"] for name, row in states.items() if name != "broken"} == {"ok"}
    shown = run_mriinv("plugins", site=site).stdout
    (line,) = [line for line in shown.splitlines() if "mriinv-broken" in line]
    assert line.startswith("failed") and line.endswith("ImportError: mriinv_broken needs a library of 1994")


def test_every_component_can_be_checked(run_mriinv: Run, site: Path) -> None:
    toy = run_mriinv("plugins", "--check", site=site, MRIINV_PLUGINS="mriinv-toy")
    assert toy.returncode == 0 and "failed" not in toy.stdout and "toy-quadratic" in toy.stdout
    changed = site / "mriinv_toy" / "registry.yaml"
    catalogue = changed.read_text()
    try:
        changed.write_text(catalogue.replace("provides: [energy]", "provides: [denoiser]"))
        wrong = run_mriinv("plugins", "--check", site=site, MRIINV_PLUGINS="mriinv-toy")
        changed.write_text(catalogue)
        hooks = site / "mriinv_toy" / "__init__.py"
        kept = hooks.read_text()
        hooks.write_text(kept + "\n\n@hookimpl(specname='mriinv_readers')\ndef more():\n    return ['a file']\n")
        no_reader = run_mriinv("plugins", "--check", site=site, MRIINV_PLUGINS="mriinv-toy")
        hooks.write_text(kept)
        changed.write_text(catalogue.replace("kind: prior", "kind: pryor"))
        unreadable = run_mriinv("info", "toy-quadratic", site=site, MRIINV_PLUGINS="mriinv-toy")
    finally:
        changed.write_text(catalogue)
    assert wrong.returncode == 1
    assert "mriinv_toy.prior:Quadratic provides energy; the catalogue says denoiser" in wrong.stdout
    assert no_reader.returncode == 1
    assert "mriinv_readers: found 'a file'; expected classes that implement Scan" in no_reader.stdout
    assert "(plug-in 'toy' failed, `mriinv plugins` says why)" in unreadable.stderr


def test_a_component_of_a_broken_plugin_says_why_it_cannot_be_used(run_mriinv: Run, site: Path) -> None:
    done = run_mriinv("info", "broken-solver", site=site)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: plug-in 'broken' of mriinv-broken 1.0 failed: ImportError: mriinv_broken needs")


def test_a_built_in_keeps_its_name_and_both_distributions_are_named(run_mriinv: Run, site: Path) -> None:
    done = run_mriinv("info", "mm-cg", "--json", site=site)
    (component,) = json.loads(done.stdout)
    assert component["from"].startswith("mriinv 0")
    (warning,) = [line for line in done.stderr.splitlines() if "'mm-cg'" in line]
    assert warning.startswith("WARNING: solver 'mm-cg' is offered by mriinv 0")
    assert "mriinv-collision 1.0: the built-in is used" in warning
    assert warning.endswith("write 'mriinv-collision:mm-cg'")


def test_the_qualified_name_reaches_the_one_that_lost(
    run_mriinv: Run, site: Path, toy_file: Path, tmp_path: Path
) -> None:
    chosen = ("--prior", "toy-quadratic", "--solver", "mriinv-collision:mm-cg")
    result, _ = reconstruct(run_mriinv, site, toy_file, tmp_path, *chosen)
    assert relative(result.image, undersampled_problem().back_projection()) < 1e-5


def test_a_name_of_two_third_parties_belongs_to_neither(run_mriinv: Run, site: Path) -> None:
    done = run_mriinv("run", "--prior", "toy-quadratic", "--solver", "gradient-descent", site=site)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: solver 'gradient-descent' is offered by several distributions; "
        "write 'mriinv-collision:gradient-descent' or 'mriinv-toy:gradient-descent'"
    )


def test_the_catalogues_of_the_examples_hold(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the catalogue says of examples that others will copy is what their classes say."""
    monkeypatch.syspath_prepend(str(site))
    installed = Registry()
    for package in ("mriinv_toy", "mriinv_collision"):
        for entry in load_manifest(site / package / "registry.yaml").components:
            cls = installed.load(entry.kind, f"{package.replace('_', '-')}:{entry.name}")  # compares them
            assert cls.__module__.startswith(package)
