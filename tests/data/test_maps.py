"""Coil maps from files: all formats, the right slice, and the coils that preparation makes of them."""

import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from mriinv import (
    Acquisition,
    InputError,
    Preparation,
    complex_noise,
    make_problem,
    make_solver,
    open_scan,
    prepare_acquisition,
    simulate_acquisition,
)
from mriinv.data.coils import simulate_coil_maps
from mriinv.data.maps import WHITENED, with_maps
from mriinv.data.result_writer import ResultWriter
from mriinv.numerics.fft import fft2c
from support import write_cfl, write_hdf5

MAPS = complex_noise((4, 3, 6, 5), 1.0, torch.Generator().manual_seed(0)).numpy()


def acquisition(index=0, batch=1, **changes):
    kspace = complex_noise((batch, 3, 6, 5), 1.0, torch.Generator().manual_seed(1))
    return Acquisition(kspace, torch.ones(1, 1, 5, dtype=torch.bool), source="scan.h5", index=index, **changes)


def write(path: Path, maps: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, maps)
    elif path.suffix == ".npz":
        np.savez(path, coil_maps=maps)
    elif path.suffix == ".h5":
        write_hdf5(path, coil_maps=maps)
    else:
        volume = maps.reshape(-1, *maps.shape[-3:])
        slices, coils, y, x = volume.shape
        write_cfl(path, volume.transpose(2, 3, 1, 0).reshape(y, x, 1, coils, *[1] * 9, slices))
    return path


def test_a_pair_may_be_named_without_suffix(tmp_path):
    write(tmp_path / "maps.cfl", MAPS[1])
    assert torch.equal(with_maps(acquisition(), tmp_path / "maps").coil_maps[0], torch.from_numpy(MAPS[1]))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".cfl"])
def test_the_maps_of_the_slice_replace_those_of_the_file(tmp_path, suffix):
    own = torch.ones(1, 3, 6, 5, dtype=torch.complex64)
    one, several = write(tmp_path / f"one{suffix}", MAPS[1]), write(tmp_path / f"several{suffix}", MAPS)
    for index in (0, 2):
        assert torch.equal(with_maps(acquisition(index, coil_maps=own), one).coil_maps[0], torch.from_numpy(MAPS[1]))
        assert torch.equal(with_maps(acquisition(index), several).coil_maps[0], torch.from_numpy(MAPS[index]))
    assert torch.equal(with_maps(acquisition(1, batch=3), several).coil_maps, torch.from_numpy(MAPS[1:]))
    with pytest.raises(InputError, match="coil_maps: found 4 slices; expected maps of slice 4 too"):
        with_maps(acquisition(2, batch=3), several)


def write_pair(base: Path, *sizes: int) -> tuple[Path, torch.Tensor]:
    """Write a pair of these dimensions, the first ones of BART, and return its values as well."""
    values = complex_noise(sizes, 1.0, torch.Generator().manual_seed(2))
    write_cfl(base, values.numpy())
    return base.with_suffix(".cfl"), values


def test_maps_in_3d_are_images_along_read(tmp_path):
    path, values = write_pair(tmp_path / "maps", 4, 6, 5, 3)
    values[1, :, :2] = values[2] = 0  # as outside the head
    write_cfl(tmp_path / "maps", values.numpy())
    for index in range(4):
        assert torch.equal(with_maps(acquisition(index), path).coil_maps[0], values[index].permute(2, 0, 1))
    several = with_maps(acquisition(1, batch=3), path.with_suffix(".hdr")).coil_maps
    assert torch.equal(several, values[1:].permute(0, 3, 1, 2)) and several.is_contiguous()


@pytest.mark.parametrize("grid", [(6, 5, 1), (1, 6, 5), (6, 1, 5)])
def test_maps_of_one_slice_lie_along_any_two_dimensions(tmp_path, grid):
    path, values = write_pair(tmp_path / "maps", *grid, 3)
    assert torch.equal(with_maps(acquisition(2), path).coil_maps[0], values.reshape(6, 5, 3).permute(2, 0, 1))


