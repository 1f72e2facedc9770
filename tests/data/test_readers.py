from __future__ import annotations

import tracemalloc

import h5py
import jaxtyping
import numpy as np
import pytest
import torch

from mriinv.data.acquisition import Acquisition
from mriinv.data.geometry import Geometry
from mriinv.data.masks import MaskKind, draw_mask
from mriinv.data.readers import READERS, NpzScan, Scan, find_reader, open_scan
from mriinv.errors import InputError
from mriinv.registry import Registry
from support import kspace, write_hdf5, write_npz

SLICES, COILS, Y, X = 3, 4, 10, 8
SPACE = """<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{3}</x><y>{4}</y><z>5</z></fieldOfView_mm></{0}>"""
PERSONAL = f"""<ismrmrdHeader><subjectInformation><patientName>Jane Doe</patientName></subjectInformation>
<n:studyInformation>2019</n:studyInformation ><acquisitionSystemInformation><institutionName>St Elsewhere
</institutionName></acquisitionSystemInformation><encoding>{SPACE.format("encodedSpace", 640, 372, 440, 220)}
</encoding></ismrmrdHeader>""".replace("<ismrmrdHeader>", '<ismrmrdHeader xmlns:n="http://www.ismrm.org/ISMRMRD">')


def header(encoded: tuple[float, ...], recon: tuple[float, ...]) -> str:
    """An ISMRMRD header with matrix (readout, phase) and field of view (readout, phase) of both spaces."""
    spaces = SPACE.format("encodedSpace", *encoded) + SPACE.format("reconSpace", *recon)
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>{spaces}</encoding></ismrmrdHeader>'


def undersampled(mask: np.ndarray) -> np.ndarray:
    return kspace(SLICES, COILS, Y, X) * mask.astype(np.complex64)


LINES = np.array([0, 1, 0, 1, 1, 0, 1, 0])
POINTS = (np.add.outer(np.arange(Y), np.arange(X)) % 3 == 0).astype(int)


def test_fully_sampled(tmp_path, write):
    data = kspace(SLICES, COILS, Y, X)
    with open_scan(write(tmp_path / "scan.npz", kspace=data)) as scan:  # content decides, not the name
        assert isinstance(scan, Scan)
        assert len(scan) == SLICES
        for index in range(SLICES):
            acquisition = scan.read(index)
            assert torch.equal(acquisition.kspace, torch.from_numpy(data[index : index + 1]))
            assert acquisition.mask.shape == (1, 1, X)
            assert acquisition.fully_sampled
            assert acquisition.reference is acquisition.coil_maps is acquisition.noise_std is None
            assert acquisition.source == f"scan.npz[{index}]"
        described = scan.describe()
    assert (described["slices"], described["coils"], described["matrix"]) == (SLICES, COILS, [Y, X])
    assert described["mask"] is None


@pytest.mark.parametrize("mask", [LINES, LINES.astype(bool), POINTS.astype(np.float32)])
def test_stored_mask(tmp_path, write, mask):
    with open_scan(write(tmp_path / "scan", kspace=undersampled(mask), mask=mask)) as scan:
        acquisition = scan.read(1)
        assert scan.describe()["acceleration"] == mask.size / mask.sum()
    expected = torch.from_numpy(np.atleast_2d(mask).astype(bool))[None]
    assert torch.equal(acquisition.mask, expected)
    assert acquisition.header["mask"] == "stored in the file"


def test_a_2d_mask_of_whole_columns_becomes_a_line_mask(tmp_path, write):
    mask = np.broadcast_to(LINES, (Y, X))
    with open_scan(write(tmp_path / "scan", kspace=undersampled(mask), mask=mask)) as scan:
        assert torch.equal(scan.read(0).mask[0, 0], torch.from_numpy(LINES.astype(bool)))


@pytest.mark.parametrize("mask", [LINES, POINTS])
def test_undersampling_without_a_mask_is_recognised(tmp_path, write, mask):
    with open_scan(write(tmp_path / "scan", kspace=undersampled(mask))) as scan:
        acquisition = scan.read(2)
    assert torch.equal(acquisition.mask[0], torch.from_numpy(np.atleast_2d(mask).astype(bool)))
    assert not acquisition.fully_sampled
    assert "derived" in acquisition.header["mask"]


