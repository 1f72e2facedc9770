"""The tables and figures of a tiny plan, from the command line to the files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from PIL import Image as Picture

import support
from mriinv import open_scan, simulate_acquisition
from mriinv.benchmark import cells
from mriinv.benchmark.cells import Record
from mriinv.benchmark.plan import SHIPPED, HeldOut, Split, load_plan, slug
from mriinv.benchmark.scans import held_out_slices, split_scans, training_images
from mriinv.benchmark.session import Benchmark, grouped
from mriinv.benchmark.tables import escaped, latex, markdown, table1, table2
from mriinv.benchmark.training import Training, settled, with_steps
from mriinv.compose import Reconstruction, make_prior, make_solver, make_trainer
from mriinv.config import TrainConfig, build_train_config
from mriinv.data.acquisition import Acquisition
from mriinv.data.fastmri import write_fastmri
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.scan_images import ScanImages, middle_slices
from mriinv.errors import InputError, SettingsError
from mriinv.manifest import Choice
from mriinv.metrics import evaluate
from mriinv.registry import registry
from mriinv.validation import retrospective_case
from mriinv.weights import read_metadata

CPU = torch.device("cpu")
MASKS = {
    "2D 2×": MaskChoice(name="poisson-2d", acceleration=2, acs=12),
    "1D 2×": MaskChoice(name="random-1d", acceleration=2),
}
TINY = """
summary: tiny
data: {shape: [32, 32], coils: 4}
test: {heads: 2, shape: [48, 40], coils: 4, noise_std: 0.01}
masks:
  2D 2×: {name: poisson-2d, acceleration: 2, acs: 12}
  1D 2×: {name: random-1d, acceleration: 2}
trainings:
  muse: {prior: {name: muse, settings: {widths: [4], layers: 2}}, steps: 3}
  deepen: {prior: {name: deepen, settings: {widths: [4], blocks: 1}}, warm_start: 1.0e-9, steps: 2,
           trainer: {name: maximum-likelihood, settings: {chain_steps: 1}}}
methods:
  CG-SENSE: {recipe: cg-sense}
  MuSE: {recipe: muse, training: muse, solver: {settings: {max_iterations: 3}}}
  DEEPEN: {recipe: deepen-map, training: deepen, limit: 1, solver: {settings: {max_iterations: 3, levels: 1}}}
  samples: &samples
    solver: {name: langevin, settings: {samples: 2, levels: 2, burn_in: 2, long_run: 0}}
    training: muse
    prior: muse
    limit: 1
  more samples: *samples
