"""A run that was killed goes on where it was, and comes to the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mriinv import simulate_acquisition

SHAPE, SLICES = (48, 48), 3
COMMAND = [sys.executable, "-c", "from mriinv.cli import main; main(prog_name='mriinv')"]
COMMAND += ["run", "scans", "--recipe", "cg-sense", "--mask", "poisson-2d", "--calibration", "16", "--json"]


def write_scans(folder: Path, count: int) -> None:
    folder.mkdir()
    for seed in range(count):
        slices = [simulate_acquisition(shape=SHAPE, coils=4, seed=100 * seed + z).kspace[0] for z in range(SLICES)]
        with h5py.File(folder / f"scan{seed:02}.h5", "w") as file:
            file["kspace"] = np.stack([one.numpy() for one in slices])


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, "--out", out], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> list[dict]:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return json.loads(out)


def contents(path: Path) -> dict[str, Any]:
    """Every dataset and attribute of a result but the time that it took."""
    found: dict[str, Any] = {}

    def collect(name: str, entry: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": np.asarray(value).tobytes() for key, value in entry.attrs.items()})
        if isinstance(entry, h5py.Dataset) and name != "solution/seconds":
            values = np.asarray(entry[()])
            found[name] = values.tolist() if values.dtype == object else values.tobytes()

    with h5py.File(path) as file:
        collect("", file)
        file.visititems(collect)
    return found


@pytest.mark.parametrize(
    "volumes",
    [3, pytest.param(20, marks=pytest.mark.slow, id="20 (a minute of reconstructions)")],
)
def test_a_killed_run_goes_on_and_comes_to_the_same(tmp_path, volumes):
    write_scans(tmp_path / "scans", volumes)
    whole = finish(start(tmp_path, "whole"))
    middle = tmp_path / "killed" / f".scan{volumes // 2:02}.slices" / "0.h5"
    process = start(tmp_path, "killed")
    while not middle.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list((tmp_path / "killed").glob("scan*.h5")))
    assert 0 < done < volumes
    resumed = finish(start(tmp_path, "killed"))
    kept = [len(report["kept"]) for report in resumed]
    assert kept[:done] == [SLICES] * done and kept[done] > 0 and sum(kept[done + 1 :]) == 0
    assert all(report["complete"] for report in resumed) and len(resumed) == len(whole) == volumes
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == 2 * volumes  # a result and a figure each
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == names
    for name in names:
        one, other = (tmp_path / out / name for out in ("whole", "killed"))
        if name.endswith(".h5"):
            assert contents(one) == contents(other)
        else:
            assert one.read_bytes() == other.read_bytes()
    again = finish(start(tmp_path, "killed"))
    assert [len(report["kept"]) for report in again] == [SLICES] * volumes