def test_mask_and_data_that_disagree(tmp_path, write):
    data = kspace(SLICES, COILS, Y, X)
    data[..., 6] = 0  # zero padding that the mask counts as sampled
    with open_scan(write(tmp_path / "scan", kspace=data, mask=LINES)) as scan:
        acquisition = scan.read(0)
    assert acquisition.mask[0, 0].tolist() == [False, True, False, True, True, False, False, False]
    assert torch.equal(acquisition.kspace.abs().sum((0, 1, 2)) > 0, acquisition.mask[0, 0])
    assert acquisition.remarks == (
        f"{4 * Y} locations with data outside the mask were set to zero",
        f"{Y} locations of the mask hold zeros in every coil: not sampled",
    )


@pytest.mark.parametrize("per_slice", [True, False])
def test_coil_maps_and_noise(tmp_path, write, per_slice):
    maps = kspace(SLICES, COILS, Y, X) if per_slice else kspace(COILS, Y, X)
    noise = 0.08 * (np.eye(COILS) + 0.4j * np.eye(COILS, k=1) - 0.4j * np.eye(COILS, k=-1))
    noise[0, 0] = 0.16
    path = write(tmp_path / "scan", kspace=kspace(SLICES, COILS, Y, X), coil_maps=maps, noise_cov=noise)
    with open_scan(path) as scan:
        acquisition = scan.read(1)
        described = scan.describe()
    assert torch.equal(acquisition.coil_maps[0], torch.from_numpy(maps[1] if per_slice else maps))
    assert acquisition.noise_std == pytest.approx(np.sqrt(0.05))
    assert torch.equal(acquisition.noise_covariance, torch.from_numpy(noise.astype(np.complex64)))
    assert described["noise"] == "covariance of the coils" and described["coil_maps"]
    assert described["fields"] == sorted(["coil_maps", scan.kspace_name, "noise_cov"])


def test_reference(tmp_path, write):
    data, images = kspace(SLICES, COILS, Y, X), kspace(SLICES, Y, X)
    with open_scan(write(tmp_path / "scan", kspace=data, reference=images)) as scan:
        for index in range(SLICES):
            assert torch.equal(scan.read(index).reference[0], torch.from_numpy(images[index]))
    for one in (images[0], abs(images[0])):  # a magnitude too
        with open_scan(write_npz(tmp_path / "one", kspace=data[0], reference=one)) as scan:
            assert torch.equal(scan.read(0).reference[0], torch.from_numpy(one.astype(np.complex64)))


def test_npz_of_a_single_slice(tmp_path):
    data = kspace(COILS, Y, X)
    for stored in (data, np.asfortranarray(data), data.astype(">c16")):
        with open_scan(write_npz(tmp_path / "scan.npz", kspace=stored)) as scan:
            assert len(scan) == 1
            assert torch.equal(scan.read(0).kspace[0], torch.from_numpy(data))


def test_fastmri_header_is_kept_without_persons(tmp_path):
    path = write_hdf5(
        tmp_path / "scan.h5",
        kspace=kspace(SLICES, COILS, Y, X),
        ismrmrd_header=PERSONAL,
        reconstruction_rss=np.ones((SLICES, Y, X), np.float32),
    )
    with h5py.File(path, "a") as file:
        file.attrs.update(acquisition="AXT2", patient_id="0123")
    with open_scan(path) as scan:
        header = scan.read(0).header
        assert scan.describe()["acquisition"] == "AXT2"
    assert header["encoded_matrix"] == header["recon_matrix"] == "640x372x1"
    assert header["ismrmrd_header"].startswith("<ismrmrdHeader ")
    assert not any(secret in str(header) for secret in ("Jane", "2019", "0123", "Elsewhere"))


