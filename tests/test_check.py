from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mriinv import make_operator, simulate_acquisition
from mriinv.check import check_scan
from mriinv.data.acquisition import Acquisition
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.result_writer import ResultWriter
from mriinv.metrics import Metrics
from mriinv.report.text import check_text
from support import succeed

SHAPE, COILS, NOISE_STD = (96, 80), 4, 0.005


@pytest.fixture(scope="module")
def scan() -> Acquisition:
    return simulate_acquisition(shape=SHAPE, coils=COILS, noise_std=NOISE_STD)


def write(path: Path, *slices: torch.Tensor, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = np.stack([one.numpy() for one in slices])
        file.update(arrays)
    return path


def lines(scan: Acquisition, centre: int) -> torch.Tensor:
    """Every fifth column and `centre` of them in the middle."""
    columns = torch.arange(SHAPE[1])
    middle = SHAPE[1] // 2
    return (columns % 5 == 2) | ((columns >= middle - centre // 2) & (columns < middle + centre - centre // 2))


def test_fully_sampled(tmp_path, scan):
    path = write(tmp_path / "a scan.h5", scan.kspace[0], noise_cov=2 * NOISE_STD**2 * np.eye(COILS))
    report = check_scan(path)
    assert report.reconstructible and not report.problems
    assert (report.found["slices"], report.found["coils"], report.found["matrix"]) == (1, COILS, list(SHAPE))
    (checked,) = report.slices
    assert (checked.index, checked.sampling, checked.acquired, checked.acceleration) == (0, "full", SHAPE, 1)
    assert checked.centre == min(SHAPE) and not checked.zero_padded
    assert checked.noise_std == pytest.approx(NOISE_STD) and not checked.noise_estimated
    peak = float(scan.kspace.abs().max())
    assert checked.dynamic_range == pytest.approx(20 * math.log10(peak / NOISE_STD), abs=0.01)
    assert [command.removeprefix(f"mriinv run '{path}' ") for command in report.commands] == [
        "--recipe cg-sense",
        "--recipe cg-sense --mask poisson-2d",
    ]
    text = check_text(report)
    assert "slice 0: fully sampled, noise_std 0.005 (from the file)" in text
    assert text.splitlines()[-3] == "can be reconstructed"


def test_the_commands_work(tmp_path, scan):
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0]))
    assert len(report.commands) == 2
    for command in report.commands:
        program, *arguments = shlex.split(command)
        assert program == "mriinv"
        succeed(*arguments, "--out", tmp_path / "result")


def test_the_matrix_of_the_scanners_images_is_suggested(tmp_path, scan):
    """That of the reconstruction in the header, along the readout as k-space has it first."""
    space = "<{0}><matrixSize><x>{1}</x><y>80</y><z>1</z></matrixSize>"
    space += "<fieldOfView_mm><x>{1}</x><y>80</y><z>5</z></fieldOfView_mm></{0}>"
    for size, suggested in ((48, True), (96, False)):
        spaces = space.format("encodedSpace", 96) + space.format("reconSpace", size)
        header = f"<ismrmrdHeader><encoding>{spaces}</encoding></ismrmrdHeader>"
        report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0], ismrmrd_header=header))
        for command in report.commands:
            assert ("--crop" in command) == (f" --crop {size} 80 " in command) == suggested
        assert len(report.commands) == 2
        assert ("the scanner's images have 48 × 80 pixels: --crop" in report.remarks) == suggested


def test_lines(tmp_path, scan):
    mask = lines(scan, 16)
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0] * mask))
    (checked,) = report.slices
    assert (checked.sampling, checked.centre) == ("lines", 16)
    assert checked.acceleration == SHAPE[1] / int(mask.sum())
    assert report.reconstructible and len(report.commands) == 1  # undersampling it again is refused
    assert "lines, acceleration 2.86, fully sampled centre of 16 lines, noise_std" in check_text(report)


def test_what_a_run_would_do_decides(tmp_path, scan):
    kspace = scan.kspace[0] * lines(scan, 13)
    path = write(tmp_path / "scan.h5", kspace)
    report = check_scan(path)
    prepared = prepare_acquisition(Acquisition(kspace[None], (kspace != 0).any(0)[None]))
    assert report.slices[0].noise_estimated and report.slices[0].noise_std == prepared.noise_std
    notes = make_operator("sense", prepared).notes
    assert notes and set(notes) < set(report.remarks)  # narrow for its kernel; the noise was estimated
    assert all(f"note: {note}" in check_text(report) for note in notes)


