from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd import xsd

from mriinv.check import check_scan
from mriinv.data.readers import IsmrmrdScan, open_scan
from mriinv.errors import InputError
from mriinv.numerics.fft import fft2c, ifft2c
from mriinv.numerics.noise import complex_noise

COILS, Y, X = 3, 24, 20
EXTRA = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,)


def kspace(seed: int = 0) -> np.ndarray:
    """Some k-space (coil, y, x)."""
    return complex_noise((COILS, Y, X), 1, torch.Generator().manual_seed(seed)).numpy()


def header(
    encoded: tuple[int, int, int] = (Y, X, 1),
    recon: tuple[int, int, int] | None = None,
    trajectory: str = "cartesian",
    centre: int | None = X // 2,
    bandwidth: float | None = None,
    calibration: str | None = None,
    multiband: bool = False,
) -> bytes:
    """An XML header with pixels of 2 × 3 mm, made with the classes of the standard's own package."""

    def space(matrix: tuple[int, int, int]) -> xsd.encodingSpaceType:
        x, y, z = matrix
        fov = xsd.fieldOfViewMm(x=2.0 * x, y=3.0 * y, z=5.0 * z)
        return xsd.encodingSpaceType(matrixSize=xsd.matrixSizeType(x=x, y=y, z=z), fieldOfView_mm=fov)

    limits = xsd.encodingLimitsType()
    if centre is not None:
        limits.kspace_encoding_step_1 = xsd.limitType(minimum=0, maximum=encoded[1] - 1, center=centre)
    encoding = xsd.encodingType(
        encodedSpace=space(encoded),
        reconSpace=space(recon or encoded),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(trajectory),
    )
    if calibration or multiband:
        encoding.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1),
            calibrationMode=calibration and xsd.calibrationModeType(calibration),
        )
    if multiband:
        spacing = xsd.multibandSpacingType(dZ=[30.0])
        encoding.parallelImaging.multiband = xsd.multibandType(
            spacing=[spacing],
            deltaKz=1.0,
            multiband_factor=2,
            calibration=next(iter(xsd.multibandCalibrationType)),
            calibration_encoding=0,
        )
    document = xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(patientName="Jane Doe"),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            institutionName="St Elsewhere", relativeReceiverNoiseBandwidth=bandwidth
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        encoding=[encoding],
    )
    return xsd.ToXML(document).encode()


def readout(data: np.ndarray, line: int = 0, flags: tuple[int, ...] = (), **fields: Any) -> ismrmrd.Acquisition:
    """One readout (coil, samples); `fields` go to the header or to its counters."""
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64))
    acquisition.center_sample = data.shape[1] // 2
    acquisition.sample_time_us = 5.0
    acquisition.idx.kspace_encode_step_1 = line
    acquisition.position[:] = (1, 2, 3 + 6 * fields.get("slice", 0))
    acquisition.read_dir[:], acquisition.phase_dir[:], acquisition.slice_dir[:] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
    for flag in flags:
        acquisition.set_flag(flag)
    for name, value in fields.items():
        target = acquisition.idx if hasattr(acquisition.idx, name) else acquisition
        setattr(target, name, value)
    return acquisition


def lines(data: np.ndarray, chosen: Any = None, **fields: Any) -> list[ismrmrd.Acquisition]:
    return [readout(data[:, :, line], int(line), **fields) for line in (range(X) if chosen is None else chosen)]


def write(
    path: Path, acquisitions: Iterable[ismrmrd.Acquisition], xml: bytes | None = None, group: str = "dataset"
) -> Path:
    dataset = ismrmrd.Dataset(path, group, mode="w")
    dataset.write_xml_header(header() if xml is None else xml)
    for acquisition in acquisitions:
        dataset.append_acquisition(acquisition)
    dataset.close()
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught, open_scan(path) as scan:
        for index in range(len(scan)):
            scan.read(index)
    for word in (str(path), *words):
        assert word in str(caught.value)


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


