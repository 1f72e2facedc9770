"""Every command and every example of the README runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mriinv import Sampler, make_mask, simulate_acquisition
from mriinv.core.sampler import _LongRun
from mriinv.data.results import read_result
from mriinv.registry import registry
from support import succeed, write_hdf5

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)\n```", README, flags=re.S) for kind in ("sh", "python", "yaml")}
# what these write is for the lines after them
TOGETHER = ("mriinv tune ", "mriinv simulate ", "mriinv train ", "mriinv calibrate ")
COMMANDS = [
    part for block in BLOCKS["sh"][2:] for part in ([block] if block.startswith(TOGETHER) else block.splitlines())
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README names."""
    folder = tmp_path_factory.mktemp("readme")
    full = simulate_acquisition(shape=(48, 56), coils=4)
    scans = {"scan.h5": full, "undersampled.h5": full.undersampled(make_mask("poisson-2d", (48, 56), 3, 16, 0))}
    (folder / "scans").mkdir()
    scans["scans/first.h5"] = full
    for name, scan in scans.items():
        write_hdf5(folder / name, kspace=scan.kspace.numpy())
    for text in BLOCKS["yaml"]:
        (folder / text.splitlines()[0].lstrip("# ")).write_text(text)
    return folder


def run(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(line)
    assert program == "mriinv"
    return succeed(*arguments)


def test_first_command_reconstructs_a_simulated_scan(folder, monkeypatch):
    install, command = BLOCKS["sh"][0].split(" && ")
    assert install == "pip install ."
    output = run(command, folder, monkeypatch)
    result = read_result(folder / "result/simulated.h5")
    gain = float(result.metrics["psnr"]) - float(re.search(r"zero-filled PSNR ([\d.]+)", output)[1])
    assert result.complete and gain > 5
    assert (folder / "result/simulated.png").read_bytes().startswith(b"\x89PNG")


def test_second_command_is_what_runs_this_test():
    assert BLOCKS["sh"][1] == "pip install '.[test]' && pytest"


@pytest.mark.parametrize("lines", COMMANDS, ids=lambda lines: lines.splitlines()[-1])
def test_commands(lines, folder, monkeypatch):
    monkeypatch.setattr(
        Sampler, "_longer", lambda *_: _LongRun({}, None, ())
    )  # half of the time of a posterior, tested elsewhere
    for line in lines.splitlines():
        assert run(line, folder, monkeypatch).strip()


def test_python_examples(capsys, folder, monkeypatch):
    posterior = next(line for line in COMMANDS if "--samples" in line)
    short = {"levels": 2, "burn_in": 1, "thinning": 1, "long_run": 0}
    run(" ".join([posterior, *(f"--set solver.{name}={value}" for name, value in short.items())]), folder, monkeypatch)
    names = {}
    for block in BLOCKS["python"]:
        exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "torch.Size([1, 96, 80]) True" in shown and "torch.Size([1, 8, 2, 48, 56])" in shown
    assert names["result"].image.shape == (1, 48, 56)
    assert names["solution"].image.shape == (1, 96, 80)


def test_catalogue_table_names_everything_that_ships():
    entries = yaml.safe_load((ROOT / "registry.yaml").read_text())["components"]
    catalogue = (ROOT / "docs/catalogue.md").read_text(encoding="utf-8")
    rows = {f"| {e['kind']} | `{e['name']}` | {e['summary']} |": e["name"] for e in entries}
    own = {name: recipe for name, recipe in registry().recipes.items() if ":" not in name}
    rows |= {f"| recipe | `{name}` | {recipe.summary} |": name for name, recipe in own.items()}
    assert not [name for row, name in rows.items() if row not in catalogue or f"`{name}`" not in README]


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(\s*([^)\s]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]
