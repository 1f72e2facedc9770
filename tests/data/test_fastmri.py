"""Files in the layout of fastMRI: what other programs and this package read from them is what was written."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ismrmrd import xsd

from mriinv import InputError, Reconstruction, make_mask, make_problem, open_scan, simulate_acquisition
from mriinv.core.types import Mask
from mriinv.data.acquisition import Acquisition
from mriinv.data.fastmri import write_fastmri
from mriinv.data.heads import ProceduralHeads, Protocol
from mriinv.metrics import psnr
from mriinv.numerics.fft import ifft2c
from support import PATIENCE

SHAPE, COILS, SLICES = (48, 40), 4, 3
LINES = torch.arange(40).remainder(3).eq(0).logical_or(torch.arange(40).sub(20).abs() < 5)[None, None]


@pytest.fixture(scope="module")
def scan() -> Acquisition:
    heads = ProceduralHeads(Protocol(pixel=4.5, thickness=4.0, gap=1.0, contrast="t2"))
    return simulate_acquisition(heads=heads, shape=SHAPE, coils=COILS, slices=SLICES, coloured=True, coil_maps=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scan: Acquisition) -> Path:
    """A folder with a fully sampled file and one of every third line and the centre."""
    folder = tmp_path_factory.mktemp("multicoil")
    write_fastmri(folder / "full.h5", scan)
    write_fastmri(folder / "lines.h5", scan, mask=LINES)
    return folder


def written(path: Path, name: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return np.asarray(file[name])


def rss(scan: Acquisition) -> np.ndarray:
    """The root sum of squares of the coil images, by NumPy's FFT."""
    centred = np.fft.ifftshift(scan.kspace.numpy(), axes=(-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(centred, norm="ortho"), axes=(-2, -1))
    return np.sqrt((np.abs(images) ** 2).sum(1))


# What other programs read

PEERS = {
    "fastmri": """
from fastmri.data.mri_data import SliceDataset
from fastmri.data.transforms import VarNetDataTransform
found = {}
for index, (kspace, mask, target, attributes, name, number) in enumerate(SliceDataset(folder, "multicoil")):
    found |= {f"kspace{index}": kspace, f"target{index}": target, f"max{index}": attributes["max"]}
    found |= {f"norm{index}": attributes["norm"], f"series{index}": attributes["acquisition"]}
    found[f"sizes{index}"] = [*attributes["encoding_size"], *attributes["recon_size"]]
    found[f"padding{index}"] = [attributes["padding_left"], attributes["padding_right"]]
    if mask is not None:
        sample = VarNetDataTransform()(kspace, mask, target, attributes, name, number)
        found[f"mask{index}"] = sample.mask.reshape(-1).numpy()
        found[f"masked{index}"] = sample.masked_kspace.numpy()
        found[f"crop{index}"] = sample.crop_size
""",
    "deepinv": """
from deepinv.datasets import FastMRISliceDataset
found = {}
for index, (target, kspace, *rest) in enumerate(FastMRISliceDataset(folder)):
    found |= {f"kspace{index}": (kspace[0] + 1j * kspace[1]).numpy(), f"target{index}": target[0].numpy()}
    if rest:
        found[f"mask{index}"] = rest[0]["mask"].numpy()
""",
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the loaders of other packages give for all slices of both files, in a process of their own."""
    out = tmp_path_factory.mktemp("peers")
    there = [name for name in PEERS if importlib.util.find_spec(name)]
    blocks = "".join(f"{PEERS[name]}\nnumpy.savez(f'{{out}}/{name}.npz', **found)\n" for name in there)
    code = f"import sys, numpy\nfolder, out = sys.argv[1:]\n{blocks}"
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(out / f"{name}.npz")) for name in there}


@pytest.mark.parametrize("name", PEERS)
def test_loaders_of_others_read_the_same(peers: dict, scan: Acquisition, name: str) -> None:
    if name not in peers:
        pytest.skip(f"no {name}")
    found, images = peers[name], rss(scan)
    assert sum(key.startswith("kspace") for key in found) == 2 * SLICES
    for index in range(SLICES):
        kept = scan.kspace[index] * LINES[0]
        for number, kspace in ((index, scan.kspace[index]), (SLICES + index, kept)):
            np.testing.assert_array_equal(found[f"kspace{number}"], kspace)
            np.testing.assert_allclose(found[f"target{number}"], images[index], rtol=1e-4, atol=1e-5)
        assert f"mask{index}" not in found
        rows = np.unique(found[f"mask{SLICES + index}"].reshape(-1, SHAPE[1]), axis=0)
        np.testing.assert_array_equal(rows, LINES[0])


def test_fastmri_finds_its_attributes_and_transforms(peers: dict, scan: Acquisition) -> None:
    if "fastmri" not in peers:
        pytest.skip("no fastmri")
    found, images = peers["fastmri"], rss(scan)
    for index in range(2 * SLICES):
        assert found[f"max{index}"] == pytest.approx(images.max(), rel=1e-5)
        assert found[f"norm{index}"] == pytest.approx(np.linalg.norm(images), rel=1e-5)
        assert found[f"series{index}"] == "AXT2"
        assert found[f"sizes{index}"].tolist() == [48, 40, 1] * 2
        assert found[f"padding{index}"].tolist() == [0, 40]
    for index in range(SLICES):
        masked = scan.kspace[index] * LINES[0]
        np.testing.assert_array_equal(found[f"masked{SLICES + index}"], torch.view_as_real(masked))
        assert found[f"crop{SLICES + index}"].tolist() == list(SHAPE)


def test_ismrmrd_reads_the_header(folder: Path) -> None:
    header = xsd.CreateFromDocument(written(folder / "full.h5", "ismrmrd_header")[()])
    (encoding,) = header.encoding
    for space in (encoding.encodedSpace, encoding.reconSpace):
        size, fov = space.matrixSize, space.fieldOfView_mm
        assert (size.x, size.y, size.z) == (48, 40, 1)
        assert (fov.x, fov.y, fov.z) == pytest.approx((48 * 4.5, 40 * 4.5, 5.0))
    assert encoding.trajectory == xsd.trajectoryType.CARTESIAN
    limits = encoding.encodingLimits
    found = [(one.minimum, one.maximum, one.center) for one in (limits.kspace_encoding_step_1, limits.slice)]
    assert found == [(0, 39, 20), (0, 2, 1)]
    assert header.acquisitionSystemInformation.receiverChannels == COILS
    assert header.experimentalConditions.H1resonanceFrequency_Hz == pytest.approx(127.73e6, rel=1e-3)


# What this package reads


def test_open_scan_reads_what_was_written(folder: Path, scan: Acquisition) -> None:
    with open_scan(folder / "full.h5") as file:
        assert len(file) == SLICES
        for index in range(SLICES):
            found = file.read(index)
            assert torch.equal(found.kspace[0], scan.kspace[index]) and found.fully_sampled
            for name in ("reference", "coil_maps"):
                assert torch.equal(getattr(found, name)[0], getattr(scan, name)[index])
            torch.testing.assert_close(found.noise_covariance, scan.noise_covariance.to(torch.complex64))
            assert found.noise_std == pytest.approx(scan.noise_std, rel=1e-5)
            assert found.geometry.pixel == pytest.approx((4.5, 4.5)) and found.geometry.spacing == pytest.approx(5)
            assert found.geometry.centre == pytest.approx(scan.geometry.neighbour(index).centre)
            assert found.geometry.axes == scan.geometry.axes
            assert found.header["acquisition"] == "AXT2" and not found.remarks


@pytest.mark.parametrize("mask", [LINES, make_mask("poisson-2d", SHAPE, 3.0, 12)], ids=["lines", "2D"])
def test_open_scan_reads_an_undersampled_file(tmp_path: Path, scan: Acquisition, mask: Mask) -> None:
    write_fastmri(tmp_path / "a.h5", scan, mask=mask)
    assert written(tmp_path / "a.h5", "mask").shape == ((40,) if mask.shape[1] == 1 else SHAPE)
    with open_scan(tmp_path / "a.h5") as file:
        found = file.read(1)
    assert torch.equal(found.mask, mask) and torch.equal(found.kspace, scan.kspace[1:2] * mask)
    assert torch.equal(found.reference, scan.reference[1:2])
    np.testing.assert_allclose(written(tmp_path / "a.h5", "reconstruction_rss"), rss(scan), rtol=1e-4, atol=1e-5)


def test_the_truth_in_a_file_measures_a_reconstruction(folder: Path) -> None:
    with open_scan(folder / "lines.h5") as file:
        found = file.read(1)
    solution = Reconstruction(solver="cg-sense", device="cpu")(make_problem(found))
    before = ifft2c(found.kspace).mul(found.coil_maps.conj()).sum(1)
    gain = psnr(solution.image, found.reference) - psnr(before, found.reference)
    assert psnr(solution.image, found.reference) > 25 and gain > 3


# What a file holds, and does not


def test_white_noise_is_a_covariance_too(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", simulate_acquisition(shape=(32, 32), coils=3, noise_std=0.02))
    np.testing.assert_allclose(written(tmp_path / "a.h5", "noise_cov"), 2 * 0.02**2 * np.eye(3), rtol=1e-5)
    write_fastmri(tmp_path / "a.h5", simulate_acquisition(shape=(32, 32), coils=3, noise_std=0.0))
    with h5py.File(tmp_path / "a.h5", "r") as file:  # replaced
        assert set(file) == {"kspace", "ismrmrd_header", "reconstruction_rss", "reference"}


def test_what_was_undersampled_before_has_no_target(tmp_path: Path, scan: Acquisition) -> None:
    write_fastmri(tmp_path / "a.h5", scan.undersampled(LINES))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert "reconstruction_rss" not in file and not {"max", "norm"} & set(file.attrs)
        np.testing.assert_array_equal(file["mask"], LINES[0, 0])


def test_attributes(tmp_path: Path, scan: Acquisition) -> None:
    write_fastmri(tmp_path / "new" / "a.h5", scan, attributes={"sequence": "T2 TSE"})
    with h5py.File(tmp_path / "new" / "a.h5", "r") as file:
        assert file.attrs["sequence"] == "T2 TSE" and file.attrs["patient_id"] == "simulated scan (seed 0)"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("change", "mask", "message"),
    [
        ({"geometry": None}, None, "geometry: found none; expected pixel sizes"),
        ({}, torch.rand(SLICES, 1, 40) < 0.5, "mask: found a mask for each slice; expected one for all"),
        ({}, LINES[..., :-1], r"mask: found shape \(1, 1, 39\)"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(
    tmp_path: Path, scan: Acquisition, change: dict, mask: Mask | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_fastmri(tmp_path / "a.h5", replace(scan, **change), mask=mask)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_keeps_the_older_file(
    tmp_path: Path, scan: Acquisition, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fastmri(tmp_path / "a.h5", scan)
    before = (tmp_path / "a.h5").read_bytes()

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mriinv.data.fastmri.ismrmrd_header", fail)
    with pytest.raises(InputError, match="No space left on device"):
        write_fastmri(tmp_path / "a.h5", scan)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"] and (tmp_path / "a.h5").read_bytes() == before


@pytest.mark.parametrize("kept", [("reconstruction_esc",), ("ismrmrd_header",)])
def test_files_of_one_coil_have_no_axis_for_it(
    tmp_path: Path, folder: Path, scan: Acquisition, kept: tuple[str]
) -> None:
    with h5py.File(folder / "full.h5") as several, h5py.File(tmp_path / "one.h5", "w") as one:
        one["kspace"] = several["kspace"][:, 0]
        one["reconstruction_esc"] = np.zeros((SLICES, *SHAPE), np.float32)
        several.copy("ismrmrd_header", one)
        one.attrs["acquisition"] = "AXT2"
        for name in {"reconstruction_esc", "ismrmrd_header"} - {*kept}:
            del one[name]
    with open_scan(tmp_path / "one.h5") as opened:
        assert opened.describe()["coils"] == 1 and len(opened) == SLICES
        torch.testing.assert_close(opened.read(1).kspace, scan.kspace[1:2, :1])
    with h5py.File(tmp_path / "one.h5", "a") as one:
        del one[kept[0]]
    with pytest.raises(InputError, match="with axes for a single slice and a single coil too"):
        open_scan(tmp_path / "one.h5")