table2: {methods: [DEEPEN, MuSE], masks: [2D 2×, 1D 2×]}
figure2: {methods: [MuSE, DEEPEN], masks: [2D 2×], points: 3}
figure3: {methods: [CG-SENSE, MuSE], masks: [2D 2×, 1D 2×]}
figure4: {methods: [MuSE], pairs: [[2D 2×, 1D 2×]]}
figure5: {map: MuSE, samplers: [samples, more samples], masks: [2D 2×]}
"""
NO_PARTS = dict.fromkeys(("table2", "figure2", "figure3", "figure4", "figure5"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    scan(folder / "train/a.h5", 0)  # rendered heads would take longer than everything else
    scan(folder / "test.h5", 1, slices=2)
    return folder


@pytest.fixture(autouse=True)
def inputs_here(inputs: Path, working_folder: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(inputs, working_folder, dirs_exist_ok=True)  # with their times, which name cells
    monkeypatch.setattr(cells, "gc", SimpleNamespace(collect=lambda: None))  # slow among all that pytest holds


DATA = ("--train", "train/a.h5", "--test", "test.h5")


def invoke(*arguments: object) -> Result:
    return support.invoke("benchmark", *arguments)


def succeed(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def changed(**fields: Any) -> str:
    Path("changed.yaml").write_text(yaml.safe_dump({**yaml.safe_load(TINY), **fields}, sort_keys=False))
    return "changed.yaml"


def scan(path: Path, seed: int, slices: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_fastmri(path, simulate_acquisition(shape=(48, 40), coils=4, seed=seed, slices=slices, noise_std=0.01))
    return path


def test_table_is_made_resumed_and_equal_with_two_processes() -> None:
    table = ("table1", "--plan", "tiny.yaml", *DATA, "--out", "out")
    succeed(*table)
    found = rows("out/table1.csv")
    assert len(found) == 2 * 2 * 2 + 2 * 3  # two methods on two heads, three on one, two masks
    assert not any(row["error"] for row in found)
    assert {row["trained_for"] for row in found} == {"", "all masks"}

    one = next(row for row in found if row["method"] == "CG-SENSE" and row["slice"] == "1")  # by hand
    with open_scan("test.h5") as opened:
        full = prepare_acquisition(opened.read(1))
    case = retrospective_case("", full, MASKS[one["mask"]].mask_for(full), Choice(name="sense"))
    image = Reconstruction(None, make_solver("cg-sense"), "cpu")(case.problem).image
    expected = evaluate(image, case.reference, case.problem.operator.support).as_dict()
    for name, value in expected.items():
        assert float(one[name]) == pytest.approx(value, rel=1e-6), name

    trained = Path("out/training/muse")
    assert read_metadata(trained / "weights.safetensors")["card"]["updates"] == 3
    assert (
        read_metadata(trained / "weights.safetensors")["card"]["command"]
        == f"mriinv train --config {trained}/training.yaml"
    )
    config = build_train_config(trained / "training.yaml", {}, ())  # as `mriinv train --config` reads it
    assert config.trainer.settings["steps"] == 3
    assert config.data.masks == (("poisson-2d", 2.0, 12), ("random-1d", 2.0, None))
    muse = next(row for row in found if row["method"] == "MuSE")
    prior = make_prior("muse", weights=str(trained / "weights.safetensors"))
    assert int(muse["parameters"]) == sum(p.numel() for p in prior.parameters())

    cells = {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()}
    lost = Path("out/cells", muse["file"])
    lost.unlink()
    said = succeed(*table)
    assert "13 evaluations are there, 1 to compute" in said.stderr
    again = {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()}
    assert again.keys() == cells.keys()
    assert [path for path in cells if again[path] != cells[path]] == [lost]

    numbers = ("psnr", "ssim", "ssim_legacy", "nmse", "iterations", "parameters")
    shutil.copytree("out/training", "two/training")
    succeed("table1", "--plan", "tiny.yaml", *DATA, "--out", "two", "--processes", 2)
    for first, second in zip(found, rows("two/table1.csv"), strict=True):
        assert {name: first[name] for name in numbers} == {name: second[name] for name in numbers}
    text = Path("out/table1.md").read_text(encoding="utf-8")
    assert "### test, n = 2" in text and ", n = 1" in text and "**" in text
    assert succeed(*table, "--dry-run").stdout.splitlines()[-2:] == [
        "0 of 2 trainings missing, 0 min by budget",
        "14 evaluations, 14 of them there",
    ]


def test_mismatch_table_and_figures() -> None:
    out = ("--plan", "tiny.yaml", *DATA, "--out", "out")
    succeed("table2", *out)
    assert {path.name for path in Path("out/training").iterdir()} == {
        "deepen-2d-2x", "deepen-1d-2x", "muse-2d-2x", "muse-1d-2x"
    }  # fmt: skip
    found = {(row["trained_for"], row["mask"]) for row in rows("out/table2.csv")}
    assert found == {(a, b) for a in MASKS for b in MASKS}
    for label, choice in MASKS.items():
        config = build_train_config(Path(f"out/training/muse-{slug(label)}/training.yaml"), {}, ())
        assert config.data.masks == (choice.kind,)
    sizes = {}
    for number, names in (
        (2, ["figure2-2d-2x.png", "figure2.csv"]),
        (3, ["figure3.png"]),
        (4, ["figure4.png"]),
        (5, ["figure5.png"]),
    ):
        assert succeed("figure", number, *out).stdout.split() == [f"out/{name}" for name in names]
        with Picture.open(f"out/{names[0]}") as picture:
            sizes[number] = picture.size
    assert all(min(size) > 200 for size in sizes.values())
    assert sizes[3][1] > 1.9 * sizes[4][1]  # two masks, one pair
    with open("out/figure2.csv", encoding="utf-8") as stream:
        assert [row[:2] for row in csv.reader(stream)][1:] == [["MuSE", "2D 2×"], ["DEEPEN", "2D 2×"]]
    (kept,) = Path("out/cells").glob("samples_*.npz")
    with np.load(kept) as file:
        assert file["image"].dtype == np.float16 and file["image"].shape == (48, 40, 2) and file["std"].max() > 0


def test_a_failure_is_recorded_and_shown_and_the_rest_goes_on() -> None:
    methods = {
        "CG-SENSE": {"recipe": "cg-sense"},
        "unstable": {
            "recipe": "muse",
            "prior": {"weights": "none"},
            "solver": {"name": "langevin", "settings": {"step_size": 1e9}},
        },
        "untrainable": {"recipe": "muse", "training": "broken"},
    }
    broken = {"prior": "muse", "trainer": {"name": "denoising", "settings": {"learning_rate": 1e30}}, "steps": 20}
    plan = changed(methods=methods, trainings={"broken": broken}, **NO_PARTS)
    said = invoke("table1", "--plan", plan, *DATA, "--out", "out")
    found = rows("out/table1.csv")
    errors = {row["method"]: row["error"] for row in found}
    assert errors["CG-SENSE"] == ""
    assert errors["unstable"].startswith("solver.step_size: found 1e+09")
    assert errors["untrainable"].startswith("training broken failed: training diverged")
    assert said.exit_code == 1 and f"8 of {len(found)} evaluations failed" in said.stderr
    assert "failed: " in Path("out/table1.md").read_text(encoding="utf-8")
    stored = [json.loads(path.read_text()) for path in Path("out/cells").glob("unstable*")]
    assert len(stored) == 4 and all("solver.step_size" in record["error"] for record in stored)


def test_weights_stand_for_a_training() -> None:
    options = ("table1", "--plan", "tiny.yaml", *DATA, "--out", "out", "--methods", "DEEPEN,CG-SENSE")
    succeed(*options, "--weights", "DEEPEN=deepen-heads")
    assert not Path("out/training").exists()
    assert {row["parameters"] for row in rows("out/table1.csv")} >= {"0"}
    assert max(int(row["parameters"]) for row in rows("out/table1.csv")) > 10000
    assert "did you mean DEEPEN" in invoke(*options, "--weights", "DEPEN=x").stderr
    assert "expected METHOD=NAME" in invoke(*options, "--weights", "DEEPEN").stderr
    for command in (("table2",), ("figure", 4)):
        refused = invoke(*command, "--plan", "tiny.yaml", *DATA, "--weights", "MuSE=muse-heads")
        assert refused.exit_code == 1 and "--weights MuSE:" in refused.stderr and "for each mask" in refused.stderr


def test_minutes_are_turned_into_updates_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(0.0, 0.25)  # an update takes a quarter of a second
    monkeypatch.setattr("mriinv.benchmark.training.time", SimpleNamespace(monotonic=lambda: next(clock)))
    options = ("table1", "--plan", "tiny.yaml", *DATA, "--out", "out", "--methods", "MuSE", "--minutes", 0.05)
    succeed(*options)
    path = Path("out/training/muse/training.yaml")
    config = build_train_config(path, {}, ())
    steps, before = config.trainer.settings["steps"], path.read_bytes()
    assert steps == 12
    succeed(*options)
    assert path.read_bytes() == before
    longer = invoke(*options[:-1], 0.1)
    assert longer.exit_code == 1 and "found" not in longer.stdout
    assert "a training of 0.05 minutes, and 0.1 are asked for; use another --out" in longer.stderr


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_of_another_plan_is_refused(finished: bool) -> None:
    options = (*DATA, "--out", "out", "--methods", "MuSE")
    made = Benchmark(load_plan("tiny.yaml"), Path("out"), Path("train/a.h5"), (Path("test.h5"),), methods=("MuSE",))
    made.train(made.table1()[:1])
    if not finished:
        Path("out/training/muse/weights.safetensors").unlink()
    muse = {"prior": {"name": "muse", "settings": {"widths": [4], "layers": 3}}, "steps": 3}
    other = changed(trainings={**yaml.safe_load(TINY)["trainings"], "muse": muse})
    for command in (("table1",), ("table1", "--dry-run"), ("figure", 2)):
        refused = invoke(*command, "--plan", other, *options)
        assert refused.exit_code == 1
        assert "muse/training.yaml: another training than that of the plan (prior)" in refused.stderr
    assert not Path("out/cells").exists()
    assert made.training("MuSE", None).weights == (Path("out/training/muse/weights.safetensors") if finished else None)


def test_without_the_weights_of_its_training_a_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mriinv.benchmark.session.train", lambda training: None)
    out = (*("--plan", "tiny.yaml"), *DATA, "--out", "out", "--methods", "MuSE")
    assert invoke("table1", *out).exit_code == 1
    assert {row["error"] for row in rows("out/table1.csv")} == {"training muse has left no weights"}
    monkeypatch.setattr("mriinv.benchmark.figures.comparison_figure", lambda path, *_: path)
    drawn = invoke("figure", 3, *out)
    assert drawn.exit_code == 1 and "2 of 2 evaluations failed" in drawn.stderr
    assert drawn.stdout == "out/figure3.png\n"
    refused = invoke("figure", 2, *out)
    assert refused.exit_code == 1 and "error: training muse has left no weights" in refused.stderr


def test_warm_start_is_a_share() -> None:
    config = TrainConfig(out=Path("x"), prior="deepen")  # type: ignore[arg-type]
    assert with_steps(config, 80, 0.75).trainer.settings == {"steps": 80, "warm_start": 60}
    assert with_steps(config, 80, None).trainer.settings == {"steps": 80}


def test_both_stages_of_a_training_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second for an update of the warm start, three for another: 30 fit into a minute."""
    clock = [0.0]

    def run(config: TrainConfig, *, monitor: Any) -> None:
        trainer = make_trainer(config.trainer.name, **config.trainer.settings)  # refuses a warm start without the rest
        for step in range(trainer.steps):
            clock[0] += 1.0 if step < trainer.settings.warm_start else 3.0
            monitor(step + 1, {})

    monkeypatch.setattr("mriinv.training.session.run_training", run)
    monkeypatch.setattr("mriinv.benchmark.training.time", SimpleNamespace(monotonic=lambda: clock[0]))
    config = build_train_config(None, {"out": tmp_path, "prior": "elder", "trainer": "end-to-end"}, ())
    found = settled(Training("elder", config, 1.0, 0.5))
    assert found.trainer.settings == {**config.trainer.settings, "steps": 30, "warm_start": 15}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_plans_are_valid(name: str) -> None:
    plan = load_plan(name)
    assert list(plan.masks) == ["2D 4×", "2D 6×", "1D 2×", "1D 4×"]
    assert {"DEEPEN (weights that ship)", "MuSE", "PnP-ISTA", "MoL", "ELDER", "DPS"} <= set(plan.methods)
    assert plan.methods["DEEPEN (weights that ship)"].training is None
    for part in NO_PARTS:
        assert getattr(plan, part) is not None
    overview = succeed("table1", "--plan", name, "--dry-run").stdout
    assert f"of {15 if name == 'paper' else 8} trainings missing" in overview


