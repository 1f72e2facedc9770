from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from mriinv.data.readers import open_scan
from mriinv.data.readers.base import MAX_ELEMENTS
from mriinv.errors import InputError
from support import kspace, write_hdf5, write_npz

SLICES, COILS, Y, X = 3, 4, 10, 8
LINES = np.array([0, 1, 0, 1, 1, 0, 1, 0])
POINTS = (np.add.outer(np.arange(Y), np.arange(X)) % 3 == 0).astype(int)


def undersampled(mask: np.ndarray) -> np.ndarray:
    return kspace(SLICES, COILS, Y, X) * mask.astype(np.complex64)


def refused(path: Path, *words: str) -> None:
    """Check that `path` is refused, at the latest when its slices are read, and that the message says why."""
    with pytest.raises(InputError) as caught, open_scan(path) as scan:
        for index in range(len(scan)):
            scan.read(index)
    message = str(caught.value)
    assert "; expected " in message
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_paths_that_are_no_scan(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not k-space")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "missing.h5", "no such file")
    refused(tmp_path, "a directory")
    refused(tmp_path / "empty", "an empty file")
    refused(tmp_path / "text", "b'not k-sp'", "HDF5", "npz", "ISMRMRD", "BART")
    refused(tmp_path / "pipe", "no regular file")
    refused(Path("nul\0byte"))
    refused(Path("w" * 600), "File name too long")
    with pytest.raises(InputError, match=r"b\\udcff\.h5: found a name that is not UTF-8; expected one that is"):
        open_scan(os.fsdecode(b"b\xff.h5"))


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(tmp_path, write, kept):
    path = write(tmp_path / "scan", kspace=kspace(SLICES, COILS, Y, X), mask=LINES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, "damaged or unreadable")


def test_truncated_member_of_an_npz(tmp_path):
    data = io.BytesIO()
    np.save(data, kspace(SLICES, COILS, Y, X))
    for kept in (4, 50, 500):
        with zipfile.ZipFile(tmp_path / "scan.npz", "w") as archive:
            archive.writestr("ksp.npy", data.getvalue()[:kept])
        refused(tmp_path / "scan.npz", "ksp", "damaged or unreadable")


def test_flipped_bytes_never_escape_as_something_else(tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, ksp=kspace(1, 1, 4, 4), mask=np.ones(4))  # small, so that headers are hit
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            with open_scan(path) as scan:
                scan.read(0)
        except InputError:
            pass


GOOD = kspace(SLICES, COILS, Y, X)
BAD = {
    "real": ({"kspace": GOOD.real}, ["float32", "complex"]),
    "ndim 5": ({"kspace": GOOD[None]}, ["(1, 3, 4, 10, 8)", "(slices, coil, y, x)"]),
    "ndim 2": ({"kspace": GOOD[0, 0]}, ["(10, 8)"]),
    "no coils": ({"kspace": GOOD[:, :0]}, ["(3, 0, 10, 8)"]),
    "no slices": ({"kspace": GOOD[:0]}, ["(0, 4, 10, 8)"]),
    "too many coils": ({"kspace": np.ones((1, 2000, 1, 1), np.complex64)}, ["1024 coils"]),
    "all zero": ({"kspace": 0 * GOOD}, ["no sample in slice 0"]),
    "no kspace": ({"image": GOOD, "mask": LINES}, ["image, mask"]),
    "mask of other length": ({"kspace": GOOD, "mask": LINES[1:]}, ["mask", "(7,)", "(8,) or (10, 8)"]),
    "mask of other shape": ({"kspace": GOOD, "mask": POINTS.T}, ["mask", "(8, 10)"]),
    "empty mask": ({"kspace": GOOD, "mask": 0 * LINES}, ["mask", "no sampled location"]),
    "mask with weights": ({"kspace": GOOD, "mask": LINES * 0.5}, ["mask", "0 and 1"]),
    "mask with NaN": ({"kspace": GOOD, "mask": LINES * np.nan}, ["mask", "0 and 1"]),
    "complex mask": ({"kspace": GOOD, "mask": LINES * 1j}, ["mask", "complex128"]),
    "mask without overlap": ({"kspace": undersampled(LINES), "mask": 1 - LINES}, ["no sample in slice 0"]),
    "maps of other shape": ({"kspace": GOOD, "coil_maps": GOOD[:2]}, ["coil_maps", "(2, 4, 10, 8)"]),
    "real maps": ({"kspace": GOOD, "coil_maps": GOOD.real}, ["coil_maps", "float32"]),
    "maps with NaN": ({"kspace": GOOD, "coil_maps": np.full_like(GOOD, np.nan)}, ["coil_maps", "slice 0"]),
    "noise of other shape": ({"kspace": GOOD, "noise_cov": np.eye(3)}, ["noise_cov", "(3, 3)", "(4, 4)"]),
    "real noise of text": ({"kspace": GOOD, "noise_cov": np.full((4, 4), b"1")}, ["noise_cov", "dtype"]),
    "negative noise": ({"kspace": GOOD, "noise_cov": -np.eye(4)}, ["noise_cov", "eigenvalue -1", "positive definite"]),
    "singular noise": ({"kspace": GOOD, "noise_cov": np.ones((4, 4))}, ["noise_cov", "positive definite"]),
    "lopsided noise": ({"kspace": GOOD, "noise_cov": np.tri(4)}, ["noise_cov", "differ", "Hermitian"]),
    "infinite noise": ({"kspace": GOOD, "noise_cov": np.full((4, 4), np.inf)}, ["noise_cov", "inf"]),
    "noise NaN": ({"kspace": GOOD, "noise_cov": np.full((4, 4), np.nan)}, ["noise_cov", "nan"]),
    "reference of other shape": ({"kspace": GOOD, "reference": GOOD[:2, 0]}, ["reference", "(2, 10, 8)"]),
    "one reference for all": ({"kspace": GOOD, "reference": GOOD[0, 0]}, ["reference", "(10, 8)", "(3, 10, 8)"]),
    "text as reference": ({"kspace": GOOD, "reference": np.full((3, 10, 8), b"1")}, ["reference", "dtype"]),
    "reference with NaN": ({"kspace": GOOD, "reference": GOOD[:, 0] * np.nan}, ["reference", "slice 0"]),
    "out of range": ({"kspace": GOOD.astype(complex) * 1e300}, ["NaN or infinite in slice 0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_contents_that_are_refused(tmp_path, write, case):
    arrays, words = BAD[case]
    refused(write(tmp_path / "scan.npz", **arrays), *words)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_their_slice(tmp_path, write, value):
    data = kspace(SLICES, COILS, Y, X)
    data[2, 1, 3, 4] = value
    with open_scan(write(tmp_path / "scan.npz", kspace=data)) as scan:
        scan.read(1)
        with pytest.raises(InputError, match="1 values that are NaN or infinite in slice 2"):
            scan.read(2)


def test_hdf5_entries_that_are_no_arrays(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_group("kspace")
    refused(path, "kspace", "not a dataset")
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.Empty(np.complex64)
    refused(path, "kspace", "not a dataset")
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.SoftLink("/nowhere")
    refused(path, "kspace", "a link")
    write_hdf5(tmp_path / "other.h5", kspace=GOOD)
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.ExternalLink("other.h5", "kspace")
    refused(path, "kspace", "a link")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(GOOD.shape, GOOD.dtype)
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "kspace", GOOD.shape)
        file.create_virtual_dataset("kspace", layout)
    refused(path, "kspace", "in other files")
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", GOOD.shape, GOOD.dtype, external=[("raw", 0, GOOD.nbytes)])
    refused(path, "kspace", "in other files")
    write_hdf5(path, kspace=kspace(COILS, Y, X))
    refused(path, "(4, 10, 8)", "(slices, coil, y, x)")
    write_hdf5(path, kspace=np.array(["text"], dtype=h5py.string_dtype()))
    refused(path, "dtype object", "complex")


def test_hdf5_slice_too_large_for_memory(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("kspace", (1, 16, 2**14, 2**14), np.complex64, chunks=(1, 1, 64, 64))
    refused(tmp_path / "scan.h5", "at most", str(MAX_ELEMENTS))


def crafted(path: Path, header: str, data: bytes = b"") -> Path:
    """Write an npz whose ``ksp`` has the given npy header."""
    text = header.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ksp.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("dtype", "shape", "word"),
    [
        ("<c8", (1, 16, 2**20, 2**20), "at most"),
        ("<c8", (10**6, 4, 10, 8), "size does not fit"),
        ("<c8", (10**9, 4, 10, 8), "at most"),
        ("<c8", (-1, 4, 10, 8), "at least one"),
        ("|O", (3, 4, 10, 8), "dtype object"),
        ("<M8[s]", (3, 4, 10, 8), "datetime"),
    ],
)
def test_npz_headers_are_checked_before_memory_is_taken(tmp_path, dtype, shape, word):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape})
    tracemalloc.start()
    refused(crafted(tmp_path / "scan.npz", header, bytes(100)), word)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize("header", ["", "{", "[]", "{'descr': '<c8'}", "{" * 5000, "__import__('os')", "\xff\x00"])
def test_npz_headers_that_are_nonsense(tmp_path, header):
    refused(crafted(tmp_path / "scan.npz", header), "ksp")


def test_npz_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "scan.npz", ksp=np.array([{"a": 1}], dtype=object))
    refused(tmp_path / "scan.npz", "dtype object")


def test_npz_volume_in_fortran_order(tmp_path):
    refused(write_npz(tmp_path / "scan.npz", kspace=np.asfortranarray(kspace(SLICES, COILS, Y, X))), "Fortran")


def test_empty_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.npz", "w"):
        pass
    refused(tmp_path / "scan.npz", "it holds: nothing")


def test_a_foreign_reader_that_fails_leaves_the_file_to_the_others(tmp_path, monkeypatch, caplog):
    class Foreign:
        @classmethod
        def recognises(cls, path, head):
            return head.decode("ascii")

    monkeypatch.setattr("mriinv.registry.Registry.readers", lambda _: [Foreign, int])
    path = write_hdf5(tmp_path / "scan.h5", kspace=kspace(1, COILS, Y, X))
    with open_scan(path) as scan:
        assert len(scan) == 1
    (tmp_path / "scan.xyz").write_bytes(b"\xff, something else")
    refused(tmp_path / "scan.xyz", "none of the known formats", "fastMRI")
    assert "scan.h5: reader" in caplog.text and "UnicodeDecodeError" in caplog.text and "AttributeError" in caplog.text


def test_a_slice_of_an_npz_is_compared_with_the_checksum_of_all(tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, ksp=kspace(3, COILS, Y, X))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with open_scan(path) as scan, pytest.raises(InputError, match=r"ksp: found damaged .*CRC"):
        scan.read(0)


def test_more_slices_than_any_scan_has(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2**40, COILS, Y, X), "c8", chunks=(1, 1, Y, X))
    refused(path, "1099511627776 slices", "1048576 slices")