def test_too_narrow_a_centre_is_a_problem(tmp_path, scan):
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0] * lines(scan, 8)))
    assert not report.reconstructible and report.commands == []
    assert report.slices[0].centre == 8
    (problem,) = report.problems
    assert "at least 12×12" in problem
    assert check_text(report).splitlines()[-1] == "cannot be reconstructed"


def test_maps_in_the_file_need_no_calibration(tmp_path, scan):
    maps = torch.randn(COILS, *SHAPE, dtype=torch.complex64)
    path = write(tmp_path / "scan.h5", scan.kspace[0] * lines(scan, 0), coil_maps=maps.numpy())
    report = check_scan(path)
    assert report.reconstructible and report.slices[0].centre == 0


def test_points_and_zero_padding(tmp_path, scan):
    points = torch.rand(SHAPE) < 0.5
    padded = torch.zeros(SHAPE, dtype=torch.bool)
    padded[10:90, 8:] = True
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0] * points, scan.kspace[0] * padded), every_slice=True)
    first, second = report.slices
    assert (first.sampling, first.zero_padded) == ("2D", False)
    assert (second.sampling, second.zero_padded) == ("full", True)
    assert second.acquired == (80, 72)
    assert second.centre == 65  # columns 8 to 72, around the middle, 40
    assert "slice 1: fully sampled 80×72, zero-padded" in check_text(report)


def test_padded_lines_are_lines(tmp_path, scan):
    mask = lines(scan, 16).expand(SHAPE).clone()
    mask[:10] = False
    path = tmp_path / "scan.h5"
    assert check_scan(write(path, scan.kspace[0] * mask)).slices[0].sampling == "lines"
    turned = (scan.kspace[0] * mask).mT
    assert check_scan(write(path, turned)).slices[0].sampling == "lines"


def test_the_middle_slice_or_every_slice(tmp_path, scan):
    narrow = scan.kspace[0] * lines(scan, 8)
    path = write(tmp_path / "scan.h5", scan.kspace[0], narrow, scan.kspace[0], scan.kspace[0] * lines(scan, 13))
    report = check_scan(path)
    assert [one.index for one in report.slices] == [2] and report.reconstructible
    report = check_scan(path, every_slice=True)
    assert [one.index for one in report.slices] == [0, 1, 2, 3] and not report.reconstructible
    assert len(report.problems) == 1 and "scan.h5[1]" in report.problems[0]
    assert any(remark.startswith("slice 3: the calibration region") for remark in report.remarks)


def test_coils_without_signal(tmp_path, scan):
    kspace = scan.kspace[0].clone()
    kspace[1] = 0
    kspace[2] = 0.01 * torch.randn(SHAPE, dtype=torch.complex64)
    report = check_scan(write(tmp_path / "scan.h5", kspace))
    assert "1 of 4 coils hold zero everywhere: 1" in report.remarks
    assert "1 of 4 coils hold noise without signal: 2" in report.remarks
    assert not any("coils hold" in remark for remark in check_scan(write(tmp_path / "scan.h5", kspace[[0, 3]])).remarks)


def test_k_space_that_is_not_centred(tmp_path, scan):
    report = check_scan(write(tmp_path / "scan.h5", torch.fft.ifftshift(scan.kspace[0], dim=(-2, -1))))
    assert any("is an fftshift missing?" in remark for remark in report.remarks)
    shifted = scan.kspace[0].roll(SHAPE[0] // 3, dims=-2)
    assert any("and centred?" in remark for remark in check_scan(write(tmp_path / "scan.h5", shifted)).remarks)


def test_k_space_without_a_peak_is_not_suspected(tmp_path):
    flat = torch.ones(COILS, *SHAPE, dtype=torch.complex64)
    assert not [
        one for one in check_scan(write(tmp_path / "scan.h5", flat)).remarks if "hold" in one or "largest" in one
    ]


def test_what_looks_wrong_is_said_even_where_nothing_can_be_prepared(tmp_path, scan):
    shifted = torch.fft.ifftshift(scan.kspace[0], dim=(-2, -1))
    report = check_scan(write(tmp_path / "scan.h5", shifted, noise_cov=np.diag([1.0, 1, 1, 0])))
    assert not report.reconstructible and any("is an fftshift missing?" in remark for remark in report.remarks)


def test_a_coil_axis_at_the_wrong_place(tmp_path, scan):
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0].permute(1, 2, 0)))
    assert any("there are 96 coils of 80×4 samples" in remark for remark in report.remarks)