def test_the_plan_of_the_paper_has_no_rule_for_the_noise() -> None:
    """The rules are ours: no prior of the paper is stronger or weaker for data of another noise."""
    plan = load_plan("paper")
    for name, training in plan.trainings.items():
        settings = registry().load("prior", training.prior.name).parse_settings(training.prior.settings)
        assert getattr(settings, "data_noise_std", None) is None, name
    assert plan.methods["PnP-ISTA"].combination().solver.settings["relaxation"] == 1
    for name in ("DEEPEN", "MuSE", "DEEPEN MMSE"):
        assert plan.methods[name].combination().solver.settings["robust"] is False, name


@pytest.mark.parametrize("command", [("table2",), ("figure", 2), ("figure", 3), ("figure", 4)])
def test_a_part_without_any_of_the_chosen_methods_is_refused(command: tuple[str, ...]) -> None:
    refused = invoke(*command, "--methods", "TV", "--dry-run")
    assert refused.exit_code == 1 and "--methods: found none of those that are compared here: " in refused.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minute": 3}, "did you mean 'minutes'"),
        ({"methods": {"A": {"recipe": "cg-sens"}}}, "methods.A: unknown recipe 'cg-sens'"),
        ({"methods": {"A": {"solver": "cg-sense", "training": "x"}}}, "methods.A.training: found 'x'"),
        ({"methods": {"A": {"prior": "tv"}}}, "methods.A: expected a recipe, or a solver"),
        ({"methods": {"A": {"recipe": "tv", "prior": {"settings": {"wight": 1}}}}}, "methods.A: tv has no setting"),
        ({"methods": {"A": {"recipe": "tv", "training": "muse"}}}, "training 'muse' is of prior 'muse', not 'tv'"),
        ({"methods": {"A, B": {"recipe": "tv"}}}, "methods.A, B"),
        ({"trainings": {n: {"prior": n} for n in ("deepen", "muse")}}, "trainings.deepen: expected steps, or"),
        ({"trainings": {n: {"prior": n, "trainer": "denosing", "steps": 1} for n in ("deepen", "muse")}}, "denoising"),
        ({"masks": {"4": {"name": "poisson-2d", "accelaration": 4}}}, "masks"),
        ({"masks": {m: {"name": "poison-2d"} for m in MASKS}}, "masks.2D 2×: unknown mask 'poison-2d'; did you mean"),
        ({"masks": {m: {"name": "none.npy"} for m in MASKS}}, "masks.2D 2×: none.npy: found no such file; expected"),
        ({"zoom": [0.6, 0.3, 0.3, 0.5]}, "zoom: found [0.6, 0.3, 0.3, 0.5]; expected top < bottom and left < right"),
        ({"zoom": [0.3, 0.6, 0.5, 0.5]}, "zoom: found [0.3, 0.6, 0.5, 0.5]; expected top < bottom and left < right"),
        ({"table2": {"methods": ["CG-SENSE"], "masks": ["2D 2×"]}}, "'CG-SENSE' has no training"),
        ({"masks": {m: {"name": "own.npy"} for m in MASKS}}, "found mask own.npy; trainings draw their masks by name"),
        ({"figure3": {"methods": ["CG-SENSE"], "masks": ["3D"]}}, "figure3.masks: found '3D'"),
    ],
)  # fmt: skip
def test_mistakes_in_plans_are_named(fields: dict[str, Any], message: str) -> None:
    parts = NO_PARTS if "methods" in fields else {}
    Path("own.npy").touch()
    result = invoke("table1", "--plan", changed(**{**parts, **fields}), "--dry-run")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def record(method: str, psnr: float, **more: Any) -> Record:
    scores = {
        "psnr": psnr,
        "ssim": psnr / 50,
        "ssim_legacy": 0.99,
        "seconds": 1.0,
        "memory_mib": None,
        "parameters": 10,
    }
    names = {"method": method, "trained_for": "all masks", "test_set": "A_1", "scan": "s", "slice": 0, "mask": "2D 4×"}
    return {**names, **scores, "error": None, "notes": [], "training_minutes": 3.0, **more}


