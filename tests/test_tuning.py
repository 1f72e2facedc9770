"""The search for the best value of a setting, against brute force and closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from mriinv import ComponentSettings, make_problem, setting, simulate_acquisition
from mriinv.compose import Reconstruction, make_solver
from mriinv.config import RunConfig, build_config
from mriinv.data.masks import make_mask
from mriinv.data.preparation import Preparation, prepare_acquisition
from mriinv.data.readers import open_scan
from mriinv.errors import InputError, MriinvError, SettingsError, UnknownNameError
from mriinv.metrics import psnr
from mriinv.registry import registry
from mriinv.report.text import plain, tuning_text
from mriinv.tuning import Tuned, maximise, tune, tuned_run_file
from mriinv.validation import Case

SHAPE = (48, 40)
MASK = {"name": "poisson-2d", "acceleration": 3, "seed": 1}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A noisy scan of three slices, so that neither no nor much regularisation is best."""
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    slices = [simulate_acquisition(shape=SHAPE, coils=4, noise_std=0.05, seed=seed).kspace[0] for seed in range(3)]
    np.savez(path, kspace=np.stack([one.numpy() for one in slices]))
    return path


def config(scan, **changes) -> RunConfig:
    solver = {"name": "cg-sense", "settings": changes.pop("solver", {})}
    return RunConfig.model_validate({"input": scan, "solver": solver, "mask": MASK, "device": "cpu", **changes})


@pytest.mark.parametrize(("peak", "default"), [(0.3, None), (-1.7, 0.0), (1.9, 1.8), (-2.0, None), (2.0, 0.3)])
def test_golden_section_finds_the_maximum(peak, default):
    calls = []

    def quality(x):
        calls.append(x)
        return -(abs(x - peak) ** 1.5)

    grid = sorted({*np.linspace(-2, 2, 7).tolist(), *([] if default is None else [default])})
    assert abs(maximise(quality, grid, 0.01) - peak) < 0.01
    assert len(set(calls)) <= len(grid) + math.ceil(math.log(0.01 / 1.34) / math.log(0.618)) + 2


def test_a_better_hill_on_the_grid_wins_over_a_nearer_one():
    def quality(x):
        return math.exp(-((x + 1) ** 2) / 0.1) + 2 * math.exp(-((x - 1.2) ** 2) / 0.1)

    assert maximise(quality, np.linspace(-2, 2, 7).tolist(), 1e-3) == pytest.approx(1.2, abs=1e-3)


def test_the_tuned_regularisation_is_the_best_of_a_fine_grid(scan):
    told = []
    tuned = tune(
        config(scan), "solver.regularisation", (1e-3, 10.0), monitor=lambda trial, values: told.append((trial, values))
    )
    with open_scan(scan) as opened:
        full = prepare_acquisition(opened.read(1))
    mask = make_mask("poisson-2d", SHAPE, 3, None, 1)
    problem = make_problem(full.undersampled(mask))
    reference = problem.operator.fully_sampled_image(full.kspace)

    def quality(value=None):
        solver = make_solver("cg-sense", regularisation=value)
        image = Reconstruction(solver=solver, device="cpu")(problem).image
        return float(psnr(image, reference, problem.operator.support))

    fine = {value: quality(value) for value in np.logspace(-3, 1, 81)}
    best = max(fine, key=fine.__getitem__)
    assert 2e-3 < best < 5  # the task has an optimum inside
    assert abs(math.log10(tuned.value / best)) < 0.05 + 0.025
    assert tuned.psnr == pytest.approx(quality(tuned.value), abs=1e-6) and not tuned.at_end
    assert tuned.default == pytest.approx(quality(), abs=1e-6)
    values = [value for value, _ in tuned.trials]
    assert len(set(values)) == len(values) < 20
    assert tuned.cases == ["scan.npz[1], poisson-2d 3"]
    assert [trial for trial, _ in told] == list(range(1, len(values) + 1))
    assert told[-1][1] == {"solver.regularisation": values[-1], "psnr": tuned.trials[-1][1]}


def test_an_end_of_the_range_is_reported_as_such(scan):
    tuned = tune(config(scan, slices="0:2"), "solver.regularisation", (5.0, 50.0), tolerance=0.2)
    assert tuned.value == 5.0 and tuned.at_end
    assert tuned.cases == ["scan.npz[0], poisson-2d 3", "scan.npz[1], poisson-2d 3"]
    text = tuning_text(tuned)
    assert "solver.regularisation = 5: mean PSNR" in text and "end of the range" in text
    assert tuned.as_dict()["at_end"] is True


def test_the_run_file_reconstructs_with_the_tuned_value(scan, tmp_path):
    given = config(scan, slices="0", solver={"tolerance": 1e-4})
    tuned = tune(given, "solver.regularisation", (0.1, 1.0), tolerance=0.5)
    path = tmp_path / "tuned.yaml"
    path.write_text(tuned_run_file(given, tuned), encoding="utf-8")
    assert set(yaml.safe_load(path.read_text())) >= {"operator", "solver"}
    loaded = build_config(None, path, {"input": (tmp_path / "other.npz",)}, [])
    assert loaded.solver.settings == {"tolerance": 1e-4, "regularisation": tuned.value}
    assert loaded.mask is None and loaded.slices is None and loaded.prior is None
    assert loaded.input == (tmp_path / "other.npz",)


