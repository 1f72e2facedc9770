"""Calibration of samplers whose posterior is known, its file, and ``mriinv calibrate``."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import t

from mriinv import Reconstruction, Sampler, Samples, make_mask, make_prior, make_solver, simulate_acquisition
from mriinv.calibration import Calibration, calibration_path, read_calibration, write_calibration
from mriinv.calibration_fit import _cases, calibrate
from mriinv.config import RunConfig
from mriinv.data.fastmri import write_fastmri
from mriinv.data.mask_choice import MaskChoice
from mriinv.errors import InputError, MriinvError
from mriinv.files import sha256
from mriinv.numerics.noise import complex_noise
from mriinv.report.calibration_figure import calibration_figure
from mriinv.testing.analytic import gaussian_problem
from mriinv.uncertainty import LEVELS, coverage, deviations, quantile
from mriinv.validation import Case
from mriinv.weights import save_weights
from support import invoke, succeed

NOISE = 0.02
SHAPE = (48, 40)
PROBLEM, PRIOR, HESSIAN = gaussian_problem((14, 12), samples=100)
FACTOR = torch.linalg.inv(torch.linalg.cholesky(HESSIAN)).mH  # H⁻¹ = FACTOR FACTORᴴ


class Exact(Sampler):
    """Independent draws from exp(−C/T), C the quadratic cost of `gaussian_problem`."""

    name = "exact"
    requires = (frozenset({"energy"}),)
    noise = NOISE

    def chain(self, *arguments, **options):
        raise NotImplementedError

    def solve(self, problem, prior, *, initial, generator, monitor):
        width = self.settings.temperature**0.5 * self.noise
        draws = posterior_draws(problem.data, width, self.settings.samples, generator)[None, :, None]
        return Samples(draws.mean((0, 1)), torch.ones(1, dtype=torch.bool), torch.ones(1), draws=draws)


def posterior_draws(data, width, count, generator):
    """Return draws ``(count, y, x)`` with covariance width² H⁻¹ per real component around the posterior mean."""
    z = complex_noise((count, len(FACTOR)), 1.0, generator, torch.complex128)
    mean = PROBLEM.operator.adjoint(data).flatten() @ (FACTOR @ FACTOR.mH).T
    return (mean + width * z @ FACTOR.T).view(count, *PROBLEM.operator.shape)


def problems(width: float, count: int, seed: int = 0) -> list[Case]:
    """Return cases whose references are draws from the posterior at `width` times the temperature."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for number in range(count):
        data = complex_noise(PROBLEM.data.shape, 1.0, generator, torch.complex128)
        reference = posterior_draws(data, width**0.5 * NOISE, 1, generator)
        cases.append(Case(f"case {number}", replace(PROBLEM, data=data, noise_std=NOISE), reference))
    return cases


def sampler(samples: int = 20) -> Exact:
    return Exact(samples=samples)


def using(solver: Sampler) -> Reconstruction:
    return Reconstruction(PRIOR, solver, "cpu")


@pytest.mark.parametrize(("width", "samples"), [(1.0, 20), (4.0, 6), (0.3, 60)])
def test_a_temperature_that_is_wrong_by_a_known_factor_is_recovered(width, samples):
    cases = problems(width, 40)
    other = problems(width, 20, seed=1)
    found = calibrate({"one": cases[:20], "two": cases[20:]}, {"other": other}, using(sampler(samples)))
    assert found.temperature == pytest.approx(width, rel=0.06)  # it stops at a coverage of 0.900 ± 0.005
    assert found.fitted == ("one", "two") and list(found.after) == ["one", "two", "other"]
    rows = {row.mask: row for row in found.coverage()}
    assert [row.fitted for row in rows.values()] == [True, True, False]
    pooled = 0.5 * (rows["one"].after[0.9] + rows["two"].after[0.9])
    assert pooled == pytest.approx(0.9, abs=0.005)
    for level in LEVELS:
        assert rows["other"].after[level] == pytest.approx(level, abs=0.03)
    spread = ((width + 1 / samples) / (1 + 1 / samples)) ** 0.5  # of error/std before
    expected = 2 * t.cdf(quantile(0.9, samples) / spread, samples - 1) - 1
    assert rows["other"].before[0.9] == pytest.approx(expected, abs=0.03)
    assert found.scale is None and found.psnr_margin is None