def test_table_one_by_hand() -> None:
    records = [
        record("A & B", 30, slice=0), record("A & B", 34, slice=1), record("C", 33, slice=0), record("C", 30, slice=1),
        record("D", 40, slice=0), record("E", 50, slice=0), record("E", 0, slice=1, error="diverged"),
    ]  # fmt: skip
    (made,) = table1(records)
    shown = {row[0].text: row[1] for row in made.rows}
    assert shown["A & B"].text == "32.00 ± 2.83 (30.00)" and shown["A & B"].best
    assert shown["C"].text == "31.50 ± 2.12 (30.00)" and not shown["C"].best
    assert shown["D"].text == "40.00, n = 1" and not shown["D"].best
    assert shown["E"].text == "50.00, 1 of 2 failed" and not shown["E"].best
    assert "| A & B | **32.00 ± 2.83 (30.00)** | **0.640 (0.990)** | 1.00 |  | 10 | 3.0 |" in markdown([made], "")
    source = latex([made], "a\nb")
    assert r"A \& B & \textbf{32.00 $\pm$ 2.83 (30.00)}" in source and r"A\_1" in source and "2D 4$\\times$" in source
    assert escaped("50% of $x_{1}$ \\ #~^") == (
        r"50\% of \$x\_\{1\}\$ \textbackslash{} \#\textasciitilde{}\textasciicircum{}"
    )


