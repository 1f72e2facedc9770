"""A run that was killed goes on where it was, and comes to the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mriinv import Monitor, make_prior, make_trainer, simulate_acquisition
from mriinv.data.heads import HeadSlices, HeadSource
from mriinv.data.training import SimulatedProblems
from mriinv.registry import registry
from mriinv.training.checkpoint import Progress
from mriinv.training.loop import LoopOptions, train
from support import PATIENCE, succeed

SHAPE, SLICES = (48, 48), 3
COMMAND = ("run", "scans", "--recipe", "cg-sense", "--mask", "poisson-2d", "--acs", "16", "--json", "--out")
KILLED = """
import os, signal
from mriinv.data.result_writer import ResultWriter
add, calls = ResultWriter.add, []
def counted(*arguments, **options):
    add(*arguments, **options)
    calls.append(1)
    if len(calls) == COUNT:
        os.kill(os.getpid(), signal.SIGKILL)
ResultWriter.add = counted
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the killed processes do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_scans(folder: Path, count: int) -> None:
    folder.mkdir()
    for seed in range(count):
        slices = [simulate_acquisition(shape=SHAPE, coils=4, seed=100 * seed + z).kspace[0] for z in range(SLICES)]
        with h5py.File(folder / f"scan{seed:02}.h5", "w") as file:
            file["kspace"] = np.stack([one.numpy() for one in slices])


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
def test_a_killed_run_goes_on_and_comes_to_the_same(working_folder, one_thread, run_mriinv, volumes):
    def finish(out: str) -> list[dict]:
        return json.loads(succeed(*COMMAND, out))

    write_scans(Path("scans"), volumes)
    whole, done = finish("whole"), volumes // 2
    killed = run_mriinv(*COMMAND, "killed", before=KILLED.replace("COUNT", str(done * SLICES + 2)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(Path("killed").glob("scan*.h5"))) == done
    resumed = finish("killed")
    assert [len(report["kept"]) for report in resumed] == [SLICES] * done + [2] + [0] * (volumes - done - 1)
    assert all(report["complete"] for report in resumed) and len(resumed) == len(whole) == volumes
    names = sorted(path.name for path in Path("whole").iterdir())
    assert len(names) == 2 * volumes  # a result and a figure each
    assert sorted(path.name for path in Path("killed").iterdir()) == names
    for name in names:
        one, other = (Path(out, name) for out in ("whole", "killed"))
        if name.endswith(".h5"):
            assert contents(one) == contents(other)
        else:
            assert one.read_bytes() == other.read_bytes()
    again = finish("killed")
    assert [len(report["kept"]) for report in again] == [SLICES] * volumes


class Discs(HeadSource):
    """Discs of random size and brightness: nothing to wait for."""

    def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
        radius, brightness = torch.rand(2, generator=generator)
        disc = brightness * (y**2 + x**2 < 0.2 + radius).to(torch.complex64)
        return HeadSlices(disc.expand(count, *shape), 1.0, 5.0, "axial", "none")


def train_tiny(out: str, likelihood_of: str, monitor: Monitor | None = None) -> Progress:
    """Denoising for 5 updates, then maximum likelihood; a checkpoint after every 8."""
    torch.manual_seed(0)
    prior = make_prior("deepen", weights="none", widths=[4], blocks=1).requires_grad_(True)
    settings = {"steps": 40, "warm_start": 5, "batch": 1, "pool": 3, "chain_steps": 2, "refresh": 0.1}
    settings["likelihood_of"] = likelihood_of
    operator = registry().load("operator", "sense")
    source = SimulatedProblems(Discs(), shape=(16, 16), coils=2, pool=4, make_operator=operator)
    options = LoopOptions(Path(out), checkpoint_every=8)
    return train(prior, make_trainer("maximum-likelihood", **settings), source, options, monitor=monitor)


def train_until_killed(likelihood_of: str) -> None:
    train_tiny("killed", likelihood_of, lambda step, _: os.kill(os.getpid(), signal.SIGKILL) if step == 20 else None)


@pytest.mark.parametrize("likelihood_of", ["scale", "network"])
def test_a_killed_training_goes_on_bit_for_bit_with_its_chains(likelihood_of, working_folder, one_thread):
    """Killed between two checkpoints of the likelihood stage, whose chains persist."""
    call = f"runpy.run_path({__file__!r})['train_until_killed']({likelihood_of!r})"
    script = f"import runpy, torch; torch.set_num_threads(1); {call}"
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # of `support`
    killed = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpoint = Path("killed/checkpoint.safetensors")
    assert "trainer/fake.2" in load_file(checkpoint)
    train_tiny("whole", likelihood_of)
    resumed: list[int] = []
    train_tiny("killed", likelihood_of, lambda step, _: resumed.append(step))
    assert (resumed[0], resumed[-1]) == (17, 40)
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        one, other = (load_file(Path(out, name)) for out in ("whole", "killed"))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
