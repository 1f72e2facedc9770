"""``mriinv run`` with a sampler: what the result holds, and the calibration beside the weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mriinv import make_mask, make_prior, make_solver, simulate_acquisition
from mriinv.calibration import UNRELATED, Calibration, calibration_path, write_calibration
from mriinv.compose import find_weights
from mriinv.config import build_config
from mriinv.data.results import read_result
from mriinv.errors import SettingsError
from mriinv.files import sha256
from mriinv.setup import set_up, settle
from mriinv.uncertainty import quantile
from support import invoke, succeed

SOLVER = "preconditioned-langevin"
SHORT = {"samples": 4, "chains": 2, "levels": 3, "burn_in": 2, "thinning": 3, "long_run": 0}
SHAPE = (40, 36)


@pytest.fixture
def folder(working_folder: Path) -> Path:
    """A folder with a small scan and a copy of the weights that ship: without training MAP takes hundreds of steps."""
    full = simulate_acquisition(shape=SHAPE, coils=3, seed=2)
    np.savez("scan.npz", ksp=full.undersampled(make_mask("poisson-2d", SHAPE, 4, seed=0)).kspace[0].numpy())
    shipped = find_weights("deepen", None)
    assert shipped is not None
    shutil.copy(shipped.path, "copy.safetensors")
    return working_folder


def command(*options: str, **settings: object) -> list[str]:
    assigned = [f"--set=solver.{name}={value}" for name, value in {**SHORT, **settings}.items()]
    common = ("--prior", "deepen", "--weights", "copy.safetensors")
    return ["run", "scan.npz", *common, "--solver", SOLVER, *assigned, "--out", "out", *options]


def run(*options: str, **settings: object) -> str:
    return succeed(*command(*options, **settings))


def calibration(**changes: object) -> Calibration:
    settings = make_solver(SOLVER, **SHORT).settings.model_dump(mode="json", exclude=UNRELATED)
    prior = make_prior("deepen", weights="copy.safetensors")
    values = {
        "prior": "deepen",
        "prior_settings": {name: getattr(prior.settings, name) for name in sorted(prior.adjustable)},
        "weights_sha256": sha256(Path("copy.safetensors")),
        "operator": "sense",
        "solver": SOLVER,
        "solver_settings": settings,
        "draws": 4,
        "temperature": 2.5,
        "slices": 1,
        "source": "test",
        "seed": 0,
        "coverage": (),
    }
    return Calibration(**{**values, **changes})


def test_a_posterior_has_mean_map_spread_quantiles_and_diagnostics(folder: Path) -> None:
    text = run(long_run=12)
    result = read_result(folder / "out" / "scan.h5")
    arrays = {name: value[0] for name, value in result.arrays.items()}
    magnitude = arrays["samples"].flatten(0, 1).abs()
    assert magnitude.shape == (4, *SHAPE)
    torch.testing.assert_close(result.image[0], arrays["samples"].flatten(0, 1).mean(0))
    torch.testing.assert_close(arrays["magnitude_std"], magnitude.std(0))
    torch.testing.assert_close(arrays["mean_magnitude"], magnitude.mean(0))
    torch.testing.assert_close(arrays["quantiles"][2], magnitude.quantile(0.5, dim=0))
    assert arrays["map"].shape == SHAPE and not torch.equal(arrays["map"], result.image[0])
    assert "half_width_90" not in arrays
    assert result.history[0]["energy"].shape == (2, 4)  # chains, steps from the first draw on
    assert result.solution["chains"].item() == 2 and result.solution["samples"].item() == 4
    assert result.solution["split_rhat"].item() >= 1  # of the longer chain
    assert "4 samples of 2 chains, split-R̂ at most " in text and "a longer chain moves by " in text
    run("--restart")
    found = read_result(folder / "out" / "scan.h5")
    assert "split_rhat" not in found.solution and not found.solution["converged"].item()
    assert any("too few steps to say whether the chains have mixed" in one for one in found.remarks[0])


def test_the_calibration_beside_the_weights_is_used(folder: Path) -> None:
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration(scale={"2D": {0.9: 3.0}}))
    assert "calibrated by copy.calibration.json, fitted on 1 slice under its masks with 4 samples" in run()
    result = read_result(folder / "out" / "scan.h5")
    assert result.settings["solver"]["settings"]["temperature"] == 2.5
    expected = 3.0 * (1 + 1 / 4) ** 0.5 * result.arrays["magnitude_std"]
    torch.testing.assert_close(result.arrays["half_width_90"], expected)
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration())
    run()  # nothing is kept of what another calibration made
    result = read_result(folder / "out" / "scan.h5")
    expected = quantile(0.9, 4) * (1 + 1 / 4) ** 0.5 * result.arrays["magnitude_std"]
    torch.testing.assert_close(result.arrays["half_width_90"], expected)
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration(scale={"lines": {0.9: 3.0}}))
    assert "no half_width_90: nothing was calibrated for sampling of this kind (2D)" in run("--restart")
    assert "half_width_90" not in read_result(folder / "out" / "scan.h5").arrays


def test_one_sample_has_no_interval(folder: Path) -> None:
    one = calibration().solver_settings | {"chains": 1}
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration(solver_settings=one))
    assert "no half_width_90: one sample has no standard deviation" in run(samples=1, chains=1)
    assert "half_width_90" not in read_result(folder / "out" / "scan.h5").arrays


def test_a_posterior_is_cropped(folder: Path) -> None:
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration())
    run()
    whole = read_result(folder / "out" / "scan.h5").arrays
    run("--crop", "30", "20")
    cropped = read_result(folder / "out" / "scan.h5").arrays
    for name in ("std", "magnitude_std", "quantiles", "samples", "map", "half_width_90"):
        torch.testing.assert_close(cropped[name], whole[name][..., 5:35, 8:28])


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"weights_sha256": "0" * 64}, (), "it was fitted for other weights"),
        ({}, ("solver.thinning=6",), "thinning: found 6; it was fitted for 3"),
        ({}, ("prior.weight=2",), "weight: found 2.0; it was fitted for 1.0"),
        ({"operator": "deepinv"}, (), "operator: found sense; it was fitted for deepinv"),
        ({"solver_settings": {"thinning": 3}}, (), "burn_in: found 2; it was fitted for none"),
        ({}, ("solver.temperature=1.5",), ""),
        ({"solver": "mala"}, (), ""),
    ],
)
def test_a_calibration_for_something_else_is_not_used(folder: Path, changes, settings, said) -> None:
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration(**changes))
    options = {
        "prior": {"name": "deepen", "weights": "copy.safetensors"},
        "solver": {"name": SOLVER, "settings": SHORT},
    }
    config = build_config(None, None, options, settings)
    found = set_up(config)
    assert found.remark == (f"copy.calibration.json is not used: {said}" if said else "")
    assert found.calibration is None and found.config == settle(config)


def test_a_calibration_that_is_named_is_used(folder: Path) -> None:
    write_calibration(Path("own.json"), calibration(scale={"2D": {0.9: 3.0}}, temperature=1.5))
    write_calibration(calibration_path(folder / "copy.safetensors"), calibration())
    assert "calibrated by own.json" in run("--calibration", "own.json")
    result = read_result(folder / "out" / "scan.h5")
    assert result.settings["solver"]["settings"]["temperature"] == 1.5
    expected = 3.0 * (1 + 1 / 4) ** 0.5 * result.arrays["magnitude_std"]
    torch.testing.assert_close(result.arrays["half_width_90"], expected)


@pytest.mark.parametrize(
    ("changes", "assignment", "said"),
    [
        ({"weights_sha256": "0" * 64}, "solver.thinning=3", "calibration own.json: it was fitted for other weights"),
        ({}, "solver.thinning=6", "calibration own.json: thinning: found 6; it was fitted for 3"),
        ({}, "solver.temperature=1.5", "calibration own.json: it sets solver.temperature, which is set already"),
        (
            {"solver": "mala"},
            "solver.thinning=3",
            f"calibration own.json: solver: found {SOLVER}; it was fitted for mala",
        ),
    ],
)
def test_a_calibration_that_is_named_and_does_not_fit_is_refused(folder: Path, changes, assignment, said) -> None:
    write_calibration(Path("own.json"), calibration(**changes))
    result = invoke(*command("--calibration", "own.json", "--set", assignment))
    assert result.exit_code == 1 and said in result.stderr
    assert not (folder / "out").exists()


def test_a_calibration_that_is_named_must_be_there_and_needs_weights(folder: Path) -> None:
    missing = invoke(*command("--calibration", "none.json"))
    assert missing.exit_code == 1 and "none.json: found no file; expected a calibration" in missing.stderr
    write_calibration(Path("own.json"), calibration())
    untrained = {"prior": {"name": "deepen", "weights": "none"}, "solver": {"name": SOLVER}, "calibration": "own.json"}
    with pytest.raises(SettingsError, match="it was fitted for weights; found none"):
        set_up(build_config(None, None, untrained, ()))


def test_the_calibration_that_ships_is_for_the_sampler_as_it_is() -> None:
    """A setting that is new, or has another default, would end its use without a word in any other test."""
    found = set_up(build_config("deepen-posterior", None, {}, ()))
    assert found.calibration is not None and found.remark.startswith("calibrated by deepen-heads.calibration.json")


def test_a_damaged_calibration_is_refused(folder: Path) -> None:
    calibration_path(folder / "copy.safetensors").write_text(json.dumps({"format": "other"}))
    result = invoke(*command())
    assert result.exit_code == 1 and "copy.calibration.json: format" in result.stderr


def test_fully_sampled_data_have_no_calibrated_interval(folder: Path) -> None:
    np.savez("scan.npz", ksp=simulate_acquisition(shape=SHAPE, coils=3, seed=2).kspace[0].numpy())
    for scale in ({"2D": {0.9: 3.0}, "lines": {0.9: 3.0}}, None):
        write_calibration(calibration_path(folder / "copy.safetensors"), calibration(scale=scale))
        assert "no half_width_90: nothing was calibrated for sampling of this kind (full)" in run("--restart")
        assert "half_width_90" not in read_result(folder / "out" / "scan.h5").arrays