def test_table_two_by_hand() -> None:
    pairs = {("X", "X"): 35.0, ("Y", "X"): 33.0, ("X", "Y"): 30.0, ("Y", "Y"): 36.0}
    records = [record("A", v, trained_for=a, mask=b) for (a, b), v in pairs.items()]
    records += [record("B", 34, trained_for=a, mask=b) for a, b in pairs]
    (made,) = table2(records)
    assert made.columns == ["tested on", "method", "trained for X", "trained for Y"]
    texts = [[f"*{entry.text}" if entry.best else entry.text for entry in row] for row in made.rows]
    assert texts == [
        ["X", "A", "*35.00", "33.00"],
        ["X", "B", "34.00", "*34.00"],
        ["Y", "A", "30.00", "*36.00"],
        ["Y", "B", "*34.00", "34.00"],
    ]


def test_table_two_counts_slices_and_failures_as_table_one_does() -> None:
    task = {"trained_for": "X", "mask": "X"}
    records = [record("A", value, slice=number, **task) for number, value in enumerate((30, 32))]
    records += [record("B", 40, **task), record("C", 50, **task), record("C", 0, slice=1, error="diverged", **task)]
    (made,) = table2(records)
    texts = [[f"*{entry.text}" if entry.best else entry.text for entry in row[1:]] for row in made.rows]
    assert texts == [["A", "*31.00 ± 1.41 (30.00)"], ["B", "40.00, n = 1"], ["C", "50.00, 1 of 2 failed"]]