@pytest.mark.parametrize(
    ("text", "pixel"),
    [
        (header((Y, X, 20, 24), (Y // 2, X, 10, 24)), (2, 3)),  # as measured, with oversampled readout
        (header((2 * Y, 2 * X, 20, 16), (Y, X, 10, 8)), (1, 1)),  # cut to the image
        (header((Y, X, 20, 24), (Y, X, 10, 12)), (2, 3)),  # the measured grid counts
        (header((Y, X, 0, 24), (Y, X, 20, 24)), (2, 3)),  # the measured grid has no size
        (header((Y, X + 1, 20, 24), (Y, X + 2, 20, 24)), None),
        (header((Y, X, 0, 24), (Y, X, "nan", 24)), None),
        (header((Y, -X, 20, 24), (Y, X, 20, 24)), None),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + header((Y, X, 20, 24), (Y, X, 20, 24)), None),
        ("<a>" * 10_000, None),
        ("<ismrmrdHeader/>", None),
    ],
)
def test_fastmri_header_gives_the_size_of_pixels(tmp_path, text, pixel):
    path = write_hdf5(tmp_path / "scan.h5", kspace=kspace(SLICES, COILS, Y, X), ismrmrd_header=text)
    with open_scan(path) as scan:
        acquisition, described = scan.read(1), scan.describe()["geometry"]
    if pixel is None:
        assert acquisition.geometry is described is None
        assert acquisition.remarks == (f"the header tells no size for pixels of a {Y} × {X} matrix",)
    else:
        assert acquisition.geometry == Geometry(pixel, 5)
        assert described == f"{pixel[0]} × {pixel[1]} mm pixels, 5 mm slices" and not acquisition.remarks


@pytest.mark.parametrize(
    "place",
    [
        '{"pixel": [1, 1, 1], "spacing": 1}',
        '{"pixel": ["a", "b"], "spacing": 1}',
        '{"pixel": [1, 1], "spacing": 1, "centre": [1]}',
        '{"pixel": [1, 1], "spacing": 1, "centre": null, "axes": [[1, 0], [0, 1], [0, 0]]}',
        '{"pixel": [1, 1], "spacing": -1}',
        "[]",
        "no JSON",
    ],
)
def test_a_stored_geometry_that_is_none_is_left_out(tmp_path, place):
    path = write_hdf5(tmp_path / "scan.h5", kspace=kspace(SLICES, COILS, Y, X))
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = place
    with open_scan(path) as scan:
        assert scan.read(1).geometry is scan.describe()["geometry"] is None


@pytest.mark.parametrize("text", ["x" * (2**20 + 1), 1.0, "<subjectInformation><patientName>Jane Doe"])
def test_headers_that_are_no_use(tmp_path, text):
    with open_scan(write_hdf5(tmp_path / "scan.h5", kspace=kspace(1, COILS, Y, X), ismrmrd_header=text)) as scan:
        assert "ismrmrd_header" not in scan.read(0).header


def test_hdf5_reads_one_slice_of_a_volume_larger_than_memory(tmp_path):
    path, shape = tmp_path / "scan.h5", (10**6, 8, 128, 128)  # a terabyte, nearly all of it never written
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("kspace", shape, np.complex64, chunks=(1, *shape[1:]))
        dataset[765_432] = kspace(*shape[1:])
    with open_scan(path) as scan:
        tracemalloc.start()
        acquisition = scan.read(765_432)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with pytest.raises(InputError, match="no sample in slice 0"):
            scan.read(0)
    assert acquisition.kspace.abs().min() > 0
    assert peak < 4 * acquisition.kspace.nbytes


def test_npz_reads_one_slice(tmp_path, monkeypatch):
    data = kspace(40, COILS, Y, X)
    path = write_npz(tmp_path / "scan.npz", kspace=data)
    sizes = []
    frombuffer = np.frombuffer
    monkeypatch.setattr(np, "frombuffer", lambda data, dtype: (sizes.append(len(data)), frombuffer(data, dtype))[1])
    with open_scan(path) as scan:
        assert torch.equal(scan.read(31).kspace[0], torch.from_numpy(data[31]))
    assert sizes == [data[0].nbytes]


@pytest.mark.parametrize("index", [-1, SLICES])
def test_slice_that_does_not_exist(tmp_path, write, index):
    with (
        open_scan(write(tmp_path / "scan", kspace=kspace(SLICES, COILS, Y, X))) as scan,
        pytest.raises(InputError, match="expected 0 to 2"),
    ):
        scan.read(index)


def test_readers_of_plugins_are_asked_first(tmp_path, monkeypatch):
    class Special(NpzScan):
        format = "special"

    path = write_npz(tmp_path / "scan.npz", kspace=kspace(COILS, Y, X))
    monkeypatch.setattr(Registry, "readers", lambda _: [Special])
    with open_scan(path) as scan:
        assert isinstance(scan, Special) and find_reader(path) is Special
    assert Special not in READERS


class Foreign(Scan):
    """Two slices of a plug-in's own, right unless a fault is asked for."""

    fault = ""

    def __init__(self, path):
        if self.fault == "opening":
            raise KeyError("no such table")

    @classmethod
    def recognises(cls, path, head):
        return head.startswith(b"FOREIGN")

    def __len__(self):
        return 0 if self.fault == "empty" else 2

    def read(self, index):
        if self.fault == "reading":
            raise ValueError("truncated")
        if self.fault == "tensor":
            return torch.zeros(1, COILS, Y, X)
        count = 2 if self.fault == "all slices" else 1
        return Acquisition.from_arrays(np.stack([kspace(COILS, Y, X)] * count))

    def describe(self):
        return {"slices": 2} if self.fault == "description" else {"slices": 2, "coils": COILS, "matrix": (Y, X)}

    def close(self):
        pass


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("opening", r"reader tests\..*Foreign failed \('no such table'\); expected a scan"),
        ("empty", "slices: found 0; expected at least one"),
        ("reading", r"reader tests\..*Foreign failed \(truncated\)"),
        ("tensor", "slice 1: found Tensor; expected an Acquisition"),
        ("all slices", "slice 1: found 2 slices; expected one, as a batch of one"),
        ("description", "description: found no coils, matrix; expected slices, coils, matrix"),
    ],
)
def test_what_a_reader_of_a_plugin_does_wrong_names_the_file(tmp_path, monkeypatch, fault, message):
    monkeypatch.setattr(Registry, "readers", lambda _: [Foreign])
    (tmp_path / "scan.own").write_bytes(b"FOREIGN")
    with open_scan(tmp_path / "scan.own") as scan:
        assert len(scan) == 2 and scan.describe()["coils"] == COILS and scan.read(1).kspace.shape[0] == 1
    monkeypatch.setattr(Foreign, "fault", fault)
    with pytest.raises(InputError, match=rf"scan\.own: .*{message}"), open_scan(tmp_path / "scan.own") as scan:
        scan.describe()
        scan.read(1)