def test_fully_sampled_lines_in_any_order(tmp_path):
    data = [kspace(0), kspace(1)]
    order = np.random.default_rng(0).permutation(2 * X)
    readouts = [readout(data[n % 2][:, :, n // 2], n // 2, slice=n % 2) for n in order.tolist()]
    with open_scan(write(tmp_path / "scan.raw", readouts, group="other")) as scan:  # neither name matters
        assert isinstance(scan, IsmrmrdScan) and len(scan) == 2
        for index, expected in enumerate(data):
            acquisition = scan.read(index)
            assert torch.equal(acquisition.kspace[0], torch.from_numpy(expected))
            assert acquisition.fully_sampled and acquisition.mask.shape == (1, 1, X)
            assert acquisition.noise_covariance is None
            geometry = acquisition.geometry
            assert (geometry.pixel, geometry.spacing) == ((2, 3), 6)
            assert geometry.centre == (1, 2, 3 + 6 * index)
            assert geometry.axes == ((0, 1, 0), (1, 0, 0), (0, 0, 1))
            assert not {"Jane", "Elsewhere"} & set(str(acquisition.header).replace("<", " ").replace(">", " ").split())
        described = scan.describe()
    expected = {"slices": 2, "coils": COILS, "matrix": [Y, X], "mask": None, "acceleration": 1.0, "noise": None}
    assert expected.items() <= described.items()
    assert described["geometry"] == "2 × 3 mm pixels, 6 mm slices"
    assert described["images"] == "2 slices"
    assert "ismrmrd_header" not in described


def test_undersampled_lines_with_calibration(tmp_path):
    data, other = kspace(), 5 * kspace(1)
    imaging = range(0, X, 2)
    both, extra = range(8, 13, 2), range(8, 13)
    readouts = [
        *lines(data, [line for line in imaging if line not in both]),
        *lines(
            data, both, flags=(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        ),
        *lines(other, extra, flags=EXTRA),
    ]
    with open_scan(write(tmp_path / "embedded", readouts, header(calibration="embedded"))) as scan:
        acquisition = scan.read(0)
        assert (scan.describe()["mask"], scan.describe()["acceleration"]) == ("lines", X / 12)
    sampled = sorted({*imaging, *extra})
    assert acquisition.mask[0, 0].nonzero()[:, 0].tolist() == sampled
    expected = np.zeros_like(data)
    expected[..., imaging] = data[..., imaging]
    expected[..., [9, 11]] = other[..., [9, 11]]
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(expected))
    elsewhere = [*lines(data, imaging), *lines(other, extra, flags=EXTRA, encoding_space_ref=1)]
    for case, xml in ((readouts, header(calibration="separate")), (elsewhere, header())):
        with open_scan(write(tmp_path / "apart", case, xml)) as scan:
            acquisition = scan.read(0)
        assert acquisition.mask[0, 0].nonzero()[:, 0].tolist() == [*imaging]
        assert acquisition.remarks == ("5 calibration readouts measured apart from the image were left out",)


def test_oversampling_is_removed(tmp_path):
    image = torch.zeros(COILS, 2 * Y, X, dtype=torch.complex64)
    generator = torch.Generator().manual_seed(0)
    image[:, Y // 2 : Y // 2 + Y] = complex_noise((COILS, Y, X), 1, generator)
    wide = image.clone()
    wide[:, :4] = 7  # outside the field of view
    path = write(tmp_path / "scan", lines(fft2c(wide).numpy()), header((2 * Y, X, 1), (Y, X, 1)))
    with open_scan(path) as scan:
        acquisition = scan.read(0)
        assert scan.describe()["oversampling"] == "2× along the readout, removed"
    assert relative(ifft2c(acquisition.kspace[0]), image[:, Y // 2 : Y // 2 + Y].numpy()) < 1e-5
    assert acquisition.geometry.pixel == (2, 3)
    assert acquisition.fully_sampled and acquisition.mask.shape == (1, 1, X)


def test_oversampled_lines_stay_and_a_crop_is_proposed(tmp_path):
    path = write(tmp_path / "scan", lines(kspace()), header((Y, X, 1), (Y, X // 2, 1)))
    with open_scan(path) as scan:
        assert scan.read(0).kspace.shape[-2:] == (Y, X)
    remarks = check_scan(path).remarks
    assert any(f"the scanner's images have {Y} × {X // 2} pixels: --crop" in remark for remark in remarks)


def test_oversampled_noise_keeps_its_covariance(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = complex_noise((COILS, 128, 64), 0.3, generator).numpy()
    readouts = [readout(noise[:, :, line], line) for line in range(64)]
    with open_scan(write(tmp_path / "scan", readouts, header((128, 64, 1), (64, 64, 1), centre=32))) as scan:
        cut = scan.read(0).kspace
    assert float(cut.real.std()) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_partial_fourier(tmp_path, oversampling):
    data, size = kspace(), Y * oversampling
    data = np.concatenate([data] * oversampling, axis=1)
    start, first = size // 4, 5
    readouts = lines(data[:, start:], range(first, X), center_sample=size // 2 - start)
    for acquisition in readouts:
        acquisition.idx.kspace_encode_step_1 -= first
    path = write(tmp_path / "scan", readouts, header((size, X, 1), (Y, X, 1), centre=X // 2 - first))
    with open_scan(path) as scan:
        acquisition = scan.read(0)
        described = scan.describe()
    expected = data.copy()
    expected[:, :start] = expected[..., :first] = 0
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(expected))
    assert torch.equal(acquisition.mask[0], torch.from_numpy((expected != 0).any(0)))
    assert described["partial_fourier"] == "readout 0.75, phase 0.75"
    assert described["mask"] == "2D" and described["acceleration"] == pytest.approx(acquisition.acceleration)
    assert any("partial Fourier" in remark for remark in acquisition.remarks)
    assert (
        described.get("oversampling")
        == (None, "2× along the readout, kept because the echo is partial")[oversampling - 1]
    )


def test_reversed_readouts_and_discarded_samples(tmp_path):
    data = kspace()
    padded = np.pad(data, ((0, 0), (2, 1), (0, 0)), constant_values=9)
    readouts = [
        *lines(padded, range(0, X, 2), discard_pre=2, discard_post=1, center_sample=Y // 2 + 2),
        *lines(data[:, ::-1], range(1, X, 4), flags=(ismrmrd.ACQ_IS_REVERSE,), center_sample=Y // 2 - 1),
        # sampled from N/2 down to −N/2 + 1: on the grid, N/2 is −N/2
        *lines(np.roll(data, -1, 1)[:, ::-1], range(3, X, 4), flags=(ismrmrd.ACQ_IS_REVERSE,), center_sample=Y // 2),
    ]
    with open_scan(write(tmp_path / "scan", readouts)) as scan:
        acquisition = scan.read(0)
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(data))
    assert acquisition.remarks == ("10 of 20 readouts were turned round, without correction of their phase",)


def test_a_missing_centre_is_taken_to_be_the_middle(tmp_path):
    data = kspace()
    with open_scan(write(tmp_path / "scan", lines(data, center_sample=0), header(centre=None))) as scan:
        acquisition = scan.read(0)
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(data))
    assert "taken to be in the middle" in acquisition.remarks[0]


def test_averages_segments_and_independent_images(tmp_path):
    data = [kspace(seed) for seed in range(4)]
    readouts = []
    for repetition in range(2):
        for average in range(2):
            for line in range(X):
                values = data[2 * repetition + average][:, :, line]
                readouts.append(readout(values, line, repetition=repetition, average=average, segment=line % 3))
    with open_scan(write(tmp_path / "scan", readouts)) as scan:
        described = scan.describe()
        for index in range(2):
            acquisition = scan.read(index)
            assert relative(acquisition.kspace[0], (data[2 * index] + data[2 * index + 1]) / 2) < 1e-6
    assert (described["slices"], described["images"], described["averages"]) == (2, "2 repetitions", "2")
    assert any("2 repetitions" in remark for remark in acquisition.remarks)


@pytest.mark.parametrize("averages", [1, 4])
def test_noise_scan(tmp_path, averages):
    generator = torch.Generator().manual_seed(0)
    factor = np.array([[1, 0, 0], [0.5j, 0.8, 0], [0.1, -0.3j, 0.6]])
    covariance = 2 * 0.2**2 * factor @ factor.conj().T
    readouts = [
        readout(factor @ noise.numpy(), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), sample_time_us=10.0)
        for noise in complex_noise((8, COILS, 4096), 0.2, generator)
    ]
    readouts += [line for average in range(averages) for line in lines(kspace(), average=average)]
    with open_scan(write(tmp_path / "scan", readouts, header(bandwidth=0.8))) as scan:
        acquisition = scan.read(0)
        assert scan.describe()["noise"] == "noise scan"
    expected = covariance * 10 / (5 * 0.8) / averages
    assert relative(acquisition.noise_covariance, expected) < 0.02
    assert acquisition.noise_std == pytest.approx(np.sqrt(np.diag(expected).real.mean() / 2), rel=0.01)


@pytest.mark.parametrize("samples", [np.ones((COILS, 5)), np.full((COILS, 5), np.nan), np.eye(2, 5)])
def test_noise_scans_that_are_no_use(tmp_path, samples):
    readouts = [readout(samples, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,)), *lines(kspace())]
    with open_scan(write(tmp_path / "scan", readouts)) as scan:
        acquisition = scan.read(0)
    assert acquisition.noise_covariance is acquisition.noise_std is None
    assert "the noise scan was not used" in acquisition.remarks[0]


def test_three_dimensions_with_oversampled_partitions(tmp_path):
    partitions, kept = 6, 4
    volume = np.stack([ifft2c(torch.from_numpy(kspace(seed))).numpy() for seed in range(partitions)])
    spectrum = np.fft.fftshift(
        np.fft.fftn(np.fft.ifftshift(volume, (0, 2, 3)), axes=(0, 2, 3), norm="ortho"), (0, 2, 3)
    )
    readouts = [line for z in range(partitions) for line in lines(spectrum[z], range(0, X, 2), kspace_encode_step_2=z)]
    path = write(tmp_path / "scan", readouts, header((Y, X, partitions), (Y, X, kept)))
    with open_scan(path) as scan:
        assert len(scan) == kept
        for index in (3, 0):
            acquisition = scan.read(index)
            expected = kspace(index + 1)
            expected[..., 1::2] = 0
            assert relative(acquisition.kspace[0], expected) < 1e-5
            assert acquisition.mask.shape == (1, 1, X) and acquisition.acceleration == 2
            assert acquisition.geometry.centre == (1, 2, 3 + 5 * (index - kept // 2))
            assert acquisition.geometry.spacing == 5
    refused(write(tmp_path / "gaps", readouts[:-1], header((Y, X, partitions))), "partitions", "fully sampled")


def test_readouts_that_make_no_image_are_left_out(tmp_path):
    data = kspace()
    flags = (ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA)
    others = [readout(9 * data[:, :, 0], flags=(flag,)) for flag in flags]
    with open_scan(write(tmp_path / "scan", [*others, *lines(data)])) as scan:
        acquisition = scan.read(0)
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(data))
    assert acquisition.remarks[0] == "1 navigator readouts were left out"
    refused(write(tmp_path / "none", others), "no imaging readout")


@pytest.mark.parametrize(
    "place", [{"read_dir": (0, 0, 0)}, {"slice_dir": (0, np.inf, 0)}, {"position": (np.nan, 0, 0)}]
)
def test_geometry_without_a_sensible_place(tmp_path, place):
    readouts = lines(kspace(), **place)
    with open_scan(write(tmp_path / "scan", readouts)) as scan:
        geometry = scan.read(0).geometry
    assert (geometry.pixel, geometry.spacing, geometry.centre) == ((2, 3), 5, None)


GOOD = kspace()
REFUSED = {
    "radial": (lines(GOOD), header(trajectory="radial"), ["'radial'", "cartesian"]),
    "epi": (lines(GOOD), header(trajectory="epi"), ["'epi'"]),
    "multiband": (lines(GOOD), header(multiband=True), ["multiband"]),
    "step outside": ([*lines(GOOD), readout(GOOD[:, :, 0], X)], None, ["steps 0 to 20", "matrix of 20"]),
    "centre outside": (lines(GOOD), header(centre=X), ["centre 20"]),
    "too many samples": (lines(GOOD), header((Y // 2, X, 1)), ["samples -6 to 17", "0 to 11"]),
    "centre of the echo": (lines(GOOD, center_sample=9), None, ["samples 3 to 26"]),
    "all discarded": (lines(GOOD, discard_pre=Y), None, ["without samples"]),
    "coils": ([*lines(GOOD[:2], range(5)), *lines(GOOD, range(5, X))], None, ["[2, 3] coils"]),
    "extents": ([*lines(GOOD, [0]), *lines(GOOD[:, 2:], [1])], None, ["same extent"]),
    "twice": ([*lines(GOOD), *lines(GOOD)], None, ["several readouts of the same place"]),
    "compressed": (lines(GOOD, flags=(ismrmrd.ACQ_COMPRESSION1,)), None, ["compressed"]),
    "encoding": (lines(GOOD, encoding_space_ref=1), None, ["encodings [1] (1 in the header)"]),
    "NaN": (lines(GOOD * np.nan), None, ["NaN or infinite in slice 0"]),
    "infinity": (
        lines(np.where(np.arange(X) == 3, np.inf, GOOD)),
        header((Y, X, 1), (Y // 2, X, 1)),
        ["NaN or infinite in slice 0"],
    ),
    "zeros": (lines(GOOD * 0), None, ["no sample in slice 0"]),
    "huge matrix": (lines(GOOD), header((2**15, 2**15, 1), centre=0), ["3 coils of 32768 × 32768", "at most"]),
    "impossible matrix": (lines(GOOD), header((Y, 2**20, 1)), ["xml", "matrix size"]),
    "negative matrix": (lines(GOOD), header((Y, -X, 1)), ["xml", "matrix size"]),
    "no XML": (lines(GOOD), b"<ismrmrdHeader", ["xml", "no valid XML"]),
    "entities": (lines(GOOD), b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', ["xml", "document type"]),
    "long": (lines(GOOD), b"<a>" + b" " * 2**20 + b"</a>", ["xml"]),
    "no encoding": (lines(GOOD), b"<ismrmrdHeader/>", ["0 in the header"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_scans_that_are_refused(tmp_path, case):
    readouts, xml, words = REFUSED[case]
    refused(write(tmp_path / "scan", readouts, xml), *words)


def test_several_scans_in_a_file(tmp_path):
    path = write(tmp_path / "scan", lines(GOOD))
    with h5py.File(path, "a") as file:
        file.copy("dataset", "dataset_2")
    refused(path, "2 scans (dataset, dataset_2)")


def test_readouts_that_are_damaged(tmp_path):
    path = write(tmp_path / "scan", lines(GOOD))
    with h5py.File(path, "a") as file:
        row = file["dataset/data"][3]
        row["data"] = row["data"][:-2]
        file["dataset/data"][3] = row
    refused(path, "readout 3 holds")
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros(5)
    refused(path, "no list of readouts")
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros(2, [("head", [("flags", "u8")]), ("data", "f4")])
    refused(path, "data: found damaged")
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = h5py.ExternalLink("elsewhere.h5", "data")
    refused(path, "a link instead of data")


def test_a_type_that_would_make_hdf5_write_past_its_memory(tmp_path):
    path = write(tmp_path / "scan", lines(GOOD))
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"sample_time_us") + 36] ^= 255  # the bias of the exponent: no float32 any more
    path.write_bytes(damaged)
    refused(path, "fields that overlap")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
def test_truncated_file(tmp_path, kept):
    path = write(tmp_path / "scan", lines(GOOD))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, "damaged or unreadable")


def test_the_limit_of_a_volume_follows_what_the_file_can_hold(tmp_path, monkeypatch):
    readouts = [line for z in range(4) for line in lines(kspace(z), kspace_encode_step_2=z)]
    monkeypatch.setattr("mriinv.data.readers.ismrmrd.MAX_ELEMENTS", 1)
    with open_scan(write(tmp_path / "scan", readouts, header((Y, X, 4)))) as scan:
        assert scan.read(0).kspace.shape[-2:] == (Y, X)
    monkeypatch.setattr("mriinv.data.readers.ismrmrd.SPARSEST", 0)
    refused(tmp_path / "scan", "at most 1 samples in a volume")


def test_oversampling_that_others_removed(tmp_path):
    """The header still has it; readouts cover the centre as many samples as the image has pixels."""
    path = write(tmp_path / "scan", lines(kspace()), header((2 * Y, X, 1), (Y, X, 1)))
    with open_scan(path) as scan:
        acquisition = scan.read(0)
        assert "oversampling" not in scan.describe()
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(kspace()))
    assert acquisition.geometry.pixel == (2, 3) and acquisition.fully_sampled
    assert any("oversampling is taken to have been removed before" in remark for remark in acquisition.remarks)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_partial_echo_that_is_stored_as_zeros(tmp_path, reverse):
    wide, start = np.concatenate([kspace()] * 2, axis=1), 5
    wide[:, :start] = 0
    flags = (ismrmrd.ACQ_IS_REVERSE,) if reverse else ()
    stored = wide[:, ::-1] if reverse else wide
    centre = 2 * Y - 1 - Y if reverse else Y
    path = write(tmp_path / "scan", lines(stored, flags=flags, center_sample=centre), header((2 * Y, X, 1), (Y, X, 1)))
    with open_scan(path) as scan:
        acquisition = scan.read(0)
    assert torch.equal(acquisition.kspace[0], torch.from_numpy(wide))  # not cut: the filter would need what is missing
    assert not acquisition.mask[0, :start].any() and acquisition.mask[0, start:].all()
    assert any("partial Fourier (readout" in remark for remark in acquisition.remarks)


def test_zeros_that_are_no_end_of_the_readouts(tmp_path):
    """A first sample that is always zero; single readouts with more of them; padding of what the header announces."""
    wide = np.concatenate([kspace()] * 2, axis=1)
    wide[:, 0], wide[:, :5, X // 2], wide[:, -5:, 3] = 0, 0, 0
    with open_scan(write(tmp_path / "scan", lines(wide), header((2 * Y, X, 1), (Y, X, 1)))) as scan:
        assert scan.shape[2:] == (Y, X) and scan.read(0).fully_sampled
    wide[:, : Y // 2] = wide[:, -(Y // 2) :] = 0
    with open_scan(write(tmp_path / "padded", lines(wide), header((2 * Y, X, 1), (Y, X, 1)))) as scan:
        assert scan.shape[2:] == (2 * Y, X) and not scan.read(0).mask[0, : Y // 2].any()


def test_a_readout_with_samples_where_the_others_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr("mriinv.data.readers.ismrmrd.PROBES", 2)
    data = kspace()
    data[:, :5] = 0
    data[:, :5, X // 2] = 1
    refused(write(tmp_path / "scan", lines(data)), f"samples in readout {X // 2} where others hold zeros")


def test_the_noise_of_lines_measured_once_counts(tmp_path):
    """The noise of lines that were measured once counts, where others were measured twice."""
    noise = complex_noise((COILS, 4096), 0.2, torch.Generator().manual_seed(0)).numpy()
    readouts = [readout(noise, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,)), *lines(kspace())]
    readouts += lines(kspace(), [X // 2], average=1)
    with open_scan(write(tmp_path / "scan", readouts)) as scan:
        assert scan.read(0).noise_std == pytest.approx(0.2, rel=0.02)