@pytest.mark.parametrize("make", [table1, table2])
def test_tables_of_different_hardware_say_so(make: Any) -> None:
    records = [record("A", 30, hardware="CPU, 1 threads"), record("B", 31, hardware="CPU, 1 threads")]
    assert "hardware" not in make(records)[0].note
    said = make([*records, record("C", 30, hardware="NVIDIA H200"), record("D", 0, error="lost")])
    sentence = "different hardware, seconds and memory do not compare: CPU, 1 threads; NVIDIA H200."
    assert said[0].note.endswith(sentence) and sentence in markdown(said, "") and sentence in latex(said, "")


def test_scans_of_one_folder_are_divided_by_name(caplog: pytest.LogCaptureFixture) -> None:
    paths = [Path(f"{number:03}.h5") for number in range(120)]
    train, validation, test = split_scans(paths[::-1], Split())
    assert [path.stem for path in (train[0], train[-1], validation[0], test[0], test[-1])] == [
        "000", "044", "045", "050", "099",
    ]  # fmt: skip
    assert not caplog.messages
    assert list(map(len, split_scans(paths[:11], Split()))) == [5, 1, 5]
    assert "11 scans instead of 100: 5 + 1 + 5" in caplog.messages[0]
    assert list(map(len, split_scans(paths[:2], Split()))) == [1, 0, 1]
    assert list(map(len, split_scans(paths[:50], Split(), tested=True))) == [45, 5, 0]
    for few in range(3, 100):  # every part has one
        counts = list(map(len, split_scans(paths[:few], Split(train=1, validation=1, test=98))))
        assert sum(counts) == few and min(counts) == 1, counts
    with pytest.raises(InputError, match="found 1 scans; expected at least 2"):
        split_scans(paths[:1], Split())


def test_scans_are_trained_on_and_the_kept_back_ones_tested() -> None:
    for number in range(3):
        scan(Path(f"scans/{number}.h5"), number)
    plan = changed(data={"shape": [32, 32], "coils": 4, "fresh": 0.0})
    options = ("table1", "--plan", plan, "--train", "scans", "--methods", "MuSE")
    said = succeed(*options, "--out", "out")
    assert {(row["test_set"], row["scan"]) for row in rows("out/table1.csv")} == {("scans", "2.h5")}
    config = build_train_config(Path("out/training/muse/training.yaml"), {}, ())
    assert config.data.scans == (Path("scans/0.h5"),) and not said.exception
    refused = invoke(*options, "--out", "out", "--test", "scans/0.h5")
    assert refused.exit_code == 1 and "scans/0.h5 is tested and trained on" in refused.stderr
    refused = invoke(*options, "--out", "out", "--plan", changed(data={"scans": ["scans/0.h5"]}))
    assert refused.exit_code == 1 and "data has no setting 'scans'" in refused.stderr  # --train says which
    with pytest.raises(SettingsError, match="heads and scans"):
        build_train_config(None, {"out": "x", "prior": "muse", "data": {"heads": "a", "scans": ["b"]}}, ())


