from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mriinv import InverseProblem, make_mask, make_prior, run, simulate_acquisition
from mriinv.cli import INTERRUPTED
from mriinv.data.results import read_result
from mriinv.data.simulate import SimulatedSlices
from mriinv.manifest import KINDS, WeightEntry
from mriinv.registry import Registered, Registry, registry
from mriinv.weights import save_weights
from support import PATIENCE, invoke, succeed, write_hdf5

pytestmark = pytest.mark.usefixtures("working_folder", "without_gpu")
SHAPE, COILS, SLICES = (64, 64), 4, 3
NAMES = [(kind, name) for kind in KINDS for name in registry().components(kind)]
TINY = {"widths": (4,), "blocks": 1}


def kspace(slices: int = SLICES) -> np.ndarray:
    scans = [simulate_acquisition(shape=SHAPE, coils=COILS, seed=seed).kspace[0] for seed in range(slices)]
    return torch.stack(scans).numpy()


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return kspace()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, data: np.ndarray) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("scan") / "scan.h5", kspace=data)


# Without torch


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["simulate", "--help"], ["list"], ["list", "--json"], ["plugins"]],
    ids=" ".join,
)
def test_help_and_lists_need_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from mriinv.cli import main\n"
        f"main({arguments!r}, prog_name='mriinv', standalone_mode=False)\n"
        "heavy = {'torch', 'deepinv', 'matplotlib', 'nibabel', 'h5py', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr.strip() == "[]" and done.stdout


# What there is


def test_list_shows_every_component_and_recipe() -> None:
    text = succeed("list")
    rows = json.loads(succeed("list", "--json"))
    assert {(row["kind"], row["name"]) for row in rows} == {*NAMES, *(("recipe", n) for n in registry().recipes)}
    for row in rows:
        assert f"  {row['name']} " in text and row["summary"] in text
    solvers = json.loads(succeed("list", "solver", "--json"))
    assert solvers == [row for row in rows if row["kind"] == "solver"]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_info_shows_settings_with_defaults_and_units(kind: str, name: str) -> None:
    found = next(one for one in json.loads(succeed("info", name, "--json")) if one.get(kind) == name)
    text = succeed("info", name)
    fields = registry().load(kind, name).Settings.model_fields
    assert [row["name"] for row in found["settings"]] == list(fields)
    for row in found["settings"]:
        unit = (fields[row["name"]].json_schema_extra or {}).get("unit")
        shown = f"  {row['name']} = {fields[row['name']].default}" + (f" [{unit}]" if unit else "")
        shown += f"  ({row['values']})"
        assert f"{shown}\n      {row['help']}" in text
    assert found["summary"] in text and found["reference"] in text
    assert found["from"].startswith("mriinv ") and found["from"] in text


def test_info_shows_all_that_share_a_name() -> None:
    found = json.loads(succeed("info", "cg-sense", "--json"))
    assert [next(iter(one)) for one in found] == ["solver", "recipe"]
    assert "solver: cg-sense" in succeed("info", "cg-sense") and "recipe: cg-sense" in succeed("info", "cg-sense")


@pytest.mark.parametrize("name", registry().recipes)
def test_info_shows_recipes(name: str) -> None:
    assert json.loads(succeed("info", name, "--json"))[-1]["recipe"] == name


def test_info_of_an_unknown_name_lists_close_ones() -> None:
    result = invoke("info", "mmcg")
    assert result.exit_code == 1 and "unknown component or recipe 'mmcg'; did you mean mm-cg?" in result.output


def test_info_shows_what_values_a_setting_takes() -> None:
    found = {row["name"]: row["values"] for row in json.loads(succeed("info", "sense", "--json"))[0]["settings"]}
    assert found["calibration_width"] == "int, ≥ 4" and found["threshold"] == "float, > 0, < 1"
    mala = {row["name"]: row["values"] for row in json.loads(succeed("info", "mala", "--json"))[0]["settings"]}
    assert mala["step_size"] == "float | none, > 0"


def test_info_shows_weights_line_by_line() -> None:
    (entry, *_) = registry().find("prior", "deepen").entry.weights
    lines = succeed("info", "deepen").splitlines()
    at = lines.index(f"  {entry.name} (default): {entry.summary}")
    assert lines[at + 1 : at + 4] == [
        f"      trained on: {entry.trained_on}",
        f"      licence: {entry.licence}",
        f"      sha256: {entry.sha256}",
    ]


