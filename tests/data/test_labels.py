"""Label volumes: orientation and size of voxels, what is accepted, and files that are damaged or hostile."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from mriinv.data.labels import label_files, read_labels
from mriinv.data.tissue import TISSUE, TISSUES, classify_labels
from mriinv.errors import InputError

# What FreeSurfer's table calls these labels, written out: white matter, cortex, CSF, putamen, and SynthSeg's eye.
KNOWN = {0: "air", 2: "white", 42: "cortex", 24: "csf", 51: "putamen", 506: "eye"}


@pytest.fixture
def labels() -> np.ndarray:
    """A volume (x, y, z) in RAS without any symmetry."""
    return np.random.default_rng(0).choice(list(KNOWN), (6, 7, 8)).astype(np.int16)


def tissues(labels: np.ndarray) -> torch.Tensor:
    return torch.tensor([TISSUE[KNOWN[value]] for value in labels.ravel().tolist()], dtype=torch.uint8).reshape(
        labels.shape
    )


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 1.5, 1.0]) if affine is None else affine), path)
    return path


def turn(degrees: float) -> np.ndarray:
    """A rotation about an oblique axis."""
    axis = np.array([1.0, 2.0, -1.5]) / np.linalg.norm([1.0, 2.0, -1.5])
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


# Orientation


@pytest.mark.parametrize("degrees", [0, 15])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_nifti_comes_out_in_ras(
    tmp_path: Path, labels: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...], degrees: float
) -> None:
    """File axis a runs along ±world axis `order[a]`, up to an oblique rotation."""
    voxel = np.array([0.8, 1.0, 2.5])  # along x, y, z
    stored = labels.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.eye(4)
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, axis] = turn(degrees)[:, world] * sign * voxel[world]
    affine[:3, 3] = (-20, 31, 5)
    volume = read_labels(write_nifti(tmp_path / "a.nii.gz", stored, affine))
    assert torch.equal(volume.tissues, tissues(labels))
    np.testing.assert_allclose(volume.voxel, voxel, rtol=1e-5)


def test_npz_is_in_ras_already(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", labels=labels, voxel=[0.8, 1, 2.5])
    volume = read_labels(tmp_path / "a.npz")
    assert volume.tissues.dtype == torch.uint8 and torch.equal(volume.tissues, tissues(labels))
    np.testing.assert_allclose(volume.voxel, [0.8, 1, 2.5], rtol=1e-6)
    np.savez(tmp_path / "a.npz", labels=labels)
    assert read_labels(tmp_path / "a.npz").voxel.tolist() == [1, 1, 1]


# What is accepted


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
def test_labels_of_any_number_type(tmp_path: Path, labels: np.ndarray, kind: type) -> None:
    labels[labels > 255] = 0
    volume = read_labels(write_nifti(tmp_path / "a.nii", labels.astype(kind)))
    assert torch.equal(volume.tissues, tissues(labels))


def test_scaled_values(tmp_path: Path, labels: np.ndarray) -> None:
    raw = bytearray(write_nifti(tmp_path / "a.nii", labels).read_bytes())
    struct.pack_into("<ff", raw, 112, 2.0, 0.0)  # what is stored counts twice
    (tmp_path / "a.nii").write_bytes(raw)
    expected = classify_labels(2 * labels.astype(int))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii").tissues, expected)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_fourth_axis_of_one_volume(tmp_path: Path, labels: np.ndarray, kind: type) -> None:
    nibabel.save(kind(labels[..., None], np.diag([1.0, 2.0, 1.5, 1.0])), tmp_path / "a.nii")
    volume = read_labels(tmp_path / "a.nii")
    assert torch.equal(volume.tissues, tissues(labels)) and volume.voxel.tolist() == [1, 2, 1.5]


def test_unknown_labels_are_some_tissue(tmp_path: Path, labels: np.ndarray) -> None:
    labels[0, 0] = 32767
    assert TISSUES[read_labels(write_nifti(tmp_path / "a.nii", labels)).tissues[0, 0, 0]] == "muscle"


# Files and folders


def test_a_file_or_the_volumes_in_a_folder(tmp_path: Path) -> None:
    names = ("b.npz", "a.nii.gz", "c.nii", "notes.txt", ".hidden.nii", "d.mgz")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert label_files(tmp_path) == [tmp_path / name for name in ("a.nii.gz", "b.npz", "c.nii")]
    assert label_files(tmp_path / "d.mgz") == [tmp_path / "d.mgz"]  # refused when it is read, by name


@pytest.mark.parametrize("name", ["empty", "missing", "missing.nii"])
def test_a_path_without_label_maps(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"no label maps; expected a file or a folder of files \.npz, \.nii, \.nii\.gz"
    ):
        label_files(tmp_path / name)


# What is refused


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def lying_npy(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i2", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


def write_zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


VOLUME = np.full((4, 4, 4), 2, np.int16)
BAD_NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archive": (lambda p: p.write_bytes(b"not a zip file"), "no readable label volume"),
    "empty": (lambda p: p.write_bytes(b""), "no readable label volume"),
    "no labels": (lambda p: np.savez(p, segmentation=VOLUME), "labels: found the arrays segmentation"),
    "no array": (lambda p: write_zip(p), "labels: found the arrays none"),
    "fractions": (lambda p: np.savez(p, labels=VOLUME * 0.5), "an integer volume"),
    "truth values": (lambda p: np.savez(p, labels=VOLUME > 0), "an integer volume"),
    "plane": (lambda p: np.savez(p, labels=VOLUME[0]), "an integer volume"),
    "no voxel": (lambda p: np.savez(p, labels=VOLUME[:0]), "an integer volume"),
    "air alone": (lambda p: np.savez(p, labels=0 * VOLUME), "labels 0 to 0; expected 0 for air, larger ones"),
    "negative": (lambda p: np.savez(p, labels=-VOLUME), "labels -2 to -2; expected 0 for air, larger ones to 32767"),
    "large": (lambda p: np.savez(p, labels=VOLUME.astype(np.int64) * 2**40), "labels 2199023255552 to"),
    "objects": (lambda p: np.savez(p, labels=np.array([None, 1], object)), "without pickled objects"),
    "objects as voxel": (lambda p: np.savez(p, labels=VOLUME, voxel=np.array([1, 1, None])), "no readable label"),
    "header cut short": (lambda p: write_zip(p, labels=b"\x93NUMPY\x01\x00\x04\x00(((("), "no readable label volume"),
    "huge header": (lambda p: write_zip(p, labels=lying_npy((2**40, 1, 1))), "no readable label volume"),
    "huge voxel header": (lambda p: write_zip(p, labels=npy(VOLUME), voxel=lying_npy((2**40,))), "no readable label"),
    "overflowing header": (lambda p: write_zip(p, labels=lying_npy((2**62, 2**62, 4))), "no readable label volume"),
    "two voxel sizes": (lambda p: np.savez(p, labels=VOLUME, voxel=[1, 1]), "voxel: found .*three sizes in mm"),
    "voxel of no size": (lambda p: np.savez(p, labels=VOLUME, voxel=[1, 0, 1]), "voxel: found .*three sizes in mm"),
    "voxel not finite": (lambda p: np.savez(p, labels=VOLUME, voxel=[1, np.nan, 1]), "voxel: found .*three sizes"),
    "voxel in metres": (lambda p: np.savez(p, labels=VOLUME, voxel=[1e-3] * 3), "voxel: found .*three sizes in mm"),
    "complex voxel": (lambda p: np.savez(p, labels=VOLUME, voxel=[1j] * 3), "no readable label volume"),
    "voxel in words": (lambda p: np.savez(p, labels=VOLUME, voxel=["a", "b", "c"]), "no readable label volume"),
}


@pytest.mark.parametrize(("write", "message"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_bad_archives(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_more_than_any_volume_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mriinv.data.labels.MAX_VOXELS", 100)
    for members in ({"labels": npy(np.ones((10, 10, 10)))}, {"labels": npy(VOLUME), "voxel": npy(np.ones(2000))}):
        write_zip(tmp_path / "a.npz", **members)
        with pytest.raises(InputError, match=r"arrays of \d+ bytes; expected at most 800"):
            read_labels(tmp_path / "a.npz")


def patched(offset: int, layout: str, *values: float) -> Callable[[Path], object]:
    """Return what writes a NIfTI file with other values in its header."""

    def write(path: Path) -> None:
        raw = bytearray(write_nifti(path, VOLUME).read_bytes())
        struct.pack_into("<" + layout, raw, offset, *values)
        path.write_bytes(raw)

    return write


BAD_NIFTI: dict[str, tuple[Callable[[Path], object], str]] = {
    "no NIfTI": (lambda p: p.write_bytes(b"hello" * 200), "no readable label volume"),
    "empty": (lambda p: p.write_bytes(b""), "no readable label volume"),
    "folder": (lambda p: p.mkdir(), "no readable label volume"),
    "cut short": (lambda p: p.write_bytes(write_nifti(p, VOLUME).read_bytes()[:-30]), "no readable label volume"),
    "two volumes": (lambda p: write_nifti(p, np.stack([VOLUME] * 2, -1)), r"a volume of shape \(4, 4, 4, 2\)"),
    "pipe": (os.mkfifo, r"no readable label volume \(no regular file\)"),
    "plane": (lambda p: write_nifti(p, VOLUME[0]), r"a volume of shape \(4, 4\)"),
    "huge": (patched(40, "4h", 3, *[32767] * 3), "at most 134217728 voxels"),
    "no voxels": (patched(40, "4h", 3, 0, 4, 4), "no readable label volume|an integer volume"),
    "negative axis": (patched(40, "4h", 3, -4, 4, 4), "no readable label volume"),
    "unknown type": (patched(70, "h", 17), "no readable label volume"),
    "data inside the header": (patched(108, "f", 100), "no readable label volume"),
    "data far away": (patched(108, "f", 1e30), "no readable label volume"),
    "affine of zeros": (patched(280, "12f", *[0.0] * 12), "no readable label volume|three sizes in mm"),
    "affine not finite": (patched(280, "f", float("nan")), "no readable label volume"),
    "scale not finite": (patched(112, "ff", 1.0, float("inf")), "no readable label volume"),
    "voxels of 100 mm": (lambda p: write_nifti(p, VOLUME, np.diag([100.0, 1, 1, 1])), "voxel: found .*three sizes"),
    "fractions": (lambda p: write_nifti(p, VOLUME + 0.5), "an integer volume"),
    "not finite": (lambda p: write_nifti(p, VOLUME + np.inf), "labels 32768 to 32768; expected 0 for air"),
    "not a number": (lambda p: write_nifti(p, VOLUME + np.nan), "an integer volume"),
    "complex": (lambda p: write_nifti(p, VOLUME.astype(np.complex64)), "an integer volume"),
    "negative": (lambda p: write_nifti(p, -VOLUME), "labels -2 to -2; expected 0 for air"),
    "air alone": (lambda p: write_nifti(p, 0 * VOLUME), "labels 0 to 0; expected 0 for air"),
}


@pytest.mark.parametrize(("write", "message"), BAD_NIFTI.values(), ids=BAD_NIFTI)
def test_bad_nifti_files(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "a.nii")
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "a.nii")


def test_a_volume_of_another_format_is_named(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(VOLUME.astype(np.float32), np.eye(4)), tmp_path / "a.mgz")
    with pytest.raises(InputError, match="found MGHImage; expected NIfTI"):
        read_labels(tmp_path / "a.mgz")


def test_no_damage_makes_a_crash(tmp_path: Path, labels: np.ndarray) -> None:
    """Every cut and flipped bytes end in a volume or in an `InputError`."""
    rng = np.random.default_rng(1)
    np.savez_compressed(tmp_path / "a.npz", labels=labels, voxel=[1, 1, 2])
    plain = write_nifti(tmp_path / "a.nii", labels).read_bytes()
    packed = gzip.compress(plain)
    archive, refused, tried = (tmp_path / "a.npz").read_bytes(), 0, 0
    for name, content, damageable in (
        ("b.nii", plain, 352),
        ("b.nii.gz", packed, len(packed)),
        ("b.npz", archive, 400),
    ):
        for _ in range(100):
            damaged = bytearray(content)
            damaged[rng.integers(damageable)] ^= int(rng.integers(1, 256))
            kept = len(damaged) if rng.random() < 0.7 else int(rng.integers(len(damaged)))
            (tmp_path / name).write_bytes(damaged[:kept])
            tried += 1
            try:
                read_labels(tmp_path / name)
            except InputError:
                refused += 1
    assert 0.3 * tried < refused < tried
