"""Simulated scans as files: the same configuration goes on, another one is refused, and nothing is half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mriinv import InputError, MriinvError, SettingsError, make_mask, open_scan
from mriinv.core.component import validated
from mriinv.simulation import SimulatedScan, SimulationConfig, simulate_scans

SMALL = {"shape": (32, 24), "coils": 2, "slices": 2}


def config(out: Path, **fields: Any) -> SimulationConfig:
    return validated(SimulationConfig, {"out": out, **SMALL, **fields})


def simulate(out: Path, *, replace: bool = False, **fields: Any) -> list[SimulatedScan]:
    return list(simulate_scans(config(out, **fields), replace=replace))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kspace(path: Path) -> torch.Tensor:
    with open_scan(path) as scan:
        return torch.cat([scan.read(index).kspace for index in range(len(scan))])


# What is written


def test_every_volume_is_a_head_of_its_own(tmp_path: Path) -> None:
    scans = simulate(tmp_path / "new" / "folder", count=3, seed=5)
    assert [scan.path for scan in scans] == [tmp_path / f"new/folder/sim_000{index}.h5" for index in range(3)]
    assert not any(scan.kept for scan in scans)
    assert len({scan.sequence for scan in scans}) == 3
    first, second, third = (kspace(scan.path) for scan in scans)
    assert first.shape == (2, 2, 32, 24)
    assert not torch.allclose(first, second, atol=0.1) and not torch.allclose(second, third, atol=0.1)
    (alone,) = simulate(tmp_path / "alone", seed=6)  # seeds count up
    assert torch.equal(kspace(alone.path), second) and alone.sequence == scans[1].sequence


def test_files_are_given_when_they_are_there(tmp_path: Path) -> None:
    made = simulate_scans(config(tmp_path, count=2))
    first = next(made)
    assert list(contents(tmp_path)) == [first.path.name]
    with h5py.File(first.path, "r") as file:
        assert file.attrs["sequence"] == first.sequence


def test_everything_asked_for_is_in_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", labels=np.full((40, 40, 40), 2, np.int16), voxel=[5.0] * 3)
    fields = {"plane": "coronal", "pixel": 1.5, "thickness": 4.0, "gap": 1.0, "contrast": "flair"}
    (scan,) = simulate(tmp_path / "out", heads=tmp_path / "head.npz", coloured=True, coil_maps=True, **fields)
    assert scan.sequence.startswith("FLAIR TSE, TR ")
    with open_scan(scan.path) as file:
        one = file.read(1)
    assert one.geometry is not None and one.noise_covariance is not None and one.coil_maps is not None
    assert one.geometry.pixel == pytest.approx((1.5, 1.5)) and one.geometry.spacing == pytest.approx(5.0)
    assert one.header["acquisition"] == "CORFLAIR"
    assert one.noise_covariance.fill_diagonal_(0).abs().max() > 1e-3 * one.noise_covariance.abs().max()
    assert one.noise_std == pytest.approx(0.005, rel=1e-4)
    (plain,) = simulate(tmp_path / "plain")
    with open_scan(plain.path) as file:
        one = file.read(0)
    assert one.coil_maps is None and one.noise_covariance is not None
    np.testing.assert_allclose(one.noise_covariance, 2 * 0.005**2 * np.eye(2), rtol=1e-5)


def test_lesions_change_the_head(tmp_path: Path) -> None:
    pair = [simulate(tmp_path / str(value), lesions=value, contrast="t2", seed=13)[0].path for value in (True, False)]
    assert not torch.allclose(*(kspace(path) for path in pair), atol=1e-3)


@pytest.mark.parametrize(("seed", "own"), [(None, (3, 4)), (9, (9, 9))])
def test_a_mask_keeps_its_samples_alone(tmp_path: Path, seed: int | None, own: tuple[int, int]) -> None:
    """One of its own for every volume, unless the mask has a seed."""
    choice = {"name": "random-1d", "acceleration": 2.0, "acs": 6, "seed": seed}
    full = simulate(tmp_path / "full", count=2, seed=3)
    kept = simulate(tmp_path / "kept", count=2, seed=3, mask=choice)
    for whole, part, number in zip(full, kept, own, strict=True):
        mask = make_mask("random-1d", (32, 24), 2.0, 6, number)
        assert torch.equal(kspace(part.path), kspace(whole.path) * mask)
        with open_scan(part.path) as file:
            assert torch.equal(file.read(0).mask, mask)


# Again


def test_the_same_again_keeps_the_files(tmp_path: Path) -> None:
    first = simulate(tmp_path, count=2)
    before = {scan.path: scan.path.stat().st_mtime_ns for scan in first}
    again = simulate(tmp_path, count=2)
    assert [(scan.path, scan.sequence, scan.kept) for scan in again] == [(s.path, s.sequence, True) for s in first]
    assert {scan.path: scan.path.stat().st_mtime_ns for scan in again} == before


def test_an_interrupted_simulation_goes_on(tmp_path: Path) -> None:
    made = simulate_scans(config(tmp_path / "a", count=3))
    next(made)
    made.close()  # type: ignore[attr-defined]
    rest = simulate(tmp_path / "a", count=3)
    assert [scan.kept for scan in rest] == [True, False, False]
    rest[1].path.unlink()
    assert [scan.kept for scan in simulate(tmp_path / "a", count=3)] == [True, False, True]
    at_once = simulate(tmp_path / "b", count=3)
    for one, other in zip(rest, at_once, strict=True):
        assert torch.equal(kspace(one.path), kspace(other.path))


def test_more_volumes_may_follow(tmp_path: Path) -> None:
    simulate(tmp_path, count=1)
    assert [scan.kept for scan in simulate(tmp_path, count=2)] == [True, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"noise_std": 0.01},
        {"coloured": True},
        {"slices": 1},
        {"contrast": "t1"},
        {"pixel": 2.0},
        {"mask": {"name": "random-1d", "acceleration": 2.0}},
        {"coil_maps": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_another_configuration_overwrites_nothing_unless_told_to(tmp_path: Path, fields: dict) -> None:
    simulate(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"sim_0000\.h5: found a file that another simulation or program made"):
        simulate(tmp_path, **fields)
    assert contents(tmp_path) == before
    assert not simulate(tmp_path, replace=True, **fields)[0].kept
    assert contents(tmp_path).keys() == before.keys() and contents(tmp_path) != before
    assert simulate(tmp_path, **fields)[0].kept


def test_all_places_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "sim_0001.h5").write_text("mine")
    with pytest.raises(InputError, match="sim_0001"):
        simulate(tmp_path, count=2)
    assert contents(tmp_path) == {"sim_0001.h5": b"mine"}


@pytest.mark.parametrize("kind", ["text", "folder", "hdf5", "no sequence", "an identity that is none"])
def test_files_of_others_are_refused(tmp_path: Path, kind: str) -> None:
    (scan,) = simulate(tmp_path)
    with h5py.File(scan.path, "r+") as file:
        identity = file.attrs["mriinv_simulation"]
        if kind == "no sequence":
            del file.attrs["sequence"]
        elif kind == "an identity that is none":
            file.attrs["mriinv_simulation"] = [identity, identity]
        elif kind == "hdf5":
            del file.attrs["mriinv_simulation"]
    if kind in ("text", "folder"):
        scan.path.unlink()
        scan.path.write_text("mine") if kind == "text" else scan.path.mkdir()
    with pytest.raises(InputError, match=r"sim_0000\.h5: found a file that another simulation or program made"):
        simulate(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"count": 0}, SettingsError, "count: found 0"),
        ({"slices": 0}, SettingsError, "slices: found 0"),
        ({"coils": 0}, SettingsError, "coils: found 0"),
        ({"noise_std": -1}, SettingsError, "noise_std: found -1"),
        ({"noise_std": float("nan")}, SettingsError, "noise_std: found nan"),
        ({"noise_std": float("inf")}, SettingsError, "noise_std: found inf"),
        ({"noise_std": 0, "coloured": True}, InputError, "noise_std: found 0.0; expected a positive number"),
        ({"seed": 2**63}, SettingsError, "seed: found 9223372036854775808"),
        ({"shape": (32,)}, SettingsError, "shape"),
        ({"shape": (8, 32)}, InputError, r"shape: found \(8, 32\)"),
        ({"sedd": 1}, SettingsError, "no setting 'sedd'; did you mean 'seed'"),
        ({"plane": "oblique"}, InputError, "plane: found 'oblique'"),
        ({"plane": "coronal"}, InputError, "plane: found coronal; expected axial, or label maps"),
        ({"pixel": -1.0}, InputError, "pixel: found -1.0"),
        ({"thickness": 0.0}, InputError, "thickness: found 0.0"),
        ({"gap": -1.0}, InputError, "gap: found -1.0"),
        ({"contrast": "t9"}, InputError, "contrast: found 't9'"),
        ({"heads": Path("nowhere")}, InputError, "nowhere: found no label maps"),
        ({"mask": {"name": "poison-2d"}}, MriinvError, "unknown mask 'poison-2d'; did you mean poisson-2d"),
        ({"mask": {"name": "random-1d", "acceleration": 0.5}}, SettingsError, "mask.acceleration: found 0.5"),
        ({"mask": {"name": "random-1d", "acceleration": 99}}, InputError, "acceleration: found 99"),
    ],
)
def test_bad_values_write_nothing(tmp_path: Path, fields: dict, error: type[MriinvError], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate(tmp_path / "out", **fields)
    assert not list(tmp_path.glob("out/*"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken: found that it cannot be written"):
        simulate(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_interruption_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mriinv.data.fastmri.ismrmrd_header", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path)
    assert not list(tmp_path.iterdir())