def test_info_shows_what_the_weights_set() -> None:
    settings, text = make_prior("deepen").settings, succeed("info", "deepen")
    lines = text.splitlines()
    for name in ("views", "initial_scale", "widths"):
        at = next(number for number, line in enumerate(lines) if line.startswith(f"  {name} = "))
        assert lines[at + 2] == f"      with the default weights: {getattr(settings, name)}"
    assert text.count("with the default weights") < len(settings.model_dump())


def test_info_shows_recipes_without_braces() -> None:
    text = succeed("info", "deepen-posterior")
    assert "\nprior: deepen\n" in text and "\nsolver: preconditioned-langevin" in text and "{" not in text


def test_plugins_are_shown() -> None:
    rows = json.loads(succeed("plugins", "--json"))["plugins"]
    assert {row["status"] for row in rows if row["distribution"].startswith("mriinv ")} == {"ok"}
    assert "solver:mm-cg" in succeed("plugins")


# Runs


def test_an_npz_is_reconstructed(tmp_path: Path, data: np.ndarray) -> None:
    np.savez("brain.npz", ksp=data[0])
    text = succeed("run", "brain.npz", "--recipe", "cg-sense", "--out", "out")
    result = read_result(tmp_path / "out" / "brain.h5")
    truth = simulate_acquisition(shape=SHAPE, coils=COILS).reference
    assert truth is not None and result.image.shape == (1, *SHAPE) and result.complete and not result.metrics
    assert float((result.image.abs() - truth.abs()).norm() / truth.norm()) < 0.05
    assert (tmp_path / "out" / "brain.png").read_bytes().startswith(b"\x89PNG")
    assert text.startswith(f"brain.npz -> {Path('out/brain.h5')}, {Path('out/brain.png')}\n  slice 0: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["brain.h5", "brain.png"]


def test_slices_of_an_hdf5_are_undersampled_and_compared(tmp_path: Path, scan: Path) -> None:
    mask = ("--mask", "random-1d", "--acceleration", "2", "--acs", "14")
    reports = json.loads(succeed("run", scan, "--recipe", "cg-sense", *mask, "--slices", "1:3", "--json"))
    (report,) = reports
    assert report["source"] == str(scan) and report["kept"] == []
    assert len(report["remarks"]) == 2  # of two slices
    assert all("noise level not in the file: estimated as " in remark for remark in report["remarks"])
    assert [row["index"] for row in report["slices"]] == [1, 2]
    for row in report["slices"]:
        assert row["converged"] and 0 < row["iterations"] <= 100 and row["seconds"] > 0
        assert row["metrics"]["psnr"] > row["zero_filled"]["psnr"] + 3
        assert row["metrics"]["region"] and row["metrics"]["data_range"]
    again = json.loads(succeed("run", scan, "--recipe", "cg-sense", *mask, "--slices", "1:3", "--json"))
    assert again == [report | {"kept": [1, 2], "slices": again[0]["slices"]}]  # with the remarks on them
    assert again[0]["slices"] == [row | {"zero_filled": None} for row in report["slices"]]
    result = read_result(tmp_path / "result" / "scan.h5")
    assert report["result"] == str(Path("result/scan.h5")) and Path(report["figure"]).is_file()
    assert result.slices == (1, 2) and result.complete
    assert torch.equal(result.arrays["mask"], make_mask("random-1d", SHAPE, 2.0, 14).expand(2, *SHAPE))
    assert all(row["acceleration"] == 2 for row in report["slices"]) and report["complete"] and report["error"] is None
    assert result.solution["acceleration"].tolist() == [2, 2] and result.solution["converged"].all()
    assert result.solution["iterations"].tolist() == [row["iterations"] for row in report["slices"]]
    assert (result.solution["scale"] > 0).all() and result.solution["seconds"].tolist() == [
        row["seconds"] for row in report["slices"]
    ]
    assert result.solution["noise_std"].tolist() == pytest.approx([0.005, 0.005], rel=0.3)  # of the simulation
    assert result.region == report["slices"][0]["metrics"]["region"]
    assert result.data_range == report["slices"][0]["metrics"]["data_range"]
    assert result.settings["operator"]["settings"]["crop"] == 0.9 and result.settings["solver"]["settings"]
    assert result.provenance["source"] == str(scan) and result.header["mask"] == "fully sampled"
    assert result.metrics["psnr"].tolist() == [row["metrics"]["psnr"] for row in report["slices"]]
    assert result.arrays["coil_maps"].shape == (2, COILS, *SHAPE) and result.arrays["reference"].shape == (2, *SHAPE)
    assert result.settings["mask"]["acs"] == 14 and result.provenance["seed"] == 0


def test_no_calibration_region_may_be_asked_for(scan: Path) -> None:
    plan = json.loads(
        succeed("run", scan, "--recipe", "cg-sense", "--mask", "random-1d", "--acs", "0", "--dry-run", "--json")
    )
    assert plan["configuration"]["mask"]["acs"] == 0


def test_without_input_a_simulated_scan_is_reconstructed(tmp_path: Path) -> None:
    options = ("--prior", "deepen", "--weights", "none", "--set", "solver.max_iterations=3", "--seed", "7")
    text = succeed("run", *options)
    assert "simulated scan (seed 7)" in text and "slice 0: acceleration 4.00, 3 iterations (not converged)" in text
    assert "note: slice 0: stopped after 3 iterations without meeting the stopping rule" in text
    result = read_result(tmp_path / "result" / "simulated.h5")
    truth = simulate_acquisition(seed=7).reference
    assert truth is not None and torch.equal(result.arrays["reference"], truth)
    assert result.settings["mask"] == {"name": "poisson-2d", "acceleration": 4.0, "acs": None, "seed": 7}
    assert torch.equal(result.arrays["mask"], make_mask("poisson-2d", (192, 160), 4.0, seed=7))
    assert result.provenance["weights"] is None
    assert result.remarks == {0: ["stopped after 3 iterations without meeting the stopping rule"]}


def test_the_plan_of_the_simulated_scan_is_what_is_simulated() -> None:
    simulated, scan = simulate_acquisition(seed=4).kspace, SimulatedSlices(3, 2)
    described = {"slices": 2 * len(simulated), "coils": simulated.shape[1], "matrix": simulated.shape[2:]}
    assert scan.describe() == described and torch.equal(scan.read(1).kspace, simulated)


def test_a_dry_run_writes_nothing(tmp_path: Path, scan: Path) -> None:
    options = ("--recipe", "deepen-posterior", "--samples", "3", "--mask", "poisson-2d", "--slices", "2", "--dry-run")
    plan = json.loads(succeed("run", scan, *options, "--set", "prior.weight=2", "--json"))
    assert plan["configuration"]["solver"]["settings"]["samples"] == 3
    assert plan["configuration"]["prior"]["settings"]["weight"] == 2
    assert plan["configuration"]["operator"]["settings"]["crop"] == 0.9 and plan["configuration"]["mask"]["seed"] == 0
    assert plan["inputs"][0]["achieved_acceleration"] == 4
    assert plan["derivations"] == [] and plan["device"] == "cpu"
    assert plan["inputs"][0] | {"slices": SLICES, "coils": COILS, "matrix": list(SHAPE)} == plan["inputs"][0]
    network = 4 * sum(parameter.numel() for parameter in make_prior("deepen").parameters())
    assert plan["memory_estimate_MB"] > network / 1e6
    assert "memory_estimate_MB: " in succeed("run", scan, *options)
    assert list(tmp_path.iterdir()) == []


def test_memory_grows_with_the_matrix() -> None:
    small, large = (
        json.loads(succeed("run", path, "--weights", "none", "--dry-run", "--json"))["memory_estimate_MB"]
        for path in (
            write_hdf5("small.h5", kspace=np.ones((1, 4, 32, 32), np.complex64)),
            write_hdf5("large.h5", kspace=np.ones((1, 4, 128, 128), np.complex64)),
        )
    )
    network = 4e-6 * sum(parameter.numel() for parameter in make_prior("deepen", weights="none").parameters())
    assert (large - network) / (small - network) == pytest.approx(16, rel=0.3)


def test_samples_depend_on_the_seed_only(tmp_path: Path, scan: Path) -> None:
    options = ("--recipe", "deepen-posterior", "--samples", "2", "--mask", "poisson-2d", "--slices", "0")
    few = [f"--set=solver.{setting}" for setting in ("levels=3", "burn_in=3", "long_run=0")]
    draws = []
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        succeed("run", scan, *options, *few, "--seed", seed, "--out", out)
        result = read_result(tmp_path / out / "scan.h5")
        assert result.arrays["std"].shape == (1, *SHAPE) and result.arrays["std"].max() > 0
        assert result.provenance["weights"]["file"] == "deepen-heads.safetensors"
        draws.append(result.arrays["samples"])
    assert draws[0].numel() == 2 * 64 * 64
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_prior_that_the_solver_does_not_take_is_left_out_with_a_warning(
    tmp_path: Path, scan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mriinv"):
        succeed("run", scan, "--recipe", "deepen-map", "--solver", "cg-sense", "--slices", "0")
    assert [record.getMessage() for record in caplog.records] == [
        "solver 'cg-sense' takes no prior: 'deepen' is not used"
    ]
    assert read_result(tmp_path / "result" / "scan.h5").settings["prior"] is None


def test_a_run_file_and_options_together(tmp_path: Path, scan: Path) -> None:
    Path("run.yaml").write_text(f"recipe: cg-sense\ninput: {scan}\nslices: '0'\nout: there\nsolver: cg-sense\n")
    succeed("run", "--config", "run.yaml", "--slices", "1")
    assert read_result(tmp_path / "there" / "scan.h5").slices == (1,)


def test_an_existing_result_is_replaced(tmp_path: Path, scan: Path) -> None:
    for index in (0, 1):
        succeed("run", scan, "--recipe", "cg-sense", "--slices", index)
        assert read_result(tmp_path / "result" / "scan.h5").slices == (index,)


# Interruptions


@pytest.fixture
def stop_at_the_third(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the third slice that CG-SENSE solves end in an exception."""

    def arrange(error: BaseException) -> None:
        cls = registry().load("solver", "cg-sense")
        original, calls = cls.solve, iter(range(SLICES))

        def solve(self: Any, problem: InverseProblem, *arguments: Any, **options: Any) -> Any:
            if next(calls) == 2:
                raise error
            return original(self, problem, *arguments, **options)

        monkeypatch.setattr(cls, "solve", solve)

    return arrange


def test_an_interruption_keeps_the_slices_that_were_finished(
    tmp_path: Path, scan: Path, stop_at_the_third: Callable[[BaseException], None]
) -> None:
    stop_at_the_third(KeyboardInterrupt())
    result = invoke("run", scan, "--recipe", "cg-sense")
    assert result.exit_code == INTERRUPTED == 130
    assert result.output.strip().splitlines()[-1] == f"interrupted; finished until then: {Path('result/scan.h5')}"
    kept = read_result(tmp_path / "result" / "scan.h5")
    assert kept.slices == (0, 1) and not kept.complete and torch.isfinite(kept.image.abs()).all()
    names = sorted(path.name for path in (tmp_path / "result").iterdir())
    assert names[0].endswith(".slices") and names[1:] == ["scan.h5", "scan.png"]


def test_a_damaged_slice_keeps_those_before_it(tmp_path: Path, data: np.ndarray) -> None:
    damaged = data.copy()
    damaged[2, 0, 3, 3] = np.nan
    write_hdf5("scan.h5", kspace=damaged)
    error = refuse("run", "scan.h5", "--recipe", "cg-sense")
    assert error == "error: scan.h5: kspace: found 1 values that are NaN or infinite in slice 2; expected finite values"
    kept = read_result(tmp_path / "result" / "scan.h5")
    assert kept.slices == (0, 1) and not kept.complete


def test_an_interruption_with_json_reports_what_was_finished(
    tmp_path: Path, scan: Path, stop_at_the_third: Callable[[BaseException], None]
) -> None:
    succeed("run", scan, "--recipe", "cg-sense", "--slices", "0")
    stop_at_the_third(KeyboardInterrupt())
    result = invoke("run", scan, "--recipe", "cg-sense", "--json", "--slices", "0:3")
    (report,) = json.loads(result.stdout)
    assert result.exit_code == INTERRUPTED and not report["complete"] and report["error"] is None
    assert report["remarks"][-1] == f"incomplete; the complete older result stays in {Path('result/scan.h5')}"
    assert read_result(tmp_path / report["result"]).slices == (0, 1)
    assert read_result(tmp_path / "result" / "scan.h5").complete
    names = sorted(path.name for path in (tmp_path / "result").iterdir())
    assert names[0].endswith(".slices") and not any(".slices" in name for name in names[1:])
    assert names[1:] == ["scan.h5", "scan.partial.h5", "scan.partial.png", "scan.png"]


def test_an_interruption_before_anything_was_finished(
    tmp_path: Path, scan: Path, stop_at_the_third: Callable[[BaseException], None]
) -> None:
    stop_at_the_third(KeyboardInterrupt())
    succeed("run", scan, "--recipe", "cg-sense", "--slices", "0:2", "--out", "before")
    result = invoke("run", scan, "--recipe", "cg-sense")
    assert result.exit_code == INTERRUPTED
    assert result.output.strip() == "interrupted; nothing was finished" and not list(tmp_path.glob("result/*"))


def test_a_bad_input_does_not_end_the_others(tmp_path: Path, scan: Path, data: np.ndarray) -> None:
    with_nan(data)
    Path("scan.h5").rename("bad.h5")
    result = invoke("run", "bad.h5", scan, "--recipe", "cg-sense", "--slices", "0", "--json")
    assert result.exit_code == 1 and result.stderr.startswith("error: bad.h5: kspace: found 1 values that are NaN")
    bad, good = json.loads(result.stdout)
    assert bad["error"] in result.stderr and bad["result"] is None and bad["slices"] == []
    assert good["error"] is None and good["complete"] and read_result(tmp_path / good["result"]).slices == (0,)


# Sampling


def test_the_acceleration_of_padded_data_is_that_of_what_was_acquired(
    tmp_path: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = data.copy()
    padded[..., :10] = padded[..., 54:] = 0
    padded[1, :, :4] = 0  # another rectangle, whose mask is no line mask
    captions: list[str] = []
    draw = run.reconstruction_figure
    monkeypatch.setattr(
        run, "reconstruction_figure", lambda *a, **o: (captions.append(o["sampling"]), draw(*a, **o))[1]
    )
    write_hdf5("scan.h5", kspace=padded, mask=np.ones(64))
    options = ("--mask", "random-1d", "--acceleration", "2", "--acs", "14", "--json")
    (report,) = json.loads(succeed("run", "scan.h5", "--recipe", "cg-sense", *options))
    assert [row["acceleration"] for row in report["slices"]] == pytest.approx([2, 2, 2])
    assert "slice 0: 1280 locations of the mask hold zeros in every coil: not sampled" in report["remarks"]
    assert "slice 0: the reference is itself zero-padded: 69 % of its k-space was acquired" in report["remarks"]
    assert captions == ["random-1d, acceleration 2.00"]
    result = read_result(tmp_path / "result" / "scan.h5")
    assert result.arrays["mask"].sum((1, 2)).tolist() == [22 * 64, 22 * 60, 22 * 64]
    assert len(result.remarks[1]) == 3


def test_data_that_were_undersampled_before_state_their_acceleration(data: np.ndarray) -> None:
    lines = make_mask("random-1d", SHAPE, 2.0, 16)[0, 0].numpy()
    write_hdf5("scan.h5", kspace=data * lines, mask=lines)
    assert "slice 0: acceleration 2.00, " in succeed("run", "scan.h5", "--recipe", "cg-sense", "--slices", "0")


# Refusals


def refuse(*arguments: object) -> str:
    """Return the error that a command ends with."""
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output and result.output.count("error: ") == 1
    return result.output[result.output.index("error: ") :].rstrip("\n")


def truncated(data: np.ndarray) -> None:
    path = write_hdf5("scan.h5", kspace=data)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def with_nan(data: np.ndarray) -> None:
    values = data[:1].copy()
    values[0, 1, 5, 5] = np.nan
    write_hdf5("scan.h5", kspace=values)


def without_centre(data: np.ndarray) -> None:
    lines = np.ones(64, dtype=bool)
    lines[30:35] = False
    write_hdf5("scan.h5", kspace=data * lines, mask=lines)


BAD_FILES: dict[str, tuple[Callable[[np.ndarray], Any], str, str]] = {
    "missing": (lambda data: None, "scan.h5: found no such file", "expected a readable k-space file"),
    "a folder": (lambda data: Path("scan.h5").mkdir(), "scan.h5: found a folder with 0 entries", "expected k-space"),
    "empty": (lambda data: Path("scan.h5").touch(), "scan.h5: found an empty file", "expected a readable"),
    "no HDF5": (lambda data: Path("scan.h5").write_text("hello"), "found none of the known formats", "HDF5 file"),
    "truncated": (truncated, "scan.h5: found damaged or unreadable data", "expected an intact HDF5 file"),
    "no k-space": (lambda data: write_hdf5("scan.h5", image=data), "found no 'kspace' (it holds: image)", "k-space"),
    "real": (lambda data: write_hdf5("scan.h5", kspace=data.real), "kspace: found dtype float32", "complex values"),
    "flat": (lambda data: write_hdf5("scan.h5", kspace=data[0, 0]), "kspace: found shape (64, 64)", "(slices, coil"),
    "NaN": (with_nan, "kspace: found 1 values that are NaN", "expected finite values"),
    "zeros": (
        lambda data: write_hdf5("scan.h5", kspace=0 * data),
        "kspace: found no sample in slice 0",
        "at least one",
    ),
    "mask of another shape": (
        lambda data: write_hdf5("scan.h5", kspace=data, mask=np.ones(63)),
        "scan.h5: mask: found shape (63,)",
        "expected (64,) or (64, 64)",
    ),
    "empty mask": (
        lambda data: write_hdf5("scan.h5", kspace=data, mask=np.zeros(64)),
        "scan.h5: mask: found no sampled location",
        "expected at least one",
    ),
    "no centre": (without_centre, "kspace: found nothing to calibrate from in slice 0", "expected at least 12×12"),
}


@pytest.mark.parametrize(("make", "found", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(
    tmp_path: Path, data: np.ndarray, make: Callable[[np.ndarray], Any], found: str, expected: str
) -> None:
    make(data)
    error = refuse("run", "scan.h5", "--recipe", "cg-sense")
    assert error.startswith("error: scan.h5") and "\n" not in error
    assert found in error and expected in error[error.index(found) :]
    assert not list(tmp_path.glob("result/*"))


def test_a_second_input_is_checked_before_the_first_is_reconstructed(tmp_path: Path, scan: Path) -> None:
    Path("bad.h5").write_text("hello")
    refuse("run", scan, "bad.h5", "--recipe", "cg-sense")
    write_hdf5("one.h5", kspace=kspace(1))
    error = refuse("run", scan, "one.h5", "--recipe", "cg-sense", "--slices", "1:3")
    assert error == "error: slices: found 1:3; one.h5 has slices 0 to 0"
    assert not (tmp_path / "result").exists()


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "unknown prior": (["--prior", "deepn"], "unknown prior 'deepn'; did you mean deepen"),
    "unknown solver": (["--solver", "mmcg"], "unknown solver 'mmcg'; did you mean mm-cg?"),
    "unknown operator": (["--operator", "sens"], "unknown operator 'sens'; did you mean sense?"),
    "unknown recipe": (["--recipe", "deepen-mpa"], "unknown recipe 'deepen-mpa'; did you mean deepen-map"),
    "unknown mask": (["--mask", "poison-2d"], "unknown mask 'poison-2d'; did you mean poisson-2d?"),
    "weights as a setting": (["--set", "prior.weights=deepen-small"], "deepen has no setting 'weights'"),
    "unknown setting": (["--set", "solver.tolerence=1"], "mm-cg has no setting 'tolerence'; did you mean 'tolerance'?"),
    "unknown setting of a prior": (
        ["--set", "prior.wieght=1"],
        "deepen has no setting 'wieght'; did you mean 'weight'?",
    ),
    "unknown setting of the operator": (
        ["--set", "operator.corp=1"],
        "sense has no setting 'corp'; did you mean 'crop'",
    ),
    "setting out of range": (
        ["--set", "solver.tolerance=-1"],
        "mm-cg.tolerance: found -1; expected greater than",
    ),
    "unknown part": (["--set", "sovler.tolerance=1"], "part one of operator, prior, solver, mask"),
    "unknown weights": (["--weights", "bset"], "unknown weights of prior 'deepen' 'bset'"),
    "missing weights": (["--weights", "w.safetensors"], "w.safetensors: no such weight file"),
    "weights of a long name": (["--weights", "w" * 300 + ".safetensors"], "no such weight file"),
    "weights without a prior": (
        ["--recipe", "cg-sense", "--weights", "w"],
        "prior: found weights without a name; name one with --prior",
    ),
    "no prior": (["--solver", "langevin"], "cannot combine prior 'none' with solver 'langevin'\n"),
    "samples without a sampler": (["--samples", "4"], "--samples: solver 'mm-cg' gives one image; choose one that"),
    "device that is not there": (["--device", "cuda:99"], "device: found 'cuda:99'; this machine has"),
    "device that does not exist": (
        ["--device", "gpu"],
        "device: found 'gpu'; expected auto, cpu, cuda or cuda:<number>",
    ),
    "device of another kind": (["--device", "meta"], "device: found 'meta'; expected auto, cpu, cuda or cuda:<number>"),
    "slices that are not there": (["--slices", "2:4"], "slices: found 2:4; scan.h5 has slices 0 to 2"),
    "slices backwards": (["--slices", "2:1"], "slices: found 2:1"),
    "slices without end": (["--slices", "0:999999999"], "slices: found 0:999999999"),
    "slices in words": (["--slices", "all"], "slices: found 'all'; expected one slice, such as 3, or the first and"),
    "acceleration without a mask": (["--acceleration", "3"], "error: --acceleration needs --mask"),
    "a mask without a name": (
        ["--acceleration", "3", "--acs", "9"],
        "error: --acceleration and --acs need --mask",
    ),
    "acceleration below one": (["--mask", "random-1d", "--acceleration", "0"], "mask.acceleration: found 0.0"),
    "acceleration beyond the grid": (["--mask", "random-1d", "--acceleration", "99"], "mask: acceleration: found 99"),
    "calibration beyond the grid": (["--mask", "random-1d", "--acs", "65"], "mask: acs: found 65"),
    "calibration beyond the samples": (
        ["--mask", "random-1d", "--acs", "30"],
        "found 30, which takes 30 samples",
    ),
    "seed without end": (["--seed", "9" * 30], "seed: found 99999"),
    "missing run file": (
        ["--config", "run.yaml"],
        "run.yaml: found No such file or directory; expected a readable YAML",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    Path("scan.h5").symlink_to(scan)
    error = refuse("run", "scan.h5", *options)
    assert message in error and ("\n" not in error or "cannot combine" in error)
    assert not (tmp_path / "result").exists()


def test_an_impossible_combination_says_what_would_work(scan: Path) -> None:
    lines = refuse("run", scan, "--solver", "langevin").splitlines()
    assert lines[1:3] == ["  langevin requires:  gradient", "  no prior provides:  nothing"]
    assert lines[3].startswith("  priors for langevin: ") and "deepen" in lines[3]


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_a_training_takes_some_time(minutes: str) -> None:
    result = invoke("train", "--prior", "deepen", "--out", "x", "--max-time", minutes)
    assert result.exit_code == 2 and "--max-time" in result.output and not Path("x").exists()


@pytest.mark.parametrize("command", [["--acceleration", "fast"], ["--samples", "0"], ["--seed", "-1"], ["--sedd", "1"]])
def test_options_that_click_refuses(command: list[str]) -> None:
    result = invoke("run", *command)
    assert result.exit_code == 2 and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((COILS, *SHAPE), np.complex64), "coil_maps: found an image whose maps are zero everywhere; expected"),
        (np.zeros((COILS, 3, 3), np.complex64), "coil_maps: found complex64 (4, 3, 3); expected complex (4, 64, 64)"),
        (np.full((COILS, *SHAPE), np.nan, np.complex64), "coil_maps: found NaN or infinity; expected finite values"),
    ],
)
def test_bad_coil_maps(tmp_path: Path, scan: Path, maps: np.ndarray, message: str) -> None:
    np.save("maps.npy", maps)
    assert message in refuse("run", scan, "--recipe", "cg-sense", "--maps", "maps.npy")
    assert not list(tmp_path.glob("result/*"))


def test_data_that_were_undersampled_before_get_no_further_mask(data: np.ndarray) -> None:
    lines = make_mask("random-1d", SHAPE, 2.0, 16)[0, 0].numpy()
    write_hdf5("scan.h5", kspace=data * lines, mask=lines)
    error = refuse("run", "scan.h5", "--recipe", "cg-sense", "--mask", "random-1d")
    assert error.startswith("error: scan.h5[0]: kspace: found already undersampled data (acceleration 2.00); expected")


# Weights


@pytest.fixture
def weights(working_folder: Path) -> Path:
    save_weights(Path("tiny.safetensors"), make_prior("deepen", weights="none", **TINY), {})
    return Path("tiny.safetensors")


def test_weights_of_another_architecture(scan: Path, weights: Path) -> None:
    error = refuse("run", scan, "--weights", weights, "--set", "prior.widths=[8]")
    assert error.startswith("error: tiny.safetensors: another architecture: widths: found (8,); trained with (4,)")
    assert "\n" not in error


def test_a_file_that_holds_no_weights(scan: Path) -> None:
    Path("tiny.safetensors").write_bytes(b"\x00garbage" * 20)
    error = refuse("run", scan, "--weights", "tiny.safetensors")
    assert error.startswith("error: tiny.safetensors: not a readable safetensors file")


def test_tensors_without_a_description(scan: Path) -> None:
    save_file({"a": torch.zeros(1)}, "tiny.safetensors")
    error = refuse("run", scan, "--weights", "tiny.safetensors")
    assert error == "error: tiny.safetensors: metadata 'format': found None; expected 'mriinv-weights-1'"


@pytest.fixture
def catalogued(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A catalogue whose entry for `weights` has another checksum."""
    entry = WeightEntry(
        name="tiny", file=str(weights.resolve()), sha256="0" * 64, licence="none", trained_on="nothing", summary="tiny"
    )
    original = Registry.find

    def find(self: Registry, kind: Any, name: str) -> Registered:
        found = original(self, kind, name)
        return replace(found, entry=found.entry.model_copy(update={"weights": (entry,)})) if kind == "prior" else found

    monkeypatch.setattr(Registry, "find", find)
    yield


@pytest.mark.usefixtures("catalogued")
@pytest.mark.parametrize("options", [[], ["--weights", "tiny"]])
def test_weights_that_are_not_those_of_the_catalogue(scan: Path, options: list[str]) -> None:
    error = refuse("run", scan, "--prior", "deepen", *options)
    assert "tiny.safetensors: checksum: found " in error and "expected 0000000000000000… of the catalogue" in error


@pytest.mark.usefixtures("catalogued")
def test_unknown_weights_list_close_ones(scan: Path) -> None:
    assert "unknown weights of prior 'deepen' 'tyni'; did you mean tiny?" in refuse("run", scan, "--weights", "tyni")


# Places that cannot be written


def test_a_file_in_the_place_of_the_output_folder(scan: Path) -> None:
    Path("taken").write_text("mine")
    for out in ("taken", "taken/below"):
        error = refuse("run", scan, "--recipe", "cg-sense", "--out", out)
        assert error.startswith(f"error: {Path(out)}: found ") and error.endswith("expected a writable place")
    assert Path("taken").read_text() == "mine"


def test_a_folder_in_the_place_of_the_result(scan: Path) -> None:
    Path("result/scan.h5").mkdir(parents=True)
    error = refuse("run", scan, "--recipe", "cg-sense")
    assert "scan.h5: found that it cannot be written" in error


def test_an_input_is_not_overwritten(data: np.ndarray) -> None:
    path = write_hdf5("scan.h5", kspace=data)
    before = path.read_bytes()
    error = refuse("run", "scan.h5", "--recipe", "cg-sense", "--out", ".")
    assert "found the result of scan.h5 in the place of an input" in error and "expected another --out" in error
    np.savez("scan.npz", ksp=data[0])
    error = refuse("run", "scan.npz", "--recipe", "cg-sense", "--out", ".")
    assert error.startswith("error: scan.h5: found a file that is no result of mriinv; expected another --out")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["scan.png", "scan.partial.h5", "scan.partial.png"])
def test_files_of_others_are_not_overwritten(scan: Path, name: str) -> None:
    Path("result").mkdir()
    Path("result", name).write_text("mine")
    error = refuse("run", scan, "--recipe", "cg-sense")
    assert error.startswith(
        f"error: {Path('result', name)}: found a file that is no result of mriinv; expected another"
    )
    assert Path("result", name).read_text() == "mine"


def test_an_older_figure_is_replaced_with_its_result(tmp_path: Path, scan: Path) -> None:
    for index in (0, 1):
        succeed("run", scan, "--recipe", "cg-sense", "--slices", index)
    figure = tmp_path / "result" / "scan.png"
    before = figure.read_bytes()
    succeed("run", scan, "--recipe", "cg-sense", "--slices", "0")
    assert figure.read_bytes() != before


def test_two_inputs_do_not_share_a_result(scan: Path, data: np.ndarray) -> None:
    shutil.copy(scan, "scan.h5")
    np.savez("scan.npz", ksp=data[0])
    error = refuse("run", "scan.h5", "scan.npz", "--recipe", "cg-sense")
    assert "scan.h5: found the result of scan.npz in the place of the result of scan.h5; expected another" in error
    options = ("--recipe", "cg-sense", "--parameter", "solver.regularisation", "--bounds", "0.01", "0.1")
    lines = ("--mask", "equispaced-1d", "--acceleration", "2", "--acs", "14")
    assert "solver.regularisation" in succeed("tune", "scan.h5", "scan.npz", *options, *lines)  # writes no result


def test_linked_scans_have_results_by_the_names_of_their_links(scan: Path) -> None:
    for subject in ("one", "two"):  # as data managers keep the files of a study
        Path("store", subject).parent.mkdir(exist_ok=True)
        shutil.copy(scan, Path("store", subject))
        Path(subject).mkdir()
        Path(subject, "scan.h5").symlink_to(Path("store", subject).resolve())
    succeed("run", "one/scan.h5", "two/scan.h5", "--recipe", "zero-filled", "--slices", "0")
    assert [read_result(Path("result", subject, "scan.h5")).complete for subject in ("one", "two")] == [True, True]
