"""What the SENSE operator refuses, and where its coil maps come from."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mriinv import Acquisition, InputError
from mriinv.errors import SettingsError
from mriinv_sense.operator import SenseOperator


def draw(*shape, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def unit_maps(batch, coils, y, x):
    maps = draw(batch, coils, y, x)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def nan_maps():
    maps = unit_maps(1, 2, 4, 4)
    maps[0, 0, 0, 0] = torch.nan
    return maps


MASK = torch.ones(1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("maps", "mask", "field", "expected"),
    [
        (unit_maps(1, 2, 4, 4)[0], MASK, "coil_maps", "coil, y, x"),
        (unit_maps(1, 2, 4, 4).real, MASK, "coil_maps", "complex"),
        (nan_maps(), MASK, "coil_maps", "finite"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.complex64), MASK, "coil_maps", "not zero"),
        (unit_maps(1, 2, 4, 4), MASK[..., :3], "mask", "(batch or 1, 4 or 1, 4)"),
        (unit_maps(1, 2, 4, 4), MASK[:, :2], "mask", "(batch or 1, 4 or 1, 4)"),
        (unit_maps(1, 2, 4, 4), MASK.float(), "mask", "bool"),
        (unit_maps(1, 2, 4, 4), ~MASK, "mask", "at least one"),
        (unit_maps(3, 2, 4, 4), MASK.expand(2, 4, 4), "mask", "batch 1 or 3"),
    ],
)
def test_bad_tensors_are_named(maps, mask, field, expected):
    with pytest.raises(InputError) as caught:
        SenseOperator(maps, mask)
    assert caught.value.field == field
    assert expected in caught.value.expected


@pytest.mark.parametrize("method", ["forward", "gram", "adjoint"])
def test_an_argument_of_another_shape_is_refused(method):
    operator = SenseOperator(unit_maps(3, 3, 5, 6), torch.ones(1, 1, 6, dtype=torch.bool))
    for shape in [(3, 5, 5), (2, 5, 6), (5, 6), (1, 3, 5, 6)]:
        with pytest.raises(InputError, match="expected"):
            getattr(operator, method)(draw(*shape))


def acquisition(coils=3, y=6, x=5, **changes):
    kspace = draw(2, coils, y, x, dtype=torch.complex64)
    return Acquisition(
        **{"kspace": kspace, "mask": torch.ones(1, 1, x, dtype=torch.bool), "source": "scan.h5", **changes}
    )


def write_maps(path: Path, maps: np.ndarray) -> str:
    if path.suffix == ".npy":
        np.save(path, maps)
    elif path.suffix == ".npz":
        np.savez(path, coil_maps=maps)
    else:
        with h5py.File(path, "w") as file:
            file["coil_maps"] = maps
    return str(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_external_maps_come_first(tmp_path, suffix):
    external = unit_maps(1, 3, 6, 5)
    path = write_maps(tmp_path / f"maps{suffix}", external[0].numpy())
    own = unit_maps(1, 3, 6, 5).flip(1)
    operator = SenseOperator.from_acquisition(acquisition(coil_maps=own), maps=path)
    torch.testing.assert_close(operator.coil_maps, external.to(torch.complex64))
    assert list(operator.exported_maps()) == ["coil_maps"]
    operator = SenseOperator.from_acquisition(acquisition(coil_maps=own))
    torch.testing.assert_close(operator.coil_maps, own.to(torch.complex64))


def test_external_maps_of_bart(tmp_path):
    external = unit_maps(1, 3, 6, 5).to(torch.complex64)
    (tmp_path / "maps.hdr").write_text("# Dimensions\n6 5 1 3\n")
    external[0].permute(1, 2, 0).numpy().ravel(order="F").tofile(tmp_path / "maps.cfl")
    operator = SenseOperator.from_acquisition(acquisition(), maps=str(tmp_path / "maps.cfl"))
    torch.testing.assert_close(operator.coil_maps, external)
    (tmp_path / "maps.hdr").write_text("# Dimensions\n3 5 1 3 1 1 1 1 1 1 1 1 1 2\n")
    with pytest.raises(InputError, match="2 slices; expected maps of one slice"):
        SenseOperator.from_acquisition(acquisition(), maps=str(tmp_path / "maps.cfl"))


def test_unreadable_external_maps_are_named(tmp_path):
    def refused(path, found):
        with pytest.raises(InputError) as caught:
            SenseOperator.from_acquisition(acquisition(), maps=str(path))
        assert caught.value.source == str(path)
        assert found in str(caught.value)

    refused(tmp_path / "absent.npz", "No such file")
    refused(write_maps(tmp_path / "small.npy", np.ones((3, 6, 4), np.complex64)), "(3, 6, 4)")
    refused(write_maps(tmp_path / "real.h5", np.ones((3, 6, 5))), "float64")
    np.savez(tmp_path / "other.npz", sensitivities=np.ones(3))
    refused(tmp_path / "other.npz", "entries sensitivities")
    (tmp_path / "text.npz").write_text("not an archive")
    refused(tmp_path / "text.npz", "no readable coil maps; expected")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "objects.npy", "no pickled objects")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("coil_maps")
    refused(tmp_path / "group.h5", "a group")


def test_kspace_that_is_not_finite_is_refused():
    kspace = draw(1, 3, 6, 5, dtype=torch.complex64)
    kspace[0, 1, 2, 3] = complex(0, torch.inf)
    with pytest.raises(InputError, match=r"scan\.h5: kspace: found NaN or infinity"):
        SenseOperator.from_acquisition(acquisition(kspace=kspace, coil_maps=unit_maps(1, 3, 6, 5)))


def test_a_misspelt_setting_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'threshold'"):
        SenseOperator.from_acquisition(acquisition(), treshold=0.1)
