from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mriinv import ComponentSettings, InputError, Prior, make_prior, setting
from mriinv.core.prior import LoadedWeights
from mriinv.errors import SettingsError, UnwritableError, WeightsError
from mriinv.files import atomic_path, sha256, write_text
from mriinv.weights import FORMAT, load_prior, read_metadata, save_weights
from support import fill_disk


class Linear(Prior):
    """E(x) = factor·Σ (wᵀ(re, im))²: the smallest prior with parameters."""

    name = "linear"
    provides = frozenset({"energy"})
    adjustable = frozenset({"factor"})

    class Settings(ComponentSettings):
        width: int = setting(3, "outputs", ge=1)
        factor: float = setting(1.0, "factor", gt=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.weight = nn.Parameter(torch.randn(self.settings.width, 2))
        self.tied = self.weight
        self.register_buffer("mean", torch.zeros(2))

    def energy(self, image: Tensor, noise_level: float | Tensor | None = None) -> Tensor:
        values = torch.view_as_real(image) @ self.weight.T
        return self.settings.factor * values.double().square().sum((1, 2, 3))


class Other(Linear):
    name = "other"


@pytest.fixture
def prior() -> Linear:
    torch.manual_seed(3)
    return Linear(width=5, factor=2.0)


@pytest.fixture
def path(tmp_path: Path, prior: Linear) -> Path:
    save_weights(tmp_path / "weights.safetensors", prior, {"trained_on": "noise", "steps": 3})
    return tmp_path / "weights.safetensors"


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **metadata: str | None) -> None:
    """Replace tensors and metadata of a weight file; None removes an entry."""
    stored = {"format": FORMAT, "prior": "linear", "settings": '{"width": 5, "factor": 2.0}', "card": "{}", **metadata}
    kept = {key: value for key, value in stored.items() if value is not None}
    save_file({**load_file(path), **(tensors or {})}, path, metadata=kept)


def test_a_round_trip_is_exact(path: Path, prior: Linear) -> None:
    loaded = load_prior(Linear, path, {})
    assert loaded.settings == prior.settings
    assert loaded.state_dict().keys() == prior.state_dict().keys()
    for name, value in prior.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].view(torch.int32), value.view(torch.int32))
    assert read_metadata(path) == {
        "prior": "linear",
        "settings": {"width": 5, "factor": 2.0},
        "card": {"trained_on": "noise", "steps": 3},
    }


def test_tensors_that_share_memory_are_stored_once(path: Path, prior: Linear) -> None:
    assert sorted(load_file(path)) == ["mean", "weight"]
    loaded = load_prior(Linear, path, {})
    assert loaded.tied is loaded.weight


def test_the_learned_energy_survives_a_round_trip(tmp_path: Path) -> None:
    made = make_prior("deepen", weights="none", widths=(4, 6), blocks=1, noise_range=(0.01, 0.1))
    save_weights(tmp_path / "w.safetensors", made, {})
    loaded = make_prior("deepen", weights=str(tmp_path / "w.safetensors"))
    image = torch.randn(1, 12, 10, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    assert loaded.settings == made.settings and torch.equal(loaded.energy(image), made.energy(image))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_saving_does_not_change_the_prior_and_is_reproducible(tmp_path: Path, path: Path, prior: Linear) -> None:
    before = prior.weight.detach().clone()
    again = tmp_path / "again.safetensors"
    save_weights(again, prior, {"trained_on": "noise", "steps": 3})
    assert torch.equal(prior.weight, before) and prior.weight.requires_grad
    torch.testing.assert_close(load_file(again), load_file(path), rtol=0, atol=0)
    assert read_metadata(again) == read_metadata(path)


def test_settings_may_be_repeated_and_changed_where_the_prior_allows(path: Path) -> None:
    assert load_prior(Linear, path, {"width": 5}).settings.factor == 2.0
    assert load_prior(Linear, path, {"factor": 7.0}).settings.factor == 7.0


def test_settings_that_contradict_the_file(path: Path) -> None:
    with pytest.raises(WeightsError, match="another architecture: width: found 4; trained with 5"):
        load_prior(Linear, path, {"width": 4})
    with pytest.raises(SettingsError, match="linear has no setting 'widht'; did you mean 'width'"):
        load_prior(Linear, path, {"widht": 4})


def test_a_prior_knows_the_file_that_it_was_loaded_from(path: Path, prior: Linear) -> None:
    checksum = sha256(path)
    loaded = load_prior(Linear, path, {})
    save_weights(path, prior, {"trained_on": "something else"})
    assert loaded.loaded_weights == LoadedWeights(path, checksum) and checksum != sha256(path)
    assert prior.loaded_weights is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((5, 2), 1e300, dtype=torch.float64), "weight: found NaN or infinity"),
        (torch.ones(5, 2, dtype=torch.complex64), "weight: found torch.complex64; expected torch.float32"),
        (torch.ones(5, 2, dtype=torch.int32), "weight: found torch.int32; expected torch.float32"),
    ],
)
def test_tensors_of_another_type(path: Path, value: Tensor, message: str) -> None:
    rewrite(path, {"weight": value, "mean": torch.zeros(2)})
    with pytest.raises(WeightsError, match=message):
        load_prior(Linear, path, {})