def test_a_real_sampler_is_calibrated_too():
    cases = problems(2.5, 3)
    langevin = make_solver("langevin", samples=24, chains=24, batch=24, burn_in=120, long_run=0)
    found = calibrate({"all": cases}, {}, using(langevin))
    assert coverage(found.after["all"], 0.9) == pytest.approx(0.9, abs=0.005)
    assert found.temperature == pytest.approx(2.5, rel=0.25)


def test_conformal_intervals_hold_for_errors_that_are_not_gaussian():
    """References whose errors are Laplacian: no temperature fits all levels, the scale does."""
    cases = problems(1.0, 60)
    generator = torch.Generator().manual_seed(5)
    heavy = []
    for case in cases:
        u = torch.rand(case.reference.shape, generator=generator, dtype=torch.float64) - 0.5
        factor = -u.sign() * (1 - 2 * u.abs()).log() * 0.1
        heavy.append(replace(case, reference=case.reference * torch.exp(factor)))
    fit, test = heavy[:30], heavy[30:]
    found = calibrate({"fit": fit}, {"new": test}, using(sampler(40)), conformal=True)
    row = found.coverage()[1]
    assert row.after[0.5] > 0.55  # Gaussian intervals that are right at 90 %
    for level in LEVELS:
        assert row.conformal[level] == pytest.approx(level, abs=0.035)
        assert coverage(found.after["fit"], level, found.scale["2D"][level]) == pytest.approx(level, abs=1e-3)


def test_masks_in_2d_and_of_lines_have_a_scale_each():
    """Draws three times too narrow under lines: one scale for both would leave neither at its level."""
    dots, lines = problems(1.0, 24), [replace(case, sampling="lines") for case in problems(9.0, 24, seed=1)]
    fit, test = {"dots": dots[:12], "bars": lines[:12]}, {"other bars": lines[12:], "other dots": dots[12:]}
    found = calibrate(fit, test, using(sampler(40)), conformal=True, keep_temperature=True)
    assert found.temperature == 1 and list(found.scale) == ["2D", "lines"]
    assert found.scale["lines"][0.9] == pytest.approx(3 * found.scale["2D"][0.9], rel=0.1)
    for row in found.coverage():
        assert row.conformal[0.9] == pytest.approx(0.9, abs=0.02)
    alone = calibrate({"dots": dots[:2]}, test, using(sampler()), conformal=True)
    assert [row.conformal is None for row in alone.coverage()] == [False, True, False]


def test_few_slices_widen_intervals_and_do_not_narrow_them():
    """Draws twice too wide: 90 % needs 9 slices before its interval is narrower than that of exact draws."""
    wide, narrow = problems(0.25, 9), problems(4.0, 2, seed=1)
    few = calibrate({"a": wide[:8]}, {}, using(sampler(40)), conformal=True, keep_temperature=True)
    exact = {level: quantile(level, 40) for level in LEVELS}
    assert few.scale["2D"][0.9] == exact[0.9] and few.scale["2D"][0.95] == exact[0.95]
    assert few.scale["2D"][0.68] == pytest.approx(0.5 * exact[0.68], rel=0.1)
    assert "narrower 0.9 intervals, 2D, need 9 slices, here are 8" in few.remarks
    assert few.coverage()[0].conformal[0.9] == few.coverage()[0].after[0.9]
    enough = calibrate({"a": wide}, {}, using(sampler(40)), conformal=True, keep_temperature=True)
    assert enough.scale["2D"][0.9] == pytest.approx(0.5 * exact[0.9], rel=0.1)
    wider = calibrate({"a": narrow}, {}, using(sampler(40)), conformal=True, keep_temperature=True)
    assert wider.scale["2D"][0.9] == pytest.approx(2 * exact[0.9], rel=0.15)
    assert not any("narrower" in remark for remark in wider.remarks)


