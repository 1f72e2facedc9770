"""Folders, patterns, preparation and other formats on the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from mriinv import setup, simulate_acquisition
from mriinv.data.result_writer import ResultWriter
from mriinv.data.results import read_result
from mriinv.files import unwritable
from mriinv.jobs import file_states
from mriinv.provenance import code_of
from mriinv.registry import registry
from support import invoke, succeed, write_cfl, write_hdf5

SHAPE, COILS = (64, 56), 8


@pytest.fixture(autouse=True)
def scans(working_folder: Path, without_gpu: None) -> list[Path]:
    """Two volumes of one slice in ``scans``, beside a file of another kind; the working folder is their parent."""
    Path("scans").mkdir()
    Path("scans/notes.txt").write_text("not a scan")
    kspaces = [simulate_acquisition(shape=SHAPE, coils=COILS, seed=seed).kspace.numpy() for seed in range(2)]
    return [write_hdf5(f"scans/{name}.h5", kspace=kspace) for name, kspace in zip("ab", kspaces, strict=True)]


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


def test_files_that_look_like_scans_and_are_none_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    write_hdf5("scans/weights.h5", weights=np.ones(3))
    assert len(json.loads(succeed("run", "scans", *CG, "--json"))) == 2
    assert "left out: scans/weights.h5: found no 'kspace'" in caplog.text


def test_exports_in_a_folder_are_no_scans() -> None:
    for _ in range(2):  # the second time they are there
        reports = json.loads(succeed("run", "scans", *CG, "--out", "scans/result", "--format", "cfl", "--json"))
        assert len(reports) == 2
        for path in (*Path("scans/result").glob("*.cfl"), *Path("scans/result").glob("*.hdr")):
            path.replace(Path("scans", path.name))
    assert Path("scans/a.cfl").exists()


@pytest.mark.parametrize("content", [b"", bytes(5000), None])
def test_what_is_called_like_a_scan_and_is_none_is_reported(content: bytes | None) -> None:
    if content is None:
        Path("scans/c.h5").symlink_to("nowhere")
    else:
        Path("scans/c.h5").write_bytes(content)
    result = invoke("run", "scans", *CG, "--json")
    *good, bad = json.loads(result.stdout)
    assert result.exit_code == 1 and all(report["complete"] for report in good) and len(good) == 2
    assert bad["source"] == "scans/c.h5" and bad["error"].startswith("scans/c.h5: found ")


def test_damaged_scans_of_a_folder_are_reported_at_the_end(scans: list[Path]) -> None:
    Path("scans/aa.h5").write_bytes(scans[1].read_bytes()[:5000])
    result = invoke("run", "scans", *CG, "--json")
    first, second, damaged = json.loads(result.stdout)
    assert result.exit_code == 1 and first["complete"] and second["complete"]
    assert damaged["source"] == "scans/aa.h5" and "damaged or unreadable" in damaged["error"]


def test_a_folder_of_damaged_scans_alone_says_why(scans: list[Path]) -> None:
    Path("only").mkdir()
    Path("only/aa.h5").write_bytes(scans[1].read_bytes()[:5000])
    for command in (("run", "only", *CG), ("run", "only", *CG, "--dry-run"), ("check", "only")):
        result = invoke(*command)
        assert result.exit_code == 1 and "only/aa.h5: found damaged or unreadable" in result.output
    assert not list(Path("result").glob("*.h5"))


def test_a_folder_is_checked_with_what_is_damaged_in_it(scans: list[Path]) -> None:
    Path("scans/aa.h5").write_bytes(scans[1].read_bytes()[:5000])
    result = invoke("check", "scans")
    assert result.exit_code == 1
    assert sum(line.startswith("problem: ") for line in invoke("check", "scans", "scans/aa.*").stdout.splitlines()) == 1
    verdicts = [line for line in result.stdout.splitlines() if line.endswith("be reconstructed")]
    assert verdicts == ["can be reconstructed", "cannot be reconstructed", "can be reconstructed"]


def test_a_scan_that_is_named_twice_is_one(scans: list[Path]) -> None:
    assert len(json.loads(succeed("run", "scans", scans[0], "scans/*.h5", *CG, "--json"))) == 2


def test_a_pair_of_bart_is_one_scan(scans: list[Path]) -> None:
    with h5py.File(scans[0]) as file:
        kspace = file["kspace"][0]
    write_cfl(Path("scans/pair"), kspace.transpose(1, 2, 0)[:, :, None])
    for given in (("scans/pair.*",), ("scans/pair.cfl", "scans/pair.hdr"), ("scans/pair",)):
        (report,) = json.loads(succeed("run", *given, *CG, "--json"))
        assert report["complete"] and Path(report["result"]).name == "pair.h5"
    before = Path("scans/pair.cfl").read_bytes()
    result = invoke("run", "scans/pair.cfl", *CG, "--out", "scans", "--format", "cfl")
    assert result.exit_code == 1 and "found a file that was not exported by mriinv" in result.output
    assert Path("scans/pair.cfl").read_bytes() == before


def test_pairs_of_bart_with_a_dot_in_their_names_have_results_of_their_own(scans: list[Path]) -> None:
    with h5py.File(scans[0]) as file:
        kspace = file["kspace"][0].transpose(1, 2, 0)[:, :, None]
    for name in ("scan.01", "scan.02"):
        write_cfl(Path(f"{name}.cfl"), kspace)
    reports = json.loads(succeed("run", "scan.01", "scan.01.cfl", "scan.02", *CG, "--json"))
    assert [report["result"] for report in reports] == ["result/scan.01.h5", "result/scan.02.h5"]


def test_a_mask_of_ones_own_fits_k_space_that_is_cropped_or_padded(scans: list[Path]) -> None:
    """Zero padding along x is not cropped before the reconstruction, y is."""
    with h5py.File(scans[0]) as file:
        kspace = file["kspace"][...]
    kspace[..., :2] = kspace[..., -2:] = 0
    write_hdf5("padded.h5", kspace=kspace)
    crop = (SHAPE[0] - 16, SHAPE[1] - 8)
    for columns in (SHAPE[1], crop[1]):
        mask = np.arange(columns) % 2 == 0
        mask[columns // 2 - 8 : columns // 2 + 8] = True
        np.save("mask.npy", mask)
        result = invoke("run", "padded.h5", *CG, "--crop", *crop, "--mask", "mask.npy")
        assert (result.exit_code == 0) == (columns == SHAPE[1]), result.output
    assert f"expected ({crop[0]}, {SHAPE[1]}) as k-space" in result.output


def test_coil_maps_that_are_missing_are_refused_before_the_work(scans: list[Path]) -> None:
    result = invoke("run", scans[0], *CG, "--maps", "nothing.npz", "--dry-run")
    assert result.exit_code == 1 and "nothing.npz: found no such file; expected coil maps" in result.output


def test_a_slice_that_fails_does_not_end_the_others() -> None:
    with h5py.File("scans/a.h5") as file:
        kspace = np.repeat(file["kspace"][...], 4, 0)
    kspace[1] = 0
    write_hdf5("edge.h5", kspace=kspace)
    result = invoke("run", "edge.h5", *CG)
    assert result.exit_code == 1 and "no sample in slice 1" in result.output
    assert read_result("result/edge.h5").slices == (0, 2, 3)
    result = invoke("run", "edge.h5", *CG)
    assert "slices kept from an earlier run of the same: 0, 2, 3" in result.output


def test_an_empty_reference_costs_the_metrics_only() -> None:
    with h5py.File("scans/a.h5", "r+") as file:
        file["reference"] = np.zeros((1, *SHAPE), np.complex64)
    assert "note: slice 0: without metrics: " in succeed("run", "scans/a.h5", *CG)


def test_a_changed_file_of_coil_maps_makes_another_result(scans: list[Path]) -> None:
    succeed("run", scans[0], *CG)
    maps = read_result("result/a.h5").arrays["coil_maps"][0].numpy()
    options = (*CG, "--maps", "maps.npy")
    images = []
    for factor in (1, 1.5):
        np.save("maps.npy", factor * maps)
        text = succeed("run", scans[0], *options)
        assert "kept" not in text and "replaces an older result" in text
        images.append(read_result("result/a.h5").image)
    assert not torch.allclose(*images)


@pytest.mark.parametrize("name", ["maps", "maps.hdr", "maps.cfl"])
def test_a_change_of_either_file_of_a_pair_is_seen(name: str) -> None:
    write_cfl(Path("maps"), np.ones((4, 4), np.complex64))
    assert set(file_states(Path(name))) == {"maps.cfl", "maps.hdr"}


def test_inputs_of_one_name_have_results_in_folders_of_their_own(scans: list[Path]) -> None:
    for subject, scan in zip(("one/day", "two"), scans, strict=True):
        Path("study", subject).mkdir(parents=True)
        Path(scan).rename(Path("study", subject, "scan.h5"))
    reports = json.loads(succeed("run", "study/one/day/scan.h5", "study/two/scan.h5", *CG, "--json"))
    assert [report["result"] for report in reports] == ["result/one/day/scan.h5", "result/two/scan.h5"]
    assert all(Path(report["figure"]).is_file() and report["complete"] for report in reports)


@pytest.mark.parametrize(("length", "code"), [(197, 0), (198, 1), (252, 1)])
def test_file_names_too_long_for_what_is_named_after_them_are_refused(
    scans: list[Path], length: int, code: int
) -> None:
    named = Path(scans[0]).rename(f"{'a' * length}.h5")
    ran = invoke("run", named, *CG, "--format", "nii.gz")
    assert ran.exit_code == code and Path("result").exists() == (code == 0)
    assert code == 0 or f"found a file name of {length + 3} bytes; expected at most 200" in ran.stderr


def test_a_name_that_the_system_refuses_is_reported_without_a_traceback() -> None:
    ran = invoke("run", f"{'a' * 600}*.h5", *CG)
    assert ran.exit_code == 1 and re.match(r"error: \[Errno \d+\] File name too long", ran.stderr)


def test_a_reference_in_other_units_is_noticed(scans: list[Path]) -> None:
    full = simulate_acquisition(shape=SHAPE, coils=COILS)
    assert full.reference is not None
    write_hdf5("own.h5", kspace=full.kspace.numpy(), reference=full.reference.abs().numpy())
    write_hdf5("other.h5", kspace=full.kspace.numpy(), reference=1000 * full.reference.abs().numpy())
    for name, remarked in (("own.h5", False), ("other.h5", True)):
        (report,) = json.loads(succeed("run", name, *CG, "--mask", "poisson-2d", "--json"))
        said = any("times as bright as what its k-space shows: PSNR" in remark for remark in report["remarks"])
        assert said == remarked
    refused = invoke("tune", "other.h5", "--recipe", "cg-sense", "--mask", "poisson-2d")
    assert refused.exit_code == 1
    assert "reference: found 1e+03 times the brightness of what the k-space shows; expected" in refused.stderr


def test_a_mask_of_ones_own_undersamples(scans: list[Path]) -> None:
    rng = np.random.default_rng(0)
    columns = rng.random(SHAPE[1]) < 0.4
    columns[20:36] = True
    np.save("mask.npy", columns)
    options = ("run", scans[0], *CG, "--mask", "mask.npy")
    assert "PSNR" in succeed(*options)
    result = read_result("result/a.h5")
    assert torch.equal(result.arrays["mask"][0], torch.from_numpy(columns).expand(SHAPE))
    assert result.settings["mask"] == {"name": "mask.npy"}
    assert "kept" in succeed(*options)
    points = rng.random(SHAPE) < 0.5
    points[20:44, 16:40] = True
    np.save("mask.npy", points.astype(np.uint8))
    assert "replaces an older result" in succeed(*options)
    assert torch.equal(read_result("result/a.h5").arrays["mask"][0], torch.from_numpy(points))
    text = invoke(*options, "--acceleration", 4).output
    assert "mask.npy is a file, which has its own acceleration" in text


def test_changed_code_of_a_component_makes_another_result(scans: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("run", scans[0], *CG)
    assert "kept" in succeed("run", scans[0], *CG)
    components = read_result("result/a.h5").provenance["components"]
    assert components.keys() == {"operator", "solver"} and components["solver"].startswith("mriinv ")
    monkeypatch.setattr(setup, "code_of", lambda kind, name: f"{kind} of another version")
    text = succeed("run", scans[0], *CG)
    assert "kept" not in text and "replaces an older result" in text


def test_the_code_of_a_component_is_that_of_its_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = sys.modules[registry().load("solver", "mm-cg").__module__.partition(".")[0]]
    before = code_of("solver", "mm-cg")
    shutil.copytree(package.__path__[0], tmp_path / "copy")
    monkeypatch.setattr(package, "__path__", [str(tmp_path / "copy")])
    assert code_of("solver", "mm-cg") == before
    with (tmp_path / "copy/quasi_newton.py").open("a") as file:
        file.write("# changed")
    assert code_of("solver", "mm-cg") != before


def test_an_export_that_fails_does_not_end_the_others() -> None:
    Path("result/a.nii").mkdir(parents=True)
    result = invoke("run", "scans", *CG, "--format", "nii", "--json")
    first, second = json.loads(result.stdout)
    assert result.exit_code == 1 and "a.nii" in first["error"] and first["complete"]
    assert second["error"] is None and second["exported"] == ["result/b.nii"]


def test_every_recipe_has_a_plan(scans: list[Path]) -> None:
    for recipe in registry().recipes:
        assert "memory_estimate_MB" in succeed("run", scans[0], "--recipe", recipe, "--dry-run")


def test_one_virtual_coil_is_no_folded_object(scans: list[Path]) -> None:
    assert "cannot explain" not in succeed("run", scans[0], *CG, "--coils", "1")


def test_tuning_overwrites_no_scan_and_keeps_what_is_better(scans: list[Path]) -> None:
    options = ("--recipe", "tv", "--mask", "poisson-2d", "--acs", "16", "--bounds", "1", "2")
    result = invoke("tune", scans[0], *options, "--out", scans[0])
    assert result.exit_code == 1 and "found a file that no tuning made" in result.output
    result = invoke("tune", scans[0], *options, "--out", "worse.yaml")
    assert result.exit_code == 1 and not Path("worse.yaml").exists()
    assert "no value of the range is better" in result.output and "error: worse.yaml is not written" in result.output


@pytest.mark.parametrize("given", ["*.h5", "empty"])
def test_folders_and_patterns_without_scans(given: str) -> None:
    Path("empty").mkdir()
    result = invoke("run", given, *CG)
    assert result.exit_code == 1 and result.output.startswith(f"error: {given}: found a ")


def test_the_same_again_is_kept_unless_restarted(scans: list[Path]) -> None:
    succeed("run", scans[0], *CG)
    before = Path("result/a.h5").stat().st_mtime_ns
    assert "slices kept from an earlier run of the same: all" in succeed("run", scans[0], *CG)
    assert Path("result/a.h5").stat().st_mtime_ns == before
    assert "kept" not in succeed("run", scans[0], *CG, "--restart")
    with h5py.File(scans[0], "r+") as file:
        file["kspace"][...] = 2 * file["kspace"][...]
    assert "kept" not in succeed("run", scans[0], *CG)  # the input is another one


def test_images_are_cropped_whether_k_space_can_be_or_not(scans: list[Path]) -> None:
    options = (*CG, "--mask", "equispaced-1d", "--acceleration", "2", "--acs", "16")
    succeed("run", scans[0], *options)
    whole = read_result("result/a.h5")
    succeed("run", scans[0], *options, "--crop", "48", "40", "--out", "cropped")
    cropped = read_result("cropped/a.h5")
    for name in ("zero_filled", "reference", "support", "coil_maps"):
        assert cropped.arrays[name].shape[-2:] == (48, 40)
    assert cropped.arrays["mask"].shape[-2:] == (48, 40)  # fully sampled: cropped before the mask
    write_hdf5("under.h5", kspace=whole.arrays["mask"].numpy() * h5py.File(scans[0])["kspace"][...])
    succeed("run", "under.h5", *CG, "--crop", "48", "40", "--out", "cropped")
    under = read_result("cropped/under.h5")
    assert under.image.shape == (1, 48, 40) and under.arrays["mask"].shape[-2:] == SHAPE  # as in the file
    full = read_result("result/a.h5").image[:, 8:56, 8:48]
    assert float((under.image.abs() - full.abs()).norm() / full.norm()) < 0.05


def test_slices_that_are_cropped_in_different_ways_are_stored_in_one_result(scans: list[Path]) -> None:
    kspace = np.repeat(h5py.File(scans[0])["kspace"][...], 2, 0)
    kspace[1, :, 3] = 0  # of this slice k-space cannot be cropped along y
    write_hdf5("row.h5", kspace=kspace)
    (report,) = json.loads(succeed("run", "row.h5", *CG, "--crop", "40", "40", "--json"))
    assert "slice 1: k-space is not fully sampled along y: there it is the reconstructed image" in str(
        report["remarks"]
    )
    found = read_result("result/row.h5")
    assert found.slices == (0, 1) and found.image.shape == (2, 40, 40)
    assert torch.equal(found.arrays["mask"], torch.from_numpy(kspace.any(1)))


def test_a_slice_that_does_not_fit_to_the_others_does_not_end_them() -> None:
    kspace = np.repeat(h5py.File("scans/a.h5")["kspace"][...], 3, 0)
    kspace[1, :, 0] = 0  # padding: the mask undersamples k-space that is not cropped along y
    write_hdf5("row.h5", kspace=kspace)
    mask = ("--mask", "equispaced-1d", "--acceleration", "2", "--acs", "16")
    result = invoke("run", "row.h5", *CG, *mask, "--crop", "40", "40")
    assert result.exit_code == 1
    assert "mask: found shape (64, 40) in slice 1; expected (40, 40), as before" in result.output
    assert read_result("result/row.h5").slices == (0, 2)


def test_virtual_coils_and_what_they_lose(scans: list[Path]) -> None:
    text = succeed("run", scans[0], *CG, "--coils", "6", "--set", "preparation.compression=geometric")
    assert "6 virtual coils of 8" in text and "%" in text
    result = read_result("result/a.h5")
    assert result.arrays["coil_maps"].shape[1] == 6
    assert result.settings["preparation"] == {
        **{"maps": None, "whiten": True, "crop": None},
        **{"coils": 6, "compression": "geometric"},
    }


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


def test_exports_of_a_result_that_is_replaced_go_with_it(scans: list[Path]) -> None:
    """Those of others stay, whose names begin alike, and files that were not exported."""
    Path("scans/b.h5").rename("scans/a_std.h5")
    formats = ("--format", "nii.gz", "--format", "cfl", "--format", "png")
    succeed("run", "scans", *CG, *formats)
    Path("result/a.nii").write_text("of somebody else")
    before = {path.name for path in Path("result").iterdir()}
    assert {"a.nii.gz", "a.cfl", "a.hdr", "a_maps.cfl", "a_000.png", "a_std.nii.gz", "a_std.cfl"} <= before
    succeed("run", "scans/a.h5", "--recipe", "zero-filled")
    gone = {"a.nii.gz", "a.cfl", "a.hdr", "a_maps.cfl", "a_maps.hdr", "a_000.png"}
    assert {path.name for path in Path("result").iterdir()} == before - gone


def test_an_unknown_format_is_refused_before_the_work(scans: list[Path]) -> None:
    result = invoke("run", scans[0], *CG, "--format", "nifti")
    assert result.exit_code == 1 and "unknown export format 'nifti'" in result.output and not Path("result").exists()


def test_check(scans: list[Path]) -> None:
    assert "coils" in succeed("check", scans[0])
    (report,) = json.loads(succeed("check", scans[0], "--json"))
    assert report["found"]["coils"] == COILS and report["problems"] == []
    result = invoke("check", "scans/notes.txt")
    assert result.exit_code == 1 and "known formats" in result.output


def test_tune_writes_a_run_file(scans: list[Path]) -> None:
    options = ("--solver", "cg-sense", "--mask", "poisson-2d", "--acs", "16")
    search = ("--parameter", "solver.regularisation", "--bounds", "1e-3", "1", "--out", "tuned.yaml")
    found = json.loads(succeed("tune", *scans, *options, *search, "--json"))
    assert 1e-3 <= found["value"] <= 1 and found["psnr"] >= found["default"]
    succeed("run", scans[0], "--config", "tuned.yaml")
    assert read_result("result/a.h5").settings["solver"]["settings"]["regularisation"] == found["value"]


def test_a_full_disk_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File("scans/a.h5") as file:
        write_hdf5("many.h5", kspace=np.repeat(file["kspace"][...], 3, 0))
    asked: list[int] = []

    def refuse(self: ResultWriter, index: int, *_: object, **__: object) -> None:
        asked.append(index)
        raise unwritable(self.path, OSError(28, "No space left on device"))

    monkeypatch.setattr(ResultWriter, "add", refuse)
    result = invoke("run", "many.h5", *CG)
    assert result.exit_code == 1 and "No space left on device" in result.output and asked == [0]
