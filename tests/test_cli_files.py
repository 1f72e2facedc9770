"""Folders, patterns, preparation and other formats on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from mriinv import simulate_acquisition
from mriinv.cli import main
from mriinv.data.results import read_result

SHAPE, COILS = (64, 56), 8


@pytest.fixture(autouse=True)
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two volumes of one slice in ``scans``, beside a file of another kind; the working folder is their parent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("scans").mkdir()
    Path("scans/notes.txt").write_text("not a scan")
    paths = [Path("scans/a.h5"), Path("scans/b.h5")]
    for seed, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file["kspace"] = simulate_acquisition(shape=SHAPE, coils=COILS, seed=seed).kspace.numpy()
    return paths


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


CG = ("--recipe", "cg-sense")


@pytest.mark.parametrize("given", ["scans", "scans/*.h5", "scan*"])
def test_folders_and_patterns_stand_for_the_scans_in_them(given: str) -> None:
    reports = json.loads(succeed("run", given, *CG, "--json"))
    assert [report["source"] for report in reports] == ["scans/a.h5", "scans/b.h5"]
    assert all(report["complete"] for report in reports)


def test_results_in_a_folder_are_no_scans(scans: list[Path]) -> None:
    succeed("run", scans[0], *CG)
    Path("result/a.h5").rename("scans/older.h5")
    Path("result/a.png").unlink()
    assert len(json.loads(succeed("run", "scans", *CG, "--json"))) == 2


@pytest.mark.parametrize("given", ["*.h5", "empty"])
def test_folders_and_patterns_without_scans(given: str) -> None:
    Path("empty").mkdir()
    result = invoke("run", given, *CG)
    assert result.exit_code == 1 and result.output.startswith(f"error: {given}: found a ")


def test_the_same_again_is_kept_unless_restarted(scans: list[Path]) -> None:
    succeed("run", scans[0], *CG)
    before = Path("result/a.h5").stat().st_mtime_ns
    assert "all slices were finished by an earlier run of the same" in succeed("run", scans[0], *CG)
    assert Path("result/a.h5").stat().st_mtime_ns == before
    assert "all slices" not in succeed("run", scans[0], *CG, "--restart")
    with h5py.File(scans[0], "r+") as file:
        file["kspace"][...] = 2 * file["kspace"][...]
    assert "all slices" not in succeed("run", scans[0], *CG)  # the input is another one


def test_images_are_cropped_whether_k_space_can_be_or_not(scans: list[Path]) -> None:
    options = (*CG, "--mask", "equispaced-1d", "--acceleration", "2", "--calibration", "16")
    succeed("run", scans[0], *options)
    whole = read_result("result/a.h5")
    succeed("run", scans[0], *options, "--crop", "48", "40", "--out", "cropped")
    cropped = read_result("cropped/a.h5")
    for name in ("zero_filled", "reference", "support", "coil_maps"):
        assert cropped.arrays[name].shape[-2:] == (48, 40)
    assert cropped.arrays["mask"].shape[-2:] == (48, 40)  # fully sampled: cropped before the mask
    with h5py.File("under.h5", "w") as file:
        file["kspace"] = whole.arrays["mask"].numpy() * h5py.File(scans[0])["kspace"][...]
    succeed("run", "under.h5", *CG, "--crop", "48", "40", "--out", "cropped")
    under = read_result("cropped/under.h5")
    assert under.image.shape == (1, 48, 40) and under.arrays["mask"].shape[-2:] == (48, 56)
    full = read_result("result/a.h5").image[:, 8:56, 8:48]
    assert float((under.image.abs() - full.abs()).norm() / full.norm()) < 0.05


def test_virtual_coils_and_what_they_lose(scans: list[Path]) -> None:
    text = succeed("run", scans[0], *CG, "--coils", "6", "--set", "preparation.compression=geometric")
    assert "6 virtual coils of 8" in text and "%" in text
    result = read_result("result/a.h5")
    assert result.arrays["coil_maps"].shape[1] == 6
    assert result.settings["preparation"] == {"whiten": True, "crop": None, "coils": 6, "compression": "geometric"}


def test_a_run_file_may_say_how_to_prepare(scans: list[Path]) -> None:
    Path("run.yaml").write_text(f"input: {scans[0]}\nrecipe: cg-sense\npreparation: {{coils: 5, crop: [50, 50]}}\n")
    succeed("run", "--config", "run.yaml", "--coils", "4")
    assert read_result("result/a.h5").settings["preparation"]["coils"] == 4
    assert read_result("result/a.h5").image.shape == (1, 50, 50)


def test_other_formats(scans: list[Path]) -> None:
    text = succeed("run", scans[0], *CG, "--format", "nii.gz", "--format", "cfl")
    assert "result/a.nii.gz" in text and "result/a.cfl" in text
    magnitude = read_result("result/a.h5").image[0].abs()
    volume = np.asarray(nibabel.load("result/a.nii.gz").dataobj)
    assert np.allclose(volume[:, :, 0].T, magnitude, rtol=1e-5)
    assert succeed("export", "result/a.h5", "--format", "png", "--out", "png").split() == ["png/a_000.png"]


def test_an_unknown_format_is_refused_before_the_work(scans: list[Path]) -> None:
    result = invoke("run", scans[0], *CG, "--format", "nifti")
    assert result.exit_code == 1 and "unknown export format 'nifti'" in result.output and not Path("result").exists()


def test_check(scans: list[Path]) -> None:
    assert "coils" in succeed("check", scans[0])
    report = json.loads(succeed("check", scans[0], "--json"))
    assert report["found"]["coils"] == COILS and report["problems"] == []
    result = invoke("check", "scans/notes.txt")
    assert result.exit_code == 1 and "known formats" in result.output


def test_tune_writes_a_run_file(scans: list[Path]) -> None:
    options = ("--solver", "cg-sense", "--mask", "poisson-2d", "--calibration", "16")
    search = ("--parameter", "solver.regularisation", "--bounds", "1e-3", "1", "--out", "tuned.yaml")
    found = json.loads(succeed("tune", *scans, *options, *search, "--json"))
    assert 1e-3 <= found["value"] <= 1 and found["psnr"] >= found["default"]
    succeed("run", scans[0], "--config", "tuned.yaml")
    assert read_result("result/a.h5").settings["solver"]["settings"]["regularisation"] == found["value"]