def test_the_bound_on_the_psnr_is_conformal():
    cases = problems(1.0, 250)
    exact = sampler(10)
    reconstruct = using(exact)
    found = calibrate({"a": cases[:99]}, {}, using(exact), conformal=True)
    assert set(found.psnr_margin) == set(LEVELS) and found.remarks == ()
    shortfalls = []
    record = calibration(psnr_margin=found.psnr_margin, scale=found.scale)
    held = dict.fromkeys(LEVELS, 0)
    for number, case in enumerate(cases):
        samples = reconstruct(case.problem, seed=number)
        true, bound = case.psnr_of(samples.image), {level: record.psnr_bound(samples, level, None) for level in LEVELS}
        shortfalls.append(bound[0.5] + found.psnr_margin[0.5] - true)
        for level in LEVELS:
            held[level] += bound[level] <= true
    ranked = sorted(shortfalls[:99])  # of the same draws: the seed of a slice is its number
    for level, rank in zip(LEVELS, (50, 68, 90, 95), strict=True):
        assert found.psnr_margin[level] == pytest.approx(ranked[rank - 1])
        assert held[level] / 250 > level - 0.1


def test_a_bound_that_needs_more_slices_says_how_many():
    cases = problems(1.0, 18)
    harder = [replace(case, reference=1.3 * case.reference) for case in cases[9:]]
    masks = {"a": cases[:9], "b": harder}
    options = {"conformal": True, "keep_temperature": True}
    found = calibrate(masks, {}, using(sampler(6)), **options)
    assert set(found.psnr_margin) == {0.5, 0.68, 0.9}
    assert "a bound on the PSNR with probability 0.95 needs 19 slices, here are 9" in found.remarks
    easy, worse = (calibrate({mask: cases}, {}, using(sampler(6)), **options) for mask, cases in masks.items())
    assert found.psnr_margin[0.9] >= worse.psnr_margin[0.9] > easy.psnr_margin[0.9]  # the harder mask decides
    few = calibrate({"a": cases[:2]}, {}, using(sampler(6)), conformal=True)
    assert set(few.psnr_margin) == {0.5} and "needs 9 slices, here are 2" in " ".join(few.remarks)


def test_draws_that_agree_cannot_be_calibrated():
    cases = problems(1.0, 2)

    class Stuck(Exact):
        noise = 0.0

    with pytest.raises(MriinvError, match="the draws agree where they are wrong"):
        calibrate({"a": cases}, {}, using(Stuck(samples=3)))


def calibration(**changes) -> Calibration:
    fields = {
        "prior": "deepen",
        "prior_settings": {"weight": 1.0},
        "weights_sha256": "0" * 64,
        "operator": "sense",
        "solver": "langevin",
        "solver_settings": {"epsilon": None, "form": "eq16"},
        "draws": 16,
        "temperature": 1.3,
        "scale": {"2D": {0.5: 0.6, 0.9: 1.7}},
        "psnr_margin": {0.9: -0.5},
        "slices": 3,
        "source": "scan.h5",
        "seed": 0,
        "coverage": ({"mask": "poisson-2d 4", "fitted": True, "before": {0.9: 0.8}, "after": {0.9: 0.9}},),
    }
    return Calibration(**{**fields, **changes})


