"""``mriinv landscape``: numbers, files, and what is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from mriinv import make_mask, make_prior, simulate_acquisition
from mriinv.config import RunConfig
from mriinv.data.fastmri import write_fastmri
from mriinv.landscape import case_landscape, scan_case
from support import invoke, succeed

LINE = re.compile(r"(cost|energy) of (\S+): lowest at α_z = (\S+) \(.*\), α_s = (\S+) \(0: reference, 1: SENSE\)")
SHAPE = (48, 40)


@pytest.fixture(autouse=True)
def scans(working_folder: Path, without_gpu: None) -> None:
    full = simulate_acquisition(shape=SHAPE, coils=4, slices=2, noise_std=0.01)
    write_fastmri(Path("full.h5"), full)
    write_fastmri(Path("half.h5"), full, mask=make_mask("poisson-2d", SHAPE, 2, 12))


def values(path: str) -> tuple[list[str], np.ndarray]:
    with open(path, newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    return head, np.array(rows, dtype=float)


def test_cost_and_energy_of_a_scan() -> None:
    options = ("--prior", "muse", "--set", "prior.weight=0.5", "--slice", 0, "--points", 5, "--seed", 3)
    options += ("--acceleration", 2, "--acs", 12, "--energy", "--out", "new/a.png")
    *lines, paths = succeed("landscape", "full.h5", *options).splitlines()
    assert paths == "new/a.png, new/a.csv"
    assert imread("new/a.png").shape[0] > 500

    mask = {"name": "poisson-2d", "acceleration": 2, "acs": 12}
    config = RunConfig(solver="mm-cg", input="full.h5", slices="0", mask=mask, seed=3, device="cpu")
    case, prior = scan_case(config), make_prior("muse", weight=0.5)
    head, table = values("new/a.csv")
    assert head == ["alpha_z", "alpha_s", "cost", "energy"] and table.shape == (25, 4)
    for column, (line, what) in enumerate(zip(lines, ("cost", "energy"), strict=True), start=2):
        expected = case_landscape(prior, case, seed=3, data=what == "cost", points=5)
        grid = torch.cartesian_prod(expected.gaussian, expected.structural)
        np.testing.assert_allclose(table[:, :2], grid, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(table[:, column], expected.values.flatten(), rtol=1e-5)
        found = LINE.match(line)
        assert found and found[1] == what and found[2] == "muse"
        assert (float(found[3]), float(found[4])) == pytest.approx(expected.minimiser, abs=6e-4)
        assert line.endswith(", at the border") == expected.at_border
    assert (table[:, 2] > table[:, 3]).all()


def test_without_a_scan_one_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost with the weights that ship is lowest where no noise is added."""
    text = succeed("landscape", "--points", 3)
    assert sorted(path.name for path in Path().iterdir()) == ["full.h5", "half.h5", "landscape.csv", "landscape.png"]
    head, table = values("landscape.csv")
    assert head == ["alpha_z", "alpha_s", "cost"] and len(table) == 9
    assert table[table[:, 2].argmin(), 0] == 0
    assert text.startswith("cost of deepen: lowest at α_z = 0.00")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["full.h5", "--prior", "cnn-denoiser"], "prior 'cnn-denoiser' has no energy; it provides: denoiser"),
        (["half.h5"], "kspace: found undersampled data; expected a fully sampled scan"),
        (["none.h5"], "none.h5: found no such file"),
        (["full.h5", "--slice", 2], "slices: found 2; full.h5 has slices 0 to 1"),
        (["full.h5", "--mask", "poison-2d"], "poisson-2d"),
        (["full.h5", "--out", "a.pdf"], "--out a.pdf: expected a name that ends with .png"),
        (["full.h5", "--set", "prior.wight=1"], "did you mean 'weight'?"),
        (["full.h5", "--weights", "deepen-head"], "did you mean deepen-heads"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(arguments: list[object], message: str) -> None:
    result = invoke("landscape", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["full.h5", "half.h5"]
