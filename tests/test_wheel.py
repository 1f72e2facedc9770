"""The wheel holds everything that the checkout works with."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mriinv.manifest import load_manifest
from support import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_file_of_the_packages_is_in_the_wheel(site: Path) -> None:
    for tree in (ROOT / "src", ROOT / "plugins"):
        for path in tree.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:  # weights, too
                copy = site / path.relative_to(tree)
                assert copy.is_file() and copy.stat().st_size == path.stat().st_size, f"{path} is not in the wheel"


def test_nothing_else_is_in_the_wheel(site: Path) -> None:
    packages = {path.parent.name for path in ROOT.glob("*/mriinv*/__init__.py")}
    (information,) = site.glob("*.dist-info")
    assert {path.name for path in site.iterdir()} == packages | {information.name}


def test_the_catalogue_and_the_licence_are_in_the_wheel(site: Path) -> None:
    assert (site / "mriinv" / "registry.yaml").read_bytes() == (ROOT / "registry.yaml").read_bytes()
    (licence,) = site.glob("*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_entry_points_and_targets_exist(site: Path) -> None:
    (path,) = site.glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser(delimiters="=")
    points.read(path)
    assert points["console_scripts"]["mriinv"] == "mriinv.cli:main"
    packages = set(points["mriinv"].values())
    catalogue = load_manifest(site / "mriinv" / "registry.yaml")
    for entry in catalogue.components:
        module = entry.target.partition(":")[0]
        assert (site / (module.replace(".", "/") + ".py")).is_file() and module.split(".")[0] in packages
        for weights in entry.weights:
            assert (site / module.split(".")[0] / weights.file).is_file()
    assert {entry.target.split(".")[0] for entry in catalogue.components} == packages


def test_what_was_unpacked_works_on_its_own(site: Path) -> None:
    code = "import mriinv.registry as r; print(r.own_catalogue()); print(*r.registry().components('solver'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site), "MRIINV_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    catalogue, solvers = done.stdout.splitlines()
    assert Path(catalogue) == site / "mriinv" / "registry.yaml"
    assert "mm-cg" in solvers.split()