def test_a_calibration_survives_its_file(tmp_path):
    path = calibration_path(tmp_path / "deepen-heads.v2.safetensors")
    assert path.name == "deepen-heads.v2.calibration.json"
    write_calibration(path, calibration())
    assert read_calibration(path) == calibration() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("temperature"), r"temperature: found nothing"),
        (lambda c: c.update(temperature=-1), r"temperature: found -1; expected greater than 0"),
        (lambda c: c.update(temperature="NaN"), r"temperature: found 'NaN'; expected a finite number"),
        (lambda c: c.update(format="mriinv-weights-1"), r"format: found 'mriinv-weights-1'; expected 'mriinv-cal"),
        (lambda c: c.update(temprature=1), r"temprature: found 1"),
        (lambda c: c.update(scale={"lines": {"1.5": 2}}), r"scale.lines.1.5"),
        (lambda c: c.update(scale={"lines": {"0.5": 0}}), r"scale.lines.0.5: found 0"),
        (lambda c: c.update(scale={"rings": {"0.5": 1}}), r"scale.rings"),
        (lambda c: c.update(weights_sha256="../x"), r"weights_sha256"),
        (lambda c: c["coverage"][0].update(after={"0.9": 1.2}), r"coverage.0.after.0.9: found 1.2"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, message):
    content = json.loads(calibration().model_dump_json())
    change(content)
    path = tmp_path / "x.calibration.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"x\.calibration\.json: {message}"):
        read_calibration(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 10**5, b" " * (2**20 + 1), b"1e999"])