def test_loading_draws_no_random_numbers(path: Path) -> None:
    before = torch.get_rng_state()
    load_prior(Linear, path, {})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_checksum(path: Path) -> None:
    assert load_prior(Linear, path, {}, sha256(path)).settings.width == 5
    with pytest.raises(WeightsError, match=f"checksum: found {sha256(path)[:16]}…; expected 1{'0' * 15}…"):
        load_prior(Linear, path, {}, "1" + "0" * 63)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, "metadata 'format': found None; expected 'mriinv-weights-1'"),
        ({"format": "mriinv-weights-2"}, "metadata 'format': found 'mriinv-weights-2'; expected"),
        ({"prior": None}, "damaged metadata"),
        ({"prior": "other"}, "holds weights of prior 'other'; expected 'linear'"),
        ({"settings": None}, "damaged metadata"),
        ({"settings": "{"}, "damaged metadata"),
        ({"settings": "[" * 100_000}, "damaged metadata"),
        ({"settings": "[1, 2]"}, r"metadata 'settings': found \[1, 2\]; expected a mapping"),
        ({"settings": "3"}, "metadata 'settings': found 3; expected a mapping"),
        ({"settings": '{"widht": 3}'}, "metadata 'settings': linear has no setting 'widht'; did you mean 'width'"),
        ({"settings": '{"width": 0}'}, "metadata 'settings': linear.width: found 0"),
        ({"settings": '{"width": 2}'}, r"another architecture: weight: found \(5, 2\); expected \(2, 2\)"),
        ({"card": None}, "damaged metadata"),
        ({"card": "null"}, "metadata 'card': found None; expected a mapping"),
    ],
)
def test_damaged_metadata(path: Path, metadata: dict[str, str | None], message: str) -> None:
    rewrite(path, **metadata)
    with pytest.raises(WeightsError, match=message) as caught:
        load_prior(Linear, path, {})
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(path: Path, prior: Linear, bad: float) -> None:
    weight = prior.weight.detach().clone()
    weight[2, 1] = bad
    rewrite(path, {"weight": weight})
    with pytest.raises(WeightsError, match="weight: found NaN or infinity; expected finite values"):
        load_prior(Linear, path, {})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"extra": torch.zeros(1)}, r"another architecture: extra: found \(1,\); expected nothing"),
        ({"mean": torch.zeros(3)}, r"another architecture: mean: found \(3,\); expected \(2,\)"),
    ],
)
def test_other_tensors(path: Path, tensors: dict[str, Tensor], message: str) -> None:
    rewrite(path, tensors)
    with pytest.raises(WeightsError, match=message):
        load_prior(Linear, path, {})


def test_missing_tensors(path: Path) -> None:
    metadata = {"format": FORMAT, "prior": "linear", "settings": "{}", "card": "{}"}
    save_file({"mean": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"another architecture: weight: found nothing; expected \(3, 2\)"):
        load_prior(Linear, path, {})


def test_a_network_that_cannot_be_built(path: Path) -> None:
    rewrite(path, settings=json.dumps({"width": 2**60}))
    with pytest.raises(WeightsError, match=r"metadata 'settings': a network that cannot be built \("):
        load_prior(Linear, path, {})


def test_files_that_are_no_weights(tmp_path: Path, path: Path) -> None:
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    damaged = {
        "empty": b"",
        "short": content[:5],
        "half": content[: 8 + header // 2],
        "without its last byte": content[:-1],
        "with one more": content + b"\0",
        "endless header": b"\xff" * 8 + content[8:],
        "json": json.dumps({"a": 1}).encode(),
        "pickle": b"\x80\x04" + content[2:],
    }
    for what, changed in damaged.items():
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            load_prior(Linear, path, {})
            pytest.fail(f"{what}: was loaded")
    for missing in (tmp_path, tmp_path / "none.safetensors", Path("w" * 300)):
        with pytest.raises(WeightsError, match="no such weight file"):
            load_prior(Linear, missing, {})


def test_every_single_byte_of_the_header_may_be_damaged(path: Path) -> None:
    content = path.read_bytes()
    for position in range(8 + int.from_bytes(content[:8], "little")):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        try:
            load_prior(Linear, path, {})
        except WeightsError as error:
            assert str(path) in str(error)


# Writing


def test_an_interrupted_write_leaves_the_old_file(path: Path, prior: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupt(tensors: Any, temporary: Path, metadata: Any) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("mriinv.weights.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, prior, {})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path, prior: Linear) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="expected a writable place"):
        save_weights(tmp_path / "file" / "w.safetensors", prior, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: found .*; expected a writable place"):
        save_weights(tmp_path / "folder", prior, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"] and not list(
        (tmp_path / "folder").iterdir()
    )


def test_atomic_path_makes_folders_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a" / "b" / "x.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path / "a" / "b"
        temporary.write_text("whole")
        assert not (tmp_path / "a" / "b" / "x.png").exists()
    assert (tmp_path / "a" / "b" / "x.png").read_text() == "whole" and not temporary.exists()


def test_a_file_may_be_read_by_those_whom_the_umask_allows(tmp_path: Path, prior: Linear) -> None:
    umask = os.umask(0o022)
    try:
        save_weights(tmp_path / "w.safetensors", prior, {})  # safetensors itself writes 0600
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o644


def test_a_full_disk_is_reported(path: Path, prior: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    fill_disk(monkeypatch)
    with pytest.raises(UnwritableError, match=r"weights\.safetensors: found that it cannot be written .*No space left"):
        save_weights(path, prior, {})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_file_and_its_name_are_on_disk_before_it_counts_as_written(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "x.txt", [], os.fsync

    def watched(descriptor):
        synced.append((os.fstat(descriptor).st_ino, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_text(path, "x")
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
