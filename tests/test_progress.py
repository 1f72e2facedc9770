"""What commands show on a terminal while they work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.progress import Progress

from mriinv import make_prior, simulate_acquisition
from mriinv.weights import save_weights
from support import succeed, write_hdf5

CG = "scan.h5 --recipe cg-sense --mask poisson-2d --acceleration 2 --acs 12"
NUMBER = r"[\d.e+-]+"
COMMANDS = {
    f"run {CG} --set solver.max_iterations=3": rf"scan\.h5 slice 2/2: iteration 3  residual {NUMBER}",
    f"tune {CG} --parameter solver.regularisation --bounds 0.1 0.2": (
        rf"tuning: iteration \d+  solver\.regularisation {NUMBER}  psnr {NUMBER}"
    ),
    "train --prior muse --out run --set data.scans=[scan.h5] --set 'data.shape=[16, 16]' --set data.coils=2 "
    "--set prior.widths=[4] --set trainer.steps=2 --set trainer.batch=1": (
        rf"training: iteration 2  loss {NUMBER}  gradient_norm {NUMBER}  dsm {NUMBER}"
    ),
    "calibrate scan.h5 --weights small.safetensors --mask poisson-2d:2 --acs 12 --slices 1 --keep-temperature "
    "--set solver.samples=2 --set solver.levels=2 --set solver.burn_in=10": (
        rf"poisson-2d 2 at 1 T, slice 1/1: iteration 10  gradient_rms {NUMBER}"
    ),
}


@pytest.mark.parametrize(("command", "last"), COMMANDS.items(), ids=[command.split()[0] for command in COMMANDS])
def test_the_state_of_the_work_is_shown(command, last, working_folder, without_gpu, monkeypatch) -> None:
    write_hdf5("scan.h5", kspace=simulate_acquisition(shape=(48, 40), coils=4, slices=2, noise_std=0.01).kspace.numpy())
    save_weights(Path("small.safetensors"), make_prior("deepen", weights="none", widths=(4,), blocks=1), {})
    shown, update = [], Progress.update

    def watched(self: Progress, *task: Any, **fields: Any) -> None:
        update(self, *task, **fields)
        shown.extend(f"{one.description}: {one.fields['now']}" for one in self.tasks)

    monkeypatch.setattr(Progress, "update", watched)
    monkeypatch.setattr("mriinv.cli.group.sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    succeed(*shlex.split(command))
    assert len(shown) > 1 and re.fullmatch(last, shown[-1])