def test_label_maps_are_told_from_scans(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    np.savez(tmp_path / "maps/a.npz", labels=np.ones((4, 4, 4), np.int16))
    assert training_images(tmp_path / "maps", Split(), tested=True).heads == tmp_path / "maps"
    assert training_images(scan(tmp_path / "scans/a.h5", 0), Split(), tested=True).scans == (tmp_path / "scans/a.h5",)


def test_images_of_scans(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.h5", 3, slices=4)
    with open_scan(path) as opened:
        references = [opened.read(index).reference for index in range(4)]
    made: list[str] = []

    def combine(full: Any) -> torch.Tensor:
        made.append(full.source)
        return full.reference

    source = ScanImages([path], 2, combine)
    generator = torch.Generator().manual_seed(0)
    expected = [reference[0] for reference in references[1:3] if reference is not None]  # the middle ones, (48, 40)
    for drawn in [source.image((40, 48), generator) for _ in range(6)]:
        parts = [drawn[:, 4:44] / one[4:44] for one in expected]  # rows cropped, columns extended by zeros, one factor
        spread = [float((part / part[20, 20] - 1)[part.isfinite()].abs().max()) for part in parts]
        assert min(spread) < 1e-4
        assert not drawn[:, :4].any() and not drawn[:, 44:].any()
        top = torch.sort(drawn.abs().flatten()).values[int(0.99 * drawn.numel()) - 1]
        assert float(top) == pytest.approx(1, abs=0.01)
    assert sorted(made) == ["a.h5[1]", "a.h5[2]"]  # each once
    assert middle_slices(16, 10) == list(range(3, 13)) and middle_slices(3, None) == [0, 1, 2]
    with pytest.raises(InputError, match="no scan"):
        ScanImages([], None, combine)


def simulated_cells() -> tuple[Benchmark, list[cells.Cell]]:
    """A benchmark on simulated heads, and a cell for each mask."""
    made = Benchmark(plan=load_plan("tiny.yaml"), out=Path("out"), methods=("CG-SENSE",), device="cpu")
    return made, [made.case_cell("CG-SENSE", mask) for mask in MASKS]


def test_a_cell_has_the_name_of_what_determines_it() -> None:
    made, (first, second) = simulated_cells()
    paths = {cell.path(Path("out"), made.plan.test, CPU) for cell in (first, second)}
    assert len(paths) == 2
    other = made.plan.test.model_copy(update={"noise_std": 0.02})
    assert first.path(Path("out"), other, CPU) not in paths
    cells.run_cells([first], Path("out"), made.plan.test, CPU, keep=False)
    (path,) = Path("out").glob("*.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert path in paths and stored["error"] is None and stored["hardware"].startswith("CPU")


def test_a_cell_follows_the_files_that_it_names(tmp_path: Path) -> None:
    made, (cell, _) = simulated_cells()
    mask = tmp_path / "mask.npy"
    paths = set()
    for width in (8, 16):
        np.save(mask, np.arange(40) < width)
        own = replace(cell, choice=MaskChoice(name=str(mask)))
        paths.add(own.path(Path("out"), made.plan.test, CPU))
    assert len(paths) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_cell_is_computed_again(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cell.json").write_text(content)
    assert cells.read_cell(tmp_path / "cell.json") is None and "computed again" in caplog.text


def test_weights_that_are_not_there_are_refused_before_anything_else() -> None:
    said = invoke("table1", "--plan", changed(**NO_PARTS), *DATA, "--out", "out", "--weights", "MuSE=no.safetensors")
    assert said.exit_code == 1 and said.stderr.endswith("no.safetensors: no such weight file\n")
    assert not Path("out").exists()


def test_labels_are_those_of_the_plan() -> None:
    for label in ("CG-SENSE", "CG sense"):
        plan = changed(methods={label: {"recipe": "cg-sense"}}, trainings={}, **NO_PARTS)
        invoke("table1", "--plan", plan, *DATA, "--out", "out")
        assert {row["method"] for row in rows("out/table1.csv")} == {label}


def test_energies_are_drawn_around_a_reference_with_the_phase_of_the_maps() -> None:
    made, (cell, _) = simulated_cells()
    errors = []
    own = cells.make_case(cell, made.plan.test, CPU)
    for case in (own, own.against_truth()):
        errors.append(float((case.problem.sense() - case.reference).norm() / case.reference.norm()))
    assert errors[0] > 0.5 and errors[1] < 0.2


def test_cells_of_one_slice_mask_and_operator_share_its_problem() -> None:
    _, (first, second) = simulated_cells()
    operator = Choice(name="sense", settings={"eigenvalue_threshold": 0.5})
    third = replace(first, config=first.config.model_copy(update={"operator": operator}))
    assert grouped([first, second, third, first]) == [[first, first], [second], [third]]


def test_the_first_cell_of_a_process_does_not_pay_for_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (first, second) = simulated_cells()
    seen: list[tuple[int, ...]] = []

    class Watched(Reconstruction):
        def __call__(self, problem: Any, **options: Any) -> Any:
            seen.append(tuple(problem.kspace.shape if isinstance(problem, Acquisition) else problem.data.shape))
            return super().__call__(problem, **options)

    monkeypatch.setattr(cells, "Reconstruction", Watched)
    cells._warm_up.cache_clear()
    for cell in (first, second):
        cells.run_cells([cell], Path("out"), made.plan.test, CPU, keep=False)
    assert seen == [(1, 2, 32, 32), (1, 4, 48, 40), (1, 4, 48, 40)]


def test_an_error_is_stored_by_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (first, second) = simulated_cells()
    errors = iter([ValueError("\n late\nmore"), MemoryError()])

    def fail(*_: Any) -> None:
        raise next(errors)

    monkeypatch.setattr(cells, "make_case", fail)
    cells.run_cells([first, second], Path("out"), made.plan.test, CPU, keep=False)
    stored = [json.loads(c.path(Path("out"), made.plan.test, CPU).read_text()) for c in (first, second)]
    assert [one["error"] for one in stored] == ["late", "MemoryError"]
    assert all("in fail" in one["traceback"] for one in stored)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_is_the_peak_of_what_is_taken() -> None:
    torch.ones(200 * 2**18)  # 200 MiB, free again before the measurement
    measured = cells.PeakMemory(CPU)
    kept = torch.ones(100 * 2**18)
    torch.ones(50 * 2**18)
    assert measured.increase() == pytest.approx(150, abs=5)
    assert cells.PeakMemory(CPU).increase() < 5 and len(kept)


def test_test_sets_have_names_of_their_own() -> None:
    scan(Path("a/set/x.h5"), 0)
    scan(Path("b/set/x.h5"), 1)
    for inputs, message in (
        (("a/set", "b/set"), "--test b/set: another test set is called 'set' too"),
        (("a/set/x.h5", "b/set/x.h5"), "'set/x'"),
        (("a/set", "b/../a/set"), "twice"),
    ):
        with pytest.raises(SettingsError, match=message):
            held_out_slices(tuple(map(Path, inputs)), (), HeldOut())
    found = held_out_slices((Path("a/set"), Path("b/set/x.h5")), (), HeldOut())
    assert [one.group for one in found] == ["set", "set/x"]


def test_scans_of_one_name_in_a_set_are_told_apart() -> None:
    files = ["subj1/scan.h5", "subj2/scan.h5"]
    for seed, file in enumerate(files):
        os.utime(scan(Path("data", file), seed), (0, 0))  # as unpacked from one archive
    assert len({Path("data", file).stat().st_size for file in files}) == 1
    _, (cell, _) = simulated_cells()

    def tested(pattern: str) -> list[cells.Cell]:
        return [replace(cell, tested=one) for one in held_out_slices((Path(pattern),), (), HeldOut())]

    found = tested("data/subj*/scan.h5")
    assert [one.tested.scan for one in found] == files
    assert [one.tested.name for one in found] == ["subj1/scan 0", "subj2/scan 0"]
    paths = [one.path(Path("out"), HeldOut(), CPU) for one in found]
    assert len(set(paths)) == 2
    (table,) = table1([{**record("A", 30), **cells.described(one)} for one in found])
    assert table.title == "subj*/scan, n = 2"
    Path("data").rename("elsewhere")
    assert [one.path(Path("out"), HeldOut(), CPU) for one in tested("elsewhere/subj*/scan.h5")] == paths


def test_scans_of_different_names_are_called_by_them() -> None:
    for number in (1, 2):
        scan(Path(f"subj{number}/{number}.h5"), number)
    _, (cell, _) = simulated_cells()
    for inputs, names in (("subj*/*.h5", ["1", "2"]), ("subj2/2.h5", ["2"])):
        found = held_out_slices((Path(inputs),), (), HeldOut())
        assert [one.name for one in found] == [f"{name} 0" for name in names]
        for one in found:
            assert one.path is not None
            stat = one.path.stat()
            source = replace(cell, tested=one).key(HeldOut(), CPU)["source"]
            assert source == [one.path.name, stat.st_size, stat.st_mtime_ns]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_processes_store_and_stay_silent(tmp_path: Path) -> None:
    names = ("first", "second")
    long = {"prior": {"name": "muse", "settings": {"widths": [4], "layers": 2}}, "steps": 900000}
    plan = changed(
        trainings=dict.fromkeys(names, long), methods={n: {"recipe": "muse", "training": n} for n in names}, **NO_PARTS
    )
    code = "from mriinv.cli import main; main(prog_name='mriinv')"
    options = ("table1", "--plan", plan, *DATA, "--out", "out", "--processes", "2")
    command = [sys.executable, "-c", code, "benchmark", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stored = [Path(f"out/training/{name}/checkpoint.safetensors") for name in names]

    def times() -> list[int]:
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in stored]

    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + support.PATIENCE
        while not all(times()) and time.monotonic() < until:
            assert running.poll() is None, running.communicate()
            time.sleep(0.1)
        before = times()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        _, said = running.communicate(timeout=support.PATIENCE)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
    assert running.returncode == 130, said
    assert "interrupted" in said and "Traceback" not in said
    assert all(new > old for new, old in zip(times(), before, strict=True))  # what came after the last regular one
