"""``mriinv train``: several processes, curves, TensorBoard, the model card."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from mriinv import __version__, make_prior, simulate_acquisition
from mriinv.errors import SettingsError
from mriinv.files import exclusive
from mriinv.training.processes import shared
from mriinv.weights import read_metadata
from support import PATIENCE, fill_disk, invoke, succeed

DENOISING, LIKELIHOOD = 6, 6


@pytest.fixture
def command(working_folder: Path) -> list[str]:
    """A tiny training of both stages, on crops of one slice, without its folder."""
    kspace = simulate_acquisition(shape=(48, 40), coils=4, seed=1).kspace
    np.savez("scan.npz", kspace=kspace.numpy())
    settings = {
        "data.scans": "[scan.npz]",
        "data.shape": "[16, 16]",
        "data.coils": 2,
        "prior.widths": "[4]",
        "prior.blocks": 1,
        "trainer.batch": 2,
        "trainer.pool": 2,
        "trainer.chain_steps": 3,
        "trainer.chain_precision": "float32",
        "trainer.steps": DENOISING + LIKELIHOOD,
        "trainer.warm_start": DENOISING,
    }
    return [
        "train",
        "--prior",
        "deepen",
        "--device",
        "cpu",
        *(f"--set={key}={value}" for key, value in settings.items()),
    ]


def in_two_processes(*command: str) -> subprocess.CompletedProcess[str]:
    """Train in the folder ``two`` on two devices, which starts the command that runs once more."""
    Path("train.py").write_text("from mriinv.cli import main\nmain(prog_name='mriinv')\n")
    return subprocess.run(
        [sys.executable, "-W", "error", "train.py", *command, "--out", "two", "--devices", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def rows(folder: str) -> list[dict[str, str]]:
    with open(Path(folder) / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(("likelihood_of", "sampler"), [("scale", "langevin"), ("network", "preconditioned-langevin")])
def test_two_processes_come_to_the_same_as_one(likelihood_of: str, sampler: str, command: list[str]) -> None:
    """Under gloo, through both stages; only the first process writes and speaks, and all end."""
    command += [f"--set=trainer.likelihood_of={likelihood_of}", f"--set=trainer.sampler={sampler}"]
    two = in_two_processes(*command)
    assert two.returncode == 0 and two.stderr == ""
    assert two.stdout.count("updates in") == 1
    succeed(*command, "--out", "one")
    assert {path.name for path in Path("one").iterdir()} == {path.name for path in Path("two").iterdir()}
    states = [load_file(Path(out) / "checkpoint.safetensors") for out in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():  # conjugate gradients that stop early make more of the rounding
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-4, msg=name)
    (one,), (other,) = rows("one"), rows("two")
    for name in ("loss", "gradient_norm", "dsm", "gap", "energy", "curvature", "chain_gradient"):
        assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4)


def test_a_folder_that_another_training_holds_is_refused_by_all_processes(command: list[str]) -> None:
    Path("two").mkdir()
    with exclusive(Path("two"), Path("two/.lock"), "training"):
        two = in_two_processes(*command)
    assert two.returncode == 1
    assert two.stderr == "error: two: found another training that writes it; expected its end, or another --out\n"


def test_images_that_cannot_be_shared_are_refused() -> None:
    two = create_autospec(Fabric, instance=True, world_size=2, global_rank=0)
    prior = shared(make_prior("deepen", weights="none"), two)
    with pytest.raises(SettingsError, match=r"3 images cannot be shared evenly by 2 devices: set trainer\.batch"):
        prior.energy(torch.zeros(3, 16, 16, dtype=torch.complex64))


def test_a_training_in_mixed_precision_is_close_to_one_in_single(command: list[str]) -> None:
    for precision in ("32-true", "bf16-mixed"):
        succeed(*command, "--out", precision, "--precision", precision)
    one, other = (load_file(Path(out) / "weights.safetensors") for out in ("32-true", "bf16-mixed"))
    torch.manual_seed(0)
    start = make_prior("deepen", weights="none", widths=[4], blocks=1).state_dict()
    distance, moved = (max((one[key] - two[key]).abs().max().item() for key in one) for two in (other, start))
    assert 0 < distance < 1e-3 < moved and all(value.dtype == torch.float32 for value in other.values())
    refused = invoke(*command, "--out", "x", "--precision", "16").output
    assert "error: precision: found '16'" in refused and not Path("x").exists()


def test_curves_and_card_also_of_a_finished_training(command: list[str]) -> None:
    validation = ["--validate", "scan.npz", "--set=validation.masks=[[poisson-2d, 2]]", "--set=validation.every=6"]
    validation += ["--set=validation.solver={name: mm-cg, settings: {max_iterations: 20}}"]
    steps = f"{DENOISING + LIKELIHOOD} updates"
    assert steps in invoke(*command, *validation, "--out", "run").output
    before = load_file("run/weights.safetensors")
    card = Path("run/MODEL_CARD.md").read_text()
    best = max(rows("run"), key=lambda row: float(row["score"] or 0))
    for expected in (
        "# Model card: deepen",
        "`deepen`, 793 parameters",
        f"| updates | {DENOISING + LIKELIHOOD} |",
        "| seed | 0 |",
        "| precision | 32-true |",
        f"mriinv {__version__}, torch {torch.__version__}",
        "scans:\n- scan.npz",
        f"| | best, after {best['step']} | last, after 12 |",
        f"| scan poisson-2d 2: PSNR (dB) | {best['psnr/scan poisson-2d 2']} |",
        "Not drawn",
    ):
        assert expected in card
    assert not Path("run/curves.png").exists()
    assert steps in invoke(*command, *validation, "--out", "run", "--plot").output
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![curves](curves.png)" in Path("run/MODEL_CARD.md").read_text()
    after = load_file("run/weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_from_before_these_settings_is_resumed(command: list[str]) -> None:
    """Devices and precision may change between runs, the rules of the loop may not."""
    succeed(*command, "--out", "run", "--max-time", "0.00001")
    found = invoke(*command, "--out", "run", "--set=loop.clip=0.5").output
    assert "error: run/checkpoint.safetensors: the training there has loop = None, this one {'clip': 0.5}" in found
    succeed(*command, "--out", "run", "--precision", "bf16-mixed")


def test_a_full_disk_leaves_the_older_checkpoint(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    short = (*command, "--out", "run", "--max-time", "0.00001")
    succeed(*short)
    checkpoint = Path("run/checkpoint.safetensors")
    before = checkpoint.read_bytes()
    fill_disk(monkeypatch)
    full = invoke(*command, "--out", "run")
    assert full.exit_code == 1 and checkpoint.read_bytes() == before
    assert full.stderr == (
        f"error: {checkpoint}: found that it cannot be written (I/O error: No space left on device (os error 28)); "
        "expected a writable place\n"
    )


def test_tensorboard_has_the_rows_of_the_log(command: list[str]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    succeed(*command, "--out", "run", "--tensorboard")
    events = accumulator.EventAccumulator("run/tensorboard")
    events.Reload()
    for name in ("loss", "gap", "curvature"):
        found = [event.value for event in events.Scalars(name)]
        assert found == pytest.approx([float(row[name]) for row in rows("run")], rel=1e-5)


def test_without_tensorboard_the_extra_is_named(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mriinv.training.log.find_spec", lambda _: None)
    result = invoke(*command, "--out", "run", "--tensorboard")
    assert result.exit_code == 1 and "pip install 'mriinv[tensorboard]'" in result.output
    assert not Path("run").exists()


def test_what_to_train_and_where_must_be_said() -> None:
    assert "error: train: found no --prior and no --out; expected both, or --config" in invoke("train").output
    assert "train: found no --out; expected both" in invoke("train", "--prior", "deepen").output


def test_what_older_checkpoints_do_not_know_is_told_apart_where_it_is_used(command: list[str]) -> None:
    succeed(*command, "--out", "run")
    configuration = read_metadata(Path("run/weights.safetensors"))["card"]["configuration"]
    assert "masks_per_kind" not in configuration["data"] and "loop" not in configuration
    changed = invoke(*command, "--out", "run", "--set", "data.masks_per_kind=1")
    assert changed.exit_code == 1 and "masks_per_kind" in changed.output


def test_a_training_on_ones_own_scans(command: list[str]) -> None:
    Path("scans").mkdir()
    Path("scan.npz").rename("scans/scan.npz")
    own = [one for one in command if not one.startswith("--set=data.scans")]
    succeed(*own, "--scans", "scans", "--out", "run")
    assert read_metadata(Path("run/weights.safetensors"))["card"]["configuration"]["data"]["scans"] == [
        "scans/scan.npz"
    ]
    Path("scans/bad.npz").write_text("")
    assert "scans/bad.npz: found an empty file" in invoke(*own, "--scans", "scans", "--out", "other").output


def test_weights_keep_the_noise_that_their_strength_is_for(command: list[str]) -> None:
    succeed(*command, "--out", "first")
    again = [*command, "--weights", "first/weights.safetensors", "--out", "second", "--set", "data.noise_std=0.02"]
    assert "data.noise_std: found 0.02; the weights are as strong as for 0.007" in invoke(*again).output
    succeed(*again, "--set", "prior.data_noise_std=0.02")


def test_a_training_without_likelihood_says_so(command: list[str], caplog: pytest.LogCaptureFixture) -> None:
    succeed(*command, "--out", "run", "--set", f"trainer.warm_start={DENOISING + LIKELIHOOD}")
    assert "all 12 steps are warm start (12): none is of likelihood" in caplog.text


def test_clipping_and_averaging_are_those_of_the_command(command):
    """Gradients that are clipped to nothing move no weight; by default so short a training is not averaged."""
    succeed(*command, "--out", "still", "--set=loop.clip=1e-13")
    succeed(*command, "--out", "last", "--set=loop.averaging=0.9")
    torch.manual_seed(0)
    start = make_prior("deepen", weights="none", widths=[4], blocks=1).state_dict()
    still, last = (load_file(f"{out}/checkpoint.safetensors") for out in ("still", "last"))
    for name, value in start.items():
        torch.testing.assert_close(still[f"model/{name}"], value, rtol=0, atol=1e-5)
        assert not torch.equal(last[f"average/module.{name}"], last[f"model/{name}"])