def test_the_run_file_has_no_maps_of_the_scan_that_was_tuned_on(scan):
    given = config(scan).model_copy(update={"preparation": Preparation(maps=Path("maps.npy"), coils=3)})
    tuned = Tuned("solver.regularisation", 0.1, [(0.1, 30.0)], [], 29.0, (0.1, 1.0))
    method = yaml.safe_load(tuned_run_file(given, tuned))
    assert method["preparation"]["coils"] == 3 and "maps" not in method["preparation"]


def test_simulated_scans_stand_in_for_measured_ones(monkeypatch):
    def small(seed, **_):
        return simulate_acquisition(shape=SHAPE, coils=4, seed=seed)

    monkeypatch.setattr("mriinv.data.simulate.simulate_acquisition", small)
    tuned = tune(config((), seed=5), "solver.regularisation", (1e-4, 1e-1), tolerance=1.0)
    assert tuned.cases == [f"simulated scan (seed {seed}), poisson-2d 3" for seed in (5, 6, 7)]
    assert tuned.psnr >= tuned.default


@pytest.fixture
def declared(monkeypatch):
    """Give CG-SENSE two settings that may declare a range."""

    def declare(**ranges):
        class Settings(ComponentSettings):
            regularisation: float = setting(0.01, "λ", ge=0, tune=ranges.get("regularisation"))
            tolerance: float = setting(1e-6, "ε", unit="1", gt=0, tune=ranges.get("tolerance"))
            max_iterations: int = setting(100, "n", ge=1)

        monkeypatch.setattr(registry().load("solver", "cg-sense"), "Settings", Settings)
        return Settings

    return declare


def test_the_setting_that_declares_a_range_is_the_default(scan, declared):
    settings = declared(regularisation=(0.1, 1.0))
    assert settings.model_fields["regularisation"].json_schema_extra == {"tune": (0.1, 1.0)}
    assert settings.model_fields["tolerance"].json_schema_extra == {"unit": "1"}
    tuned = tune(config(scan), tolerance=1.0)
    assert (tuned.parameter, tuned.bounds) == ("solver.regularisation", (0.1, 1.0))
    assert tune(config(scan), bounds=(0.2, 0.4), tolerance=1.0).bounds == (0.2, 0.4)


def test_what_to_tune_must_be_clear(scan, declared):
    declared()
    with pytest.raises(SettingsError, match=r"no setting declares a range; name one of: solver.regularisation, "):
        tune(config(scan))
    with pytest.raises(SettingsError, match=r"solver.regularisation declares no range"):
        tune(config(scan), "solver.regularisation")
    declared(regularisation=(0.1, 1.0), tolerance=(1e-6, 1e-2))
    with pytest.raises(SettingsError, match=r"solver.regularisation and solver.tolerance declare a range"):
        tune(config(scan))
    with pytest.raises(UnknownNameError, match=r"did you mean solver.regularisation"):
        tune(config(scan), "solver.regularization")


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_ranges_are_positive_and_ordered(scan, bounds):
    with pytest.raises(SettingsError, match="lowest < highest"):
        tune(config(scan), "solver.regularisation", bounds)


def test_images_that_are_not_finite_never_win(scan, monkeypatch):
    found = plain(Tuned("solver.x", 2.0, [(1.0, -math.inf), (2.0, 30.0)], ["a"], -math.inf, (1.0, 3.0)).as_dict())
    assert (found["trials"], found["default"], found["psnr"]) == ([[1.0, None], [2.0, 30.0]], None, 30.0)
    monkeypatch.setattr(Case, "psnr", lambda *_: math.nan)
    with pytest.raises(MriinvError, match=r"no value from 0.1 to 1 gives a finite image"):
        tune(config(scan), "solver.regularisation", (0.1, 1.0))


def test_other_errors(scan, tmp_path):
    with pytest.raises(SettingsError, match=r"max_iterations.*valid integer"):
        tune(config(scan), "solver.max_iterations", (0.5, 20))
    with pytest.raises(SettingsError, match="needs a mask"):
        tune(config(scan, mask=None), "solver.regularisation", (0.1, 1))
    with pytest.raises(SettingsError, match="tolerance"):
        tune(config(scan), "solver.regularisation", (0.1, 1), tolerance=0)
    kspace = np.load(scan)["kspace"][:1] * make_mask("poisson-2d", SHAPE, 2, None, 0).numpy()
    np.savez(tmp_path / "undersampled.npz", kspace=kspace)
    with pytest.raises(InputError, match="fully sampled"):
        tune(config(tmp_path / "undersampled.npz"), "solver.regularisation", (0.1, 1))