def test_real_fully_sampled(shared_data):
    with open_scan(shared_data / "bart_full8" / "full.npz") as scan:
        acquisition = scan.read(0)
    assert acquisition.kspace.shape == (1, 8, 230, 180)
    assert acquisition.fully_sampled
    assert acquisition.noise_std == pytest.approx(0.00988, rel=1e-3)


@pytest.mark.parametrize("keep_mask", [True, False])
def test_real_undersampled(shared_data, tmp_path, keep_mask):
    with np.load(shared_data / "sigpy_bartws8" / "cartesian_ksp_union.npz") as file:
        stored = file["mask"]
        np.savez(tmp_path / "scan.npz", ksp=file["ksp"], **({"mask": stored} if keep_mask else {}))
    with open_scan(tmp_path / "scan.npz") as scan:
        acquisition = scan.read(0)
    assert torch.equal(acquisition.mask[0], torch.from_numpy(stored))
    assert acquisition.acceleration == pytest.approx(4.60, abs=0.01)


def test_real_zero_padding_is_a_line_mask(shared_data):
    with open_scan(shared_data / "espirit_alias8" / "alias.npz") as scan:
        acquisition = scan.read(0)
    assert acquisition.mask.shape == (1, 1, 256)
    assert int(acquisition.mask.sum()) == 168


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kspace": torch.ones(COILS, Y, X) + 0j},
            r"scan: kspace: found torch.complex64 \(\d, .*expected complex \(batch",
        ),
        ({"kspace": torch.ones(1, COILS, Y, X)}, "scan: kspace: found torch.float32"),
        ({"mask": torch.ones(1, 2, X) > 0}, rf"scan: mask: found shape \(1, 2, {X}\); expected \(batch\|1, y\|1, x\)"),
        ({"mask": torch.ones(2, 1, X) > 0}, "scan: mask: found shape"),
        ({"mask": torch.ones(X) > 0}, "scan: mask: found shape"),
        ({"coil_maps": torch.ones(1, COILS + 1, Y, X) + 0j}, "scan: coil_maps: found shape"),
        ({"reference": torch.ones(1, Y, X + 1) + 0j}, "scan: reference: found shape"),
        ({"mask": torch.arange(X)[None, None] > 0}, r"scan: kspace: found values outside the mask; .*undersampled"),
        ({"noise_std": -1.0}, "scan: noise_std: found -1.0; expected finite numbers from 0 on"),
    ],
)
def test_shapes_of_an_acquisition_that_do_not_fit(changes, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the check of the tests would be first
    fitting = {"kspace": torch.ones(1, COILS, Y, X) + 0j, "mask": torch.ones(1, 1, X) > 0, "source": "scan"}
    Acquisition(**fitting)
    with pytest.raises(InputError, match=message):
        Acquisition(**{**fitting, **changes})


def test_the_extent_is_the_rectangle_that_holds_the_samples():
    mask = torch.zeros(1, Y, X, dtype=torch.bool)
    mask[:, 1:3, 2:5] = True
    kspace = torch.ones(1, COILS, Y, X) + 0j
    acquisition = Acquisition(kspace * mask, mask)
    assert acquisition.extent == (1, 3, 2, 5) and acquisition.gapless
    mask = mask.clone()
    mask[:, 2, 3] = False
    assert not Acquisition(kspace * mask, mask).gapless
    halves = torch.stack([torch.arange(X) % 2 == one for one in (0, 1)])[:, None]
    two = Acquisition(torch.ones(2, 1, Y, X) * halves[:, None] + 0j, halves)
    assert not two.gapless and two.sampling != "full"  # together they fill k-space, and none of them does
    lines = Acquisition(kspace * mask[:, 1:2], mask[:, 1:2])
    assert lines.extent == (0, Y, 2, 5) and lines.gapless


def test_arrays_become_an_acquisition():
    data = kspace(COILS, Y, X)
    found = Acquisition.from_arrays(data, LINES, coil_maps=data, reference=data[0], noise_std=0.1, source="mine")
    expected = torch.from_numpy(data)[None] * torch.from_numpy(LINES)
    assert torch.equal(found.kspace, expected) and found.mask.tolist() == [[LINES.astype(bool).tolist()]]
    assert found.coil_maps.shape == (1, COILS, Y, X) and found.reference.shape == (1, Y, X)
    assert (found.noise_std, found.source) == (0.1, "mine")
    again = Acquisition.from_arrays(expected[0].numpy())  # what is not zero was sampled
    assert torch.equal(again.mask, found.mask.expand(1, Y, X)) and again.sampling == "lines"
    batch = Acquisition.from_arrays(torch.from_numpy(np.stack([data, 2 * data])), POINTS)
    assert batch.kspace.shape == (2, COILS, Y, X) and batch.mask.shape == (1, Y, X)
    other = np.asfortranarray(data.astype(">c8"))[..., ::-1]  # another byte order, columns first, backwards
    assert torch.equal(Acquisition.from_arrays(other).kspace[0], torch.from_numpy(data).flip(-1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.array(["a", "b"]),), "mine: kspace: found no array of numbers"),
        ((np.ones((COILS, Y, X)),), r"mine: kspace: found torch.float64 \(1, 4, 10, 8\); expected complex"),
        ((kspace(1, 1, COILS, Y, X),), r"expected complex \(batch, coil, y, x\)"),
        ((kspace(COILS, Y, X), np.ones(Y)), r"mine: mask: found shape \(1, 1, 10\); expected \(1, 10, 8\)"),
        ((kspace(COILS, Y, X), 2 * LINES), "mask: found torch.int64 with other values than 0 and 1"),
        ((kspace(COILS, Y, X), None, kspace(2, Y, X)), "coil_maps: found shape"),
        ((np.zeros((COILS, Y, X), complex),), "no sampled location"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message):
        Acquisition.from_arrays(*arrays, source="mine")


@pytest.mark.parametrize(
    ("name", "sampling"), [("poisson-2d", "2D"), ("random-1d", "lines"), ("equispaced-1d", "lines")]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_known_whether_lines_were_left_out_or_points(name, sampling, transposed):
    """In either direction, one row or all of them in the mask, and with padding around the samples."""
    kspace = torch.ones(1, COILS, 48, 48) + 0j
    mask = draw_mask(MaskKind(name, 3.0, 8), (48, 48), (0, 48, 6, 40))
    whole = mask.expand(1, 48, 48).clone()
    whole[:, :5] = False
    for one in (mask, mask.expand(1, 48, 48), whole):
        one = one.mT if transposed and one.shape[-2] > 1 else one
        assert Acquisition(kspace * one, one).sampling == sampling


def test_zero_padded_data_may_be_undersampled_and_others_not(tmp_path, write):
    padded = np.ones((Y, X))
    padded[:, :2] = padded[:, 7:] = 0
    mask = torch.from_numpy(LINES.astype(bool))[None, None]
    with open_scan(write(tmp_path / "scan", kspace=undersampled(padded))) as scan:
        full = scan.read(0)
    assert full.gapless and full.sampling == "full" and not full.fully_sampled
    acquisition = full.undersampled(mask)
    assert acquisition.mask.tolist() == [[[False, False, False, True, True, False, True, False]]]
    assert torch.equal((acquisition.kspace != 0).any(1)[0], acquisition.mask[0].expand(Y, X))
    with pytest.raises(InputError, match="no sampled location"):
        full.undersampled(torch.arange(X)[None, None] < 2)
    for gaps in (LINES, POINTS):
        with open_scan(write(tmp_path / "scan", kspace=undersampled(gaps))) as scan:
            acquisition = scan.read(0)
        assert not acquisition.gapless
        with pytest.raises(InputError, match="already undersampled"):
            acquisition.undersampled(mask)


def test_what_is_known_of_the_noise_comes_as_arrays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    data = np.ones((2, 4, 4), np.complex64)
    found = Acquisition.from_arrays(data, noise_covariance=np.eye(2))
    assert torch.equal(found.noise_covariance, torch.eye(2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"noise_std: found shape \(2,\); expected one number, or 1, one"):
        Acquisition.from_arrays(data, noise_std=np.array([0.1, 0.2]))
    assert Acquisition.from_arrays(data, remarks=["one"]).remarked("two", "one").remarks == ("one", "two")
    assert Acquisition.from_arrays(data, noise_covariance=0.02 * np.eye(2), noise_std=0.1).noise_std == 0.1
    with pytest.raises(InputError, match=r"noise_std: found 0\.5; expected 0\.1, that of noise_covariance"):
        Acquisition.from_arrays(data, noise_covariance=0.02 * np.eye(2), noise_std=0.5)
    with pytest.raises(InputError, match=r"noise_std: found \[0\.1, nan\]; expected finite numbers from 0 on"):
        Acquisition.from_arrays(np.stack([data, data]), noise_std=[0.1, float("nan")])
    with pytest.raises(InputError, match=r"noise_std: found 'low'; expected a number, or one per slice"):
        Acquisition.from_arrays(data, noise_std="low")
    with pytest.raises(InputError, match=r"coil_maps: found torch\.float32; expected complex values"):
        Acquisition.from_arrays(data, coil_maps=np.ones((2, 4, 4), np.float32))


def test_masks_of_numpy_undersample() -> None:
    full, mask = Acquisition.from_arrays(np.ones((2, 4, 4), np.complex64)), np.eye(4)
    assert torch.equal(full.undersampled(mask).mask, torch.from_numpy(mask)[None] == 1)