def test_pairs_that_are_no_maps_are_refused(tmp_path):
    path, _ = write_pair(tmp_path / "sets", 6, 5, 1, 3, 2)
    with pytest.raises(InputError, match=r"2 entries along MAPS .*; expected one entry, as `bart slice 4 0 in out`"):
        with_maps(acquisition(), path)
    path, _ = write_pair(tmp_path / "coils", 6, 5, 1, 2)
    with pytest.raises(InputError, match=r"coils.cfl: coil_maps: found complex64 \(1, 2, 6, 5\)"):
        with_maps(acquisition(), path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match=r"coils\.hdr: found no such file"):
        with_maps(acquisition(), path)


def test_the_precision_is_that_of_kspace(tmp_path):
    path = write(tmp_path / "maps.npy", MAPS[0].astype(">c16"))
    assert with_maps(acquisition(), path).coil_maps.dtype == torch.complex64
    double = replace(acquisition(), kspace=acquisition().kspace.to(torch.complex128))
    assert with_maps(double, path).coil_maps.dtype == torch.complex128


def test_maps_are_whitened_and_cropped_as_the_data_are(tmp_path):
    """Maps of the raw coils, as other programs make them from a raw file, show the image of the whitened data."""
    truth = simulate_acquisition(shape=(32, 24)).reference
    maps = simulate_coil_maps((32, 24), 4, torch.Generator().manual_seed(3))
    mixing = torch.eye(4, dtype=torch.complex64) + 0.4 * complex_noise((4, 4), 1.0, torch.Generator().manual_seed(2))
    everything = torch.ones(1, 1, 24, dtype=torch.bool)
    raw = Acquisition(fft2c(maps * truth[:, None]), everything, noise_covariance=2e-8 * mixing @ mixing.mH)
    preparation = Preparation(maps=write(tmp_path / "maps.npy", maps.numpy()), crop=(24, 24), coils=3)
    prepared = prepare_acquisition(raw, preparation)
    assert prepared.kspace.shape == prepared.coil_maps.shape == (1, 3, 24, 24)
    image = make_solver("cg-sense", regularisation=1e-6)(make_problem(prepared), None).image
    seen = prepared.coil_maps.abs().sum(1) > 0
    assert float(((image - truth[:, 4:-4]) * seen).norm() / truth.norm()) < 1e-3


def test_what_cannot_be_read_is_named(tmp_path):
    def refused(path, found):
        with pytest.raises(InputError) as caught:
            with_maps(acquisition(), path)
        assert caught.value.source == str(path)
        assert found in str(caught.value)

    refused(tmp_path / "absent.npz", "No such file")
    refused(write(tmp_path / "small.npy", np.ones((3, 6, 4), np.complex64)), "(3, 6, 4)")
    refused(write(tmp_path / "real.h5", np.ones((3, 6, 5))), "float64")
    refused(write(tmp_path / "two.h5", np.ones((2, 1, 3, 6, 5), np.complex64)), "(2, 1, 3, 6, 5)")
    np.savez(tmp_path / "other.npz", sensitivities=np.ones(3))
    refused(tmp_path / "other.npz", "entries sensitivities")
    (tmp_path / "text.npz").write_text("not an archive")
    refused(tmp_path / "text.npz", "no readable coil maps; expected")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "objects.npy", "no pickled objects")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("coil_maps")
    refused(tmp_path / "group.h5", "no readable coil maps (not a dataset with values)")
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["coil_maps"] = h5py.ExternalLink("small.h5", "coil_maps")
    refused(tmp_path / "elsewhere.h5", "no readable coil maps (a link instead of data)")
    whole = write(tmp_path / "whole.npz", MAPS[0]).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.npz", "no readable coil maps")
    (tmp_path / "flipped.npz").write_bytes(whole[:200] + bytes(255 - byte for byte in whole[200:220]) + whole[220:])
    refused(tmp_path / "flipped.npz", "no readable coil maps")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("coil_maps.npy", "w") as member:
        npy.write_array_header_1_0(member, {"descr": "<c8", "fortran_order": False, "shape": (2**20, 2**20)})
    refused(tmp_path / "huge.npz", "no readable coil maps")