@pytest.mark.parametrize("content", [None, b"", b"no k-space", b"PK\x03\x04 but no archive", b"\x89HDF\r\n\x1a\n"])
def test_files_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "scan.h5"
    if content is not None:
        path.write_bytes(content)
    for report in (check_scan(path), check_scan(tmp_path)):
        assert len(report.problems) == 1 and not report.reconstructible and not report.slices
        assert "cannot be reconstructed" in check_text(report)


def test_damaged_values(tmp_path, scan):
    kspace = scan.kspace[0].clone()
    kspace[0, 0, 0] = math.nan
    report = check_scan(write(tmp_path / "scan.h5", kspace))
    assert report.found["coils"] == COILS and not report.reconstructible
    assert "1 values that are NaN" in report.problems[0]


def test_a_name_with_control_characters(tmp_path, scan):
    path = write(tmp_path / "scan.h5", scan.kspace[0])
    with h5py.File(path, "a") as file:
        file.attrs["acquisition"] = "AX\x1b[2JT1"
    assert "\x1b" not in check_text(check_scan(path))


def test_a_result(tmp_path):
    path, image = tmp_path / "scan.h5", torch.randn(6, 5, dtype=torch.complex64)
    settings = {"prior": {"name": "deepen"}, "solver": {"name": "mm-cg"}, "mask": None}
    with ResultWriter(path, 3, settings, {"source": "raw.h5"}) as writer:
        for index in (0, 1):
            metrics = Metrics(30.0 + 2 * index, 0.5, (0.012345, math.nan)[index], 0.6, "support", "maximum")
            mask = torch.ones(1, 5, dtype=torch.bool)
            writer.add(index, image, mask=mask, metrics=metrics, remarks=["both", "second"][: index + 1])
    report = check_scan(path)
    assert report.found == {
        "path": str(path),
        "format": "mriinv result",
        "complete": False,
        "slices": 2,
        "matrix": [6, 5],
        "method": "deepen + mm-cg",
        "mask": "as acquired",
        "source": "raw.h5",
        "mean psnr": 31,
        "mean ssim": 0.5,
        "mean nmse": 0.01235,
        "mean ssim_legacy": 0.6,
    }
    assert report.remarks == ["incomplete, without slice 2", "both", "slice 1: second"]
    assert not report.problems and not report.reconstructible
    assert check_text(report).splitlines()[-1] == "a result: nothing to reconstruct"
    with h5py.File(path, "a") as file:
        file["image"][0, 0, 0] = math.nan
    assert check_scan(path).problems == ["the images hold NaN or infinity"]
    path.write_bytes(path.read_bytes()[:2000])
    assert check_scan(path).problems


def test_a_report_as_json(tmp_path, scan):
    report = check_scan(write(tmp_path / "scan.h5", scan.kspace[0]))
    assert json.loads(json.dumps(asdict(report), default=str))["slices"][0]["sampling"] == "full"


@pytest.mark.parametrize("name", ["bart_full8/full.npz", "sigpy_bartws8/cartesian_ksp_union.npz"])
def test_real_scans(shared_data, name):
    report = check_scan(shared_data / name)
    assert report.reconstructible
    assert not any("coils hold" in remark or "centred" in remark for remark in report.remarks)
    assert report.slices[0].sampling == ("full" if "full" in name else "2D")
    assert len(report.commands) == (2 if "full" in name else 1)


def test_a_field_of_view_smaller_than_the_head(shared_data):
    report = check_scan(shared_data / "espirit_alias8" / "alias.npz")
    assert report.slices[0].zero_padded and report.slices[0].acquired == (320, 168)
    assert any("field of view is probably smaller" in remark for remark in report.remarks)