def test_garbage_is_no_calibration(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_calibration(path)


def test_only_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, found in (("pipe", "no regular file"), ("nothing", "no file")):
        with pytest.raises(InputError, match=found):
            read_calibration(tmp_path / name)


def test_the_half_width_is_that_of_the_coverage():
    (case,) = problems(1.0, 1)
    samples = sampler(8)(case.problem, PRIOR)
    compared = deviations(samples, case.reference)
    error = (samples.draws.abs().mean((0, 1)) - case.reference.abs()).abs()
    both = calibration(scale={"2D": {0.9: 1.2}, "lines": {0.9: 3.1}}, draws=8)
    more = both.model_copy(update={"draws": 30}).half_width(samples, 0.9, "2D") / both.half_width(samples, 0.9, "2D")
    torch.testing.assert_close(more, torch.full_like(more, quantile(0.9, 8) / quantile(0.9, 30)))  # of Student's t
    for record, sampling, limit in (
        (both, "2D", 1.2),
        (both, "lines", 3.1),
        (calibration(scale=None), "2D", None),
    ):
        inside = (error <= record.half_width(samples, 0.9, sampling)).double().mean()
        assert record.applies(sampling) and float(inside) == pytest.approx(coverage([compared], 0.9, limit))
    with pytest.raises(InputError, match=r"scale.2D: found no level 0\.68; expected 0\.5, 0\.9"):
        calibration().half_width(samples, 0.68, "2D")
    assert not calibration().applies("lines")
    with pytest.raises(InputError, match=r"scale.lines: found no level 0\.9; expected none: calibrate"):
        calibration().half_width(samples, 0.9, "lines")
    with pytest.raises(InputError, match="samples: found one draw; expected two at least"):
        both.half_width(sampler(1)(case.problem, PRIOR), 0.9, "2D")
    with pytest.raises(InputError, match="calibrate with --conformal, on such masks and enough slices"):
        calibration(psnr_margin=None).psnr_bound(samples, 0.9, None)


def test_the_figure_shows_each_mask_before_and_after(monkeypatch):
    figures: list[Figure] = []
    monkeypatch.setattr("mriinv.report.calibration_figure.save_figure", lambda figure, path: figures.append(figure))
    found = calibrate({"fit": problems(4.0, 6)}, {"new": problems(4.0, 2, seed=1)}, using(sampler()))
    calibration_figure("x.png", found)
    for row, errors in ((figures[0].axes[:3], found.before), (figures[0].axes[3:], found.after)):
        _, fit, new = row[0].lines
        assert fit.get_ydata().tolist() == [coverage(errors["fit"], level) for level in fit.get_xdata()]
        assert (fit.get_label(), new.get_label(), fit.get_linestyle(), new.get_linestyle()) == (
            "fit",
            "new (test)",
            "-",
            "--",
        )
        assert "Student, 20 draws" in [text.get_text() for text in row[1].get_legend().get_texts()]
        std, error = row[2].lines[0].get_data()
        assert (error / std).mean() == pytest.approx(2 if errors is found.before else 1, rel=0.15)


def test_the_figure_shows_what_the_scale_covers(monkeypatch):
    figures: list[Figure] = []
    monkeypatch.setattr("mriinv.report.calibration_figure.save_figure", lambda figure, path: figures.append(figure))
    cases = {"fit": problems(4.0, 6)}, {"new": problems(4.0, 2, seed=1)}
    found = calibrate(*cases, using(sampler()), conformal=True, keep_temperature=True)
    calibration_figure("x.png", found)
    dots = [line for line in figures[0].axes[3].lines if line.get_marker() == "o" and len(line.get_xdata())]
    for line, row in zip(dots, found.coverage(), strict=True):
        assert row.conformal is not None and list(row.conformal.values()) == list(line.get_ydata())
    assert dots[0].get_ydata() == pytest.approx(dots[0].get_xdata(), abs=0.01)
    assert not any(line.get_marker() == "o" for line in figures[0].axes[0].lines)


@pytest.fixture
def weights(working_folder: Path, without_gpu: None) -> Path:
    """A small energy, in a folder that commands run in, with a scan and an undersampled one."""
    full = simulate_acquisition(shape=SHAPE, coils=4, slices=3, noise_std=0.01)
    write_fastmri(Path("full.h5"), full)
    write_fastmri(Path("half.h5"), full, mask=make_mask("poisson-2d", SHAPE, 2, 12))
    path = working_folder / "small.safetensors"
    save_weights(path, make_prior("deepen", weights="none", widths=(4,), blocks=1), {})
    return path


QUICK = [f"--set=solver.{setting}" for setting in ("samples=4", "levels=2", "burn_in=2", "thinning=1")]


def test_the_command_writes_a_calibration_a_table_and_a_figure(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mriinv.calibration_fit.ROUNDS", 1)
    options = ("--mask", "poisson-2d:2", "--test-mask", "poisson-2d:3", "--acs", 12, "--slices", 2)
    text = succeed("calibrate", "full.h5", "--weights", weights, *options, *QUICK, "--conformal", "--beside")
    found = read_calibration(calibration_path(weights))
    assert found == read_calibration(Path("calibration/small.calibration.json"))
    assert (found.prior, found.solver, found.slices) == ("deepen", "preconditioned-langevin", 2)
    assert found.weights_sha256 == sha256(weights) and found.source.startswith("full.h5[0]; full.h5[1]")
    assert found.solver_settings["levels"] == 2 and "temperature" not in found.solver_settings
    assert [(row.mask, row.fitted) for row in found.coverage] == [
        ("poisson-2d 2", True),
        ("poisson-2d 3", False),
    ]
    assert f"temperature: {found.temperature:.4g} times" in text and "poisson-2d 3 (test)" in text
    with open("calibration/coverage.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["mask"], row["stage"]) for row in rows] == [
        (row.mask, stage) for row in found.coverage for stage in ("before", "after", "conformal")
    ]
    for row, one in zip(rows[1::3], found.coverage, strict=True):
        assert float(row["coverage_90"]) == pytest.approx(one.after[0.9], rel=1e-5)
    assert imread("calibration/calibration.png").shape[0] > 500


def test_the_temperature_can_be_left_alone(weights: Path) -> None:
    np.save("discs.npy", make_mask("poisson-2d", SHAPE, 2, 12)[0].numpy())
    options = ("--mask", "discs.npy", "--test-mask", "random-1d:2", "--acs", 12, "--slices", 1)
    text = succeed("calibrate", "full.h5", "--weights", weights, *options, *QUICK, "--keep-temperature", "--conformal")
    found = read_calibration(Path("calibration/small.calibration.json"))
    assert found.temperature == 1 and list(found.scale) == ["2D"] and "scale κ, 2D: 50%" in text
    assert [(row.mask, row.conformal is None) for row in found.coverage] == [
        ("discs.npy", False),
        ("random-1d 2", True),
    ]
    with open("calibration/coverage.csv", newline="", encoding="utf-8") as stream:
        assert [row["stage"] for row in csv.DictReader(stream)] == ["before", "after", "conformal", "before", "after"]


def test_without_files_scans_are_simulated(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(seed: int, **_: object):
        return simulate_acquisition(shape=SHAPE, coils=4, seed=seed)

    monkeypatch.setattr("mriinv.data.simulate.simulate_acquisition", small)
    monkeypatch.setattr("mriinv.calibration_fit.ROUNDS", 0)
    options = ("--mask", "poisson-2d:2", "--slices", 2, "--seed", 3, "--out", "new")
    succeed("calibrate", "--weights", weights, *options, *QUICK)
    found = read_calibration(Path("new/small.calibration.json"))
    assert found.source == "simulated scan (seed 3); simulated scan (seed 4)" and found.temperature == 1
    assert "after 0 corrections" in found.remarks[0] and not calibration_path(weights).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("full.h5", "--solver", "mm-cg"), "solver 'mm-cg' has no temperature to fit; expected a sampler"),
        (("full.h5", "--solver", "dps", "--prior", "diffusion"), "solver 'dps' has no temperature to fit"),
        (("full.h5", "--weights", "none"), "a calibration belongs to a weight file"),
        (("full.h5", "--prior", "tv", "--solver", "langevin"), "a calibration belongs to a weight file"),
        (("half.h5",), "found undersampled data"),
        (("full.h5", "half.h5"), "found undersampled data"),
        (("full.h5", "--set", "solver.temperature=2"), "it is what is fitted: leave it out"),
        (("full.h5", "--solver", "langevin", "--set", "solver.epsilon=0.1"), "epsilon sets the temperature"),
        (("full.h5", "--set", "solver.samples=1"), "needs at least 2"),
        (("full.h5", "--mask", "poisson-2d:x"), "acceleration"),
        (("full.h5", "--mask", "own.npy", "--acs", "12"), "every mask is a file, which has its own centre"),
        (("full.h5", "--mask", "poison-2d:2"), "poisson-2d"),
        (("full.h5", "--mask", "poisson-2d:2", "--test-mask", "poisson-2d:2"), "poisson-2d 2 is fitted on"),
        (("none.h5",), "none.h5"),
        (("full.h5", "--out", "full.h5"), "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_draw(weights, monkeypatch, arguments, message):
    def sampled(*_):
        raise AssertionError("sampled")

    monkeypatch.setattr(Sampler, "solve", sampled)
    given = () if {"--prior", "--weights"} & set(arguments) else ("--weights", weights)
    chosen = () if "--mask" in arguments else ("--mask", "poisson-2d:2", "--acs", 12)
    result = invoke("calibrate", *arguments, *given, *chosen)
    assert result.exit_code == 1 and message in result.stderr, result.output


def test_the_best_temperature_that_was_tried_is_kept():
    """A sampler that is far off at every temperature but the one it has."""

    class Deaf(Exact):
        noise = property(
            lambda self: (1 if self.settings.temperature == 1 else 6 / self.settings.temperature**0.5) * NOISE
        )

    found = calibrate({"all": problems(1.5, 6)}, {}, using(Deaf(samples=20)))
    assert found.temperature == 1 and "after 4 corrections" in found.remarks[0]


def test_every_slice_has_a_mask_of_its_own():
    full = simulate_acquisition(shape=(48, 40), coils=4, coil_maps=True)
    config = RunConfig.model_validate({"solver": "langevin", "seed": 3})
    one, other = _cases(MaskChoice(name="poisson-2d"), [full, full], config)
    assert not torch.equal(one.problem.operator.mask, other.problem.operator.mask)
