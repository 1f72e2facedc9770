from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mriinv.data.readers import CflScan, find_reader, open_scan
from mriinv.errors import InputError
from mriinv.numerics.fft import ifft2c
from support import PATIENCE, kspace, read_cfl

COILS, Y, X = 3, 10, 8
BART = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def write(base: Path, data: np.ndarray, text: str | None = None) -> Path:
    """Write an array, first axis fastest, as a pair; `text` replaces the header."""
    sizes = [*data.shape, *[1] * (16 - data.ndim)]
    header = f"# Dimensions\n{' '.join(map(str, sizes))} \n# Creator\nBART v0.8.00\n"
    base.with_suffix(".hdr").write_text(header if text is None else text)
    base.with_suffix(".cfl").write_bytes(data.tobytes(order="F"))
    return base.with_suffix(".cfl")


def placed(data: np.ndarray, *dimensions: int) -> np.ndarray:
    """Put the axes of `data` at the given BART dimensions."""
    return np.moveaxis(data.reshape(*data.shape, *[1] * (16 - data.ndim)), range(data.ndim), dimensions)


def bart(*arguments: object) -> None:
    subprocess.run(["bart", *map(str, arguments)], check=True, capture_output=True, timeout=PATIENCE)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught, open_scan(path) as scan:
        for index in range(len(scan)):
            scan.read(index)
    for word in (str(path.with_suffix("")), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("grid", [(0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("name", ["scan", "scan.hdr", "scan.cfl"])
def test_one_slice(tmp_path, grid, name):
    data = kspace(COILS, Y, X)
    data[:, :, 3] = 0
    write(tmp_path / "scan", placed(data, 3, *grid))
    with open_scan(tmp_path / name) as scan:
        assert isinstance(scan, CflScan) and len(scan) == 1
        acquisition = scan.read(0)
        described = scan.describe()
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(data))
    assert acquisition.mask.tolist() == [[[column != 3 for column in range(X)]]]
    assert acquisition.source == "scan.cfl[0]" and acquisition.remarks == ()
    assert (described["slices"], described["coils"], described["matrix"]) == (1, COILS, [Y, X])
    assert described["path"] == str(tmp_path / "scan.cfl")
    assert described["noise"] is described["geometry"] is described["mask"] is None


@pytest.mark.parametrize(("dimension", "name"), [(13, "SLICE"), (10, "TIME"), (15, "BATCH")])
def test_several_images(tmp_path, dimension, name):
    data = kspace(4, COILS, Y, X)
    with open_scan(write(tmp_path / "scan", placed(data, dimension, 3, 0, 1))) as scan:
        assert len(scan) == 4
        for index in (3, 1):
            acquisition = scan.read(index)
            assert torch.equal(acquisition.kspace[0], torch.from_numpy(data[index]))
        assert f"{name} 4" in scan.describe()["fields"]
        remarks = () if name == "SLICE" else (f"each entry along {name} is an image of its own",)
        assert acquisition.remarks == tuple(scan.describe()["remarks"]) == remarks


def test_a_volume_is_cut_along_read(tmp_path):
    data = kspace(5, Y, X, COILS)
    data[:, 2] = 0
    path = write(tmp_path / "scan", data)
    shifted = np.fft.ifft(np.fft.ifftshift(data, 0), axis=0, norm="ortho")
    expected = np.fft.fftshift(shifted, 0).transpose(0, 3, 1, 2)
    with open_scan(path) as scan:
        assert len(scan) == 5
        for index in range(5):
            acquisition = scan.read(index)
            torch.testing.assert_close(acquisition.kspace[0], torch.from_numpy(expected[index]), rtol=0, atol=1e-5)
            assert not acquisition.mask[0, 2].any() and acquisition.mask.sum() == (Y - 1) * X
        assert "across READ" in acquisition.remarks[0]
    data[1, 3, 4] = 0
    refused(write(tmp_path / "gap", data), "lines along READ with 4 of 5 samples", "fully sampled along READ")


@BART
def test_a_phantom_of_bart(tmp_path):
    bart("phantom", "-k", "-s", COILS, "-x", 32, tmp_path / "scan")
    bart("fft", "-u", "-i", 3, tmp_path / "scan", tmp_path / "image")
    with open_scan(tmp_path / "scan") as scan:
        image = ifft2c(scan.read(0).kspace)[0]
    expected = read_cfl(tmp_path / "image").squeeze().transpose(2, 0, 1)
    torch.testing.assert_close(image, torch.from_numpy(expected), rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@BART
def test_a_volume_of_bart(tmp_path):
    bart("phantom", "-3", "-k", "-s", COILS, "-x", 16, tmp_path / "scan")
    bart("fft", "-u", "-i", 7, tmp_path / "scan", tmp_path / "image")
    expected = read_cfl(tmp_path / "image").squeeze().transpose(0, 3, 1, 2)
    with open_scan(tmp_path / "scan") as scan:
        image = torch.cat([ifft2c(scan.read(index).kspace) for index in range(len(scan))])
    torch.testing.assert_close(image, torch.from_numpy(expected), rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("dimension", "words"),
    [
        (4, ["2 entries along MAPS (dimension 4)", "coil maps"]),
        (5, ["along TE", "bart slice 5 0 in out"]),
        (6, ["along COEFF", "basis"]),
        (11, ["along TIME2", "bart slice 11 0 in out"]),
        (14, ["along AVG", "bart avg -w 16384 in out"]),
    ],
)
def test_dimensions_that_are_refused(tmp_path, dimension, words):
    refused(write(tmp_path / "scan", placed(kspace(2, COILS, Y, X), dimension, 3, 0, 1)), *words)


def test_shapes_that_are_refused(tmp_path):
    slices_and_times = placed(kspace(2, 2, COILS, Y, X), 13, 10, 3, 0, 1)
    refused(write(tmp_path / "scan", slices_and_times), "2 entries along TIME", "bart slice 10 0 in out")
    refused(write(tmp_path / "scan", placed(kspace(2, 4, Y, X), 13, 0, 1, 2)), "along SLICE", "bart slice 13 0 in out")
    refused(write(tmp_path / "scan", kspace(Y)), "READ 10", "two of READ, PHS1 and PHS2")
    refused(write(tmp_path / "scan", kspace(1)), "one value")
    refused(write(tmp_path / "scan", placed(kspace(1025, 2, 2), 3, 0, 1)), "1024 coils")
    refused(write(tmp_path / "scan", kspace(Y, X) * np.nan), "NaN or infinite in slice 0")
    refused(write(tmp_path / "scan", kspace(Y, X) * 0), "no sample in slice 0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no line '# Dimensions'"]),
        ("10 8\n", ["no line '# Dimensions'"]),
        ("\xff\x00\x01" * 100, ["no line '# Dimensions'"]),
        ("# Dimensions\n", ["'# Dimensions'", "up to 16 positive integers"]),
        ("# Dimensions\n10 -8\n", ["'10 -8'"]),
        ("# Dimensions\n10 0\n", ["'10 0'"]),
        ("# Dimensions\n10 8.0\n", ["'10 8.0'"]),
        ("# Dimensions\n10 1e3\n", ["positive integers"]),
        ("# Dimensions\n" + "1 " * 17, ["positive integers"]),
        ("# Dimensions\n" + "9" * 5000, ["positive integers"]),
        ("# Dimensions\n10 9\n", ["640 bytes", "720, for the dimensions in scan.hdr"]),
        ("# Dimensions\n999999999 999999999 999999999 999999999\n", ["640 bytes"]),
        ("# Dimensions\n4294967296 4294967296\n", ["positive integers"]),  # the product wraps to 0 in 64 bits
    ],
)
def test_headers_that_are_damaged(tmp_path, text, words):
    write(tmp_path / "scan", kspace(Y, X), text)
    refused(tmp_path / "scan.hdr", *words)


def test_pairs_that_are_not_whole(tmp_path):
    path = write(tmp_path / "scan", kspace(COILS, Y, X))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, f"{len(whole) - 1} bytes", str(len(whole)))
    path.unlink()
    refused(tmp_path / "scan.hdr", "scan.cfl: found no such file")
    path.write_bytes(whole)
    (tmp_path / "scan.hdr").unlink()
    refused(path, "scan.hdr: found no such file")
    os.mkfifo(tmp_path / "scan.hdr")
    refused(path, "scan.hdr: found no such file")


def test_a_pair_in_a_folder_counts_once(tmp_path):
    write(tmp_path / "scan", kspace(COILS, Y, X))
    assert find_reader(tmp_path / "scan.cfl") is CflScan
    assert find_reader(tmp_path / "scan.hdr") is None
