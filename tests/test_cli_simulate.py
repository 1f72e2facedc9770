"""``mriinv simulate``, and what ``mriinv run`` makes of its files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from mriinv import open_scan
from mriinv.cli.simulate import simulate
from mriinv.simulation import SimulationConfig
from support import invoke, succeed

pytestmark = pytest.mark.usefixtures("working_folder", "without_gpu")
SMALL = ("simulate", "--shape", 48, 40, "--coils", 4)


def test_every_field_has_an_option_and_the_stated_default() -> None:
    options = {option.name: option for option in simulate.params}
    fields = SimulationConfig.model_fields
    assert set(fields) <= set(options)
    assert set(options) - set(fields) == {"acceleration", "acs", "replace"}
    text = " ".join(succeed("simulate", "--help").split())
    for name in ("out", "count", "slices", "shape", "coils", "noise_std", "gap", "seed"):
        default = fields[name].default
        shown = " ".join(map(str, default)) if name == "shape" else f"{default:g}" if name == "gap" else str(default)
        assert f"[default: {shown}]" in (options[name].help or "").replace("  ", " "), name  # type: ignore[attr-defined]
        assert f"--{name.replace('_', '-')} " in text


def test_simulated_scans_are_reconstructed_and_measured() -> None:
    mask = ("--mask", "poisson-2d", "--acceleration", 3, "--acs", 12, "--coil-maps")
    lines = succeed(*SMALL, "--out", "scans", "--count", 2, "--slices", 2, "--contrast", "t2", *mask).splitlines()
    assert [line.split()[0] for line in lines] == ["scans/sim_0000.h5", "scans/sim_0001.h5"]
    assert all("  T2 TSE, TR " in line for line in lines)
    reports = json.loads(succeed("run", "scans", "--recipe", "cg-sense", "--json"))
    assert [report["source"] for report in reports] == ["scans/sim_0000.h5", "scans/sim_0001.h5"]
    for report in reports:
        assert len(report["slices"]) == 2
        for one in report["slices"]:
            assert one["metrics"]["psnr"] > one["zero_filled"]["psnr"] + 4 > 20
    with h5py.File("result/sim_0000.h5", "r") as file, h5py.File("scans/sim_0000.h5", "r") as scan:
        image, truth = np.abs(file["image"][()]), np.abs(scan["reference"][()])
    assert np.linalg.norm(image - truth) < 0.2 * np.linalg.norm(truth)


def test_options_reach_the_scan(tmp_path: Path) -> None:
    np.savez("head.npz", labels=np.full((40, 40, 40), 2, np.int16), voxel=[5.0] * 3)
    options = ("--heads", "head.npz", "--plane", "sagittal", "--pixel", 1.5, "--thickness", 4, "--gap", 1, "--lesions")
    succeed(*SMALL, *options, "--contrast", "flair", "--coloured", "--noise-std", 0.02, "--seed", 7)
    with open_scan("simulated/sim_0000.h5") as file:
        scan = file.read(0)
    assert scan.kspace.shape == (1, 4, 48, 40) and scan.fully_sampled and scan.coil_maps is None
    assert scan.geometry is not None and scan.noise_covariance is not None
    assert scan.geometry.pixel == pytest.approx((1.5, 1.5)) and scan.geometry.spacing == pytest.approx(5)
    assert scan.header["acquisition"] == "SAGFLAIR" and scan.noise_std == pytest.approx(0.02, rel=1e-4)
    assert (scan.noise_covariance - scan.noise_covariance.diagonal().diag()).abs().max() > 1e-6


def test_the_same_again_keeps_and_replace_does_not() -> None:
    first = succeed(*SMALL)
    assert succeed(*SMALL) == first.replace("\n", "  (kept)\n")
    assert succeed(*SMALL, "--replace") == first
    result = invoke(*SMALL, "--seed", 1)
    assert result.exit_code == 1 and "(kept)" not in result.stdout
    assert result.stderr.startswith("error: simulated/sim_0000.h5: found a file that another simulation or program")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--count", 0), "error: count: found 0; "),
        (("--shape", 8, 8), "error: simulate_acquisition: shape: found (8, 8); expected two sizes"),
        (("--noise-std", -1), "error: noise_std: found -1.0; "),
        (("--plane", "coronal"), "error: ProceduralHeads: plane: found coronal; expected axial"),
        (("--contrast", "t9"), "error: Protocol: contrast: found 't9'; expected t1 or t2 or pd or flair"),
        (("--heads", "nowhere"), "error: nowhere: found no label maps"),
        (("--mask", "poison-2d"), "error: unknown mask 'poison-2d'; did you mean poisson-2d?"),
        (("--mask", "own.npy"), "error: mask: found {'name': 'own.npy'}; own.npy is a file; simulated scans take"),
        (("--acceleration", 3), "error: --acceleration needs --mask"),
        (("--acs", 8), "error: --acs needs --mask"),
        (("--mask", "random-1d", "--acceleration", 0.5), "error: mask.acceleration: found 0.5; "),
    ],
)
def test_bad_options_make_one_line_and_no_file(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    result = invoke(*SMALL, *options)
    assert result.exit_code == 1 and not result.stdout
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("simulated/*"))


@pytest.mark.parametrize("options", [("--shape", 32), ("--seed", -1), ("--coils", "many"), ("--sedd", 1)])
def test_options_that_click_refuses(options: tuple[object, ...]) -> None:
    result = invoke("simulate", *options)
    assert result.exit_code == 2 and "Traceback" not in result.output