def test_maps_of_a_result_are_not_those_of_coils_that_were_whitened(tmp_path):
    maps, mask = torch.from_numpy(MAPS[0]), torch.ones(1, 5, dtype=torch.bool)
    for name, remarks in (("raw", ["other"]), ("white", ["other", f"{WHITENED}: it was 0.9 to 1.1 times the mean"])):
        with ResultWriter(tmp_path / f"{name}.h5", 1, {}, {}) as writer:
            image = torch.ones(6, 5, dtype=torch.complex64)
            writer.add(0, image, mask=mask, maps={"coil_maps": maps}, remarks=remarks)
    assert torch.equal(with_maps(acquisition(), tmp_path / "raw.h5").coil_maps, maps.to(torch.complex64)[None])
    with pytest.raises(InputError, match="found a result whose coils were whitened; expected maps of the coils as"):
        with_maps(acquisition(), tmp_path / "white.h5")


def test_maps_of_a_result_are_those_of_the_slices_that_it_has(tmp_path):
    announced = {"some": [2, 3], "one": [2], "unfinished": [0, 1, 2]}
    for name, slices in announced.items():
        with ResultWriter(tmp_path / f"{name}.h5", slices, {}, {}) as writer:
            for index in slices[:2]:
                image, mask = torch.ones(6, 5, dtype=torch.complex64), torch.ones(1, 5, dtype=torch.bool)
                writer.add(index, image, mask=mask, maps={"coil_maps": torch.from_numpy(MAPS[index])})
    some, unfinished = tmp_path / "some.h5", tmp_path / "unfinished.h5"
    assert torch.equal(with_maps(acquisition(2), some).coil_maps[0], torch.from_numpy(MAPS[2]))
    assert torch.equal(with_maps(acquisition(2, batch=2), some).coil_maps, torch.from_numpy(MAPS[2:]))
    assert torch.equal(with_maps(acquisition(1), unfinished).coil_maps[0], torch.from_numpy(MAPS[1]))
    for index, path, found in ((0, tmp_path / "one.h5", "2"), (1, some, "2, 3"), (2, unfinished, "0, 1")):
        with pytest.raises(InputError, match=f"found maps of slices {found}; expected of slice {index}"):
            with_maps(acquisition(index), path)


@pytest.mark.parametrize("stored", ["maps", "scan"])
def test_slices_whose_maps_are_of_one_scan_stay_comparable(tmp_path, stored):
    """Gains around the limit beyond which maps count as in units of their own; in the third slice hardly any."""
    own = simulate_coil_maps((32, 24), 4, torch.Generator().manual_seed(3))
    gains = torch.tensor([2.2, 2.3, 0.2]).view(3, 1, 1, 1)
    kspace = fft2c(own[None] * simulate_acquisition(shape=(32, 24)).reference[:, None]).repeat(3, 1, 1, 1)
    arrays = {"kspace": kspace.numpy(), **({"coil_maps": (gains * own).numpy()} if stored == "scan" else {})}
    np.savez(tmp_path / "scan.npz", **arrays)
    np.savez(tmp_path / "maps.npz", coil_maps=(gains * own).numpy())
    preparation = Preparation(maps=None if stored == "scan" else tmp_path / "maps.npz")
    with open_scan(tmp_path / "scan.npz") as scan:
        operators = [make_problem(prepare_acquisition(scan.read(i), preparation)).operator for i in range(3)]
    for operator, gain in zip(operators, gains[:, 0, 0, 0].tolist(), strict=True):
        torch.testing.assert_close(operator.coil_maps, gain / 2.3 * own[None], rtol=1e-4, atol=1e-5)
        assert "were divided by 2.3" in operator.notes[0]
