"""Retrospective cases: what they refuse, what they compare, and the score of a training from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mriinv import Prior, Solution, Solver, make_prior, simulate_acquisition
from mriinv.compose import Reconstruction, make_solver
from mriinv.config import TrainConfig
from mriinv.core.delegate import Delegate, Watched
from mriinv.data.masks import make_mask
from mriinv.errors import InputError, SettingsError
from mriinv.manifest import Choice
from mriinv.metrics import psnr
from mriinv.registry import registry
from mriinv.testing.analytic import QuadraticPrior
from mriinv.training.session import ScanValidation
from mriinv.validation import retrospective_case

SHAPE = (48, 40)
SENSE = Choice(name="sense")


@pytest.fixture
def full():
    return simulate_acquisition(shape=SHAPE, coils=4, seed=1)


@pytest.fixture
def mask():
    return make_mask("poisson-2d", SHAPE, 2.0)


def test_the_reference_is_the_truth_or_what_all_samples_show(full, mask):
    case = retrospective_case("known", full, mask, SENSE)
    assert case.reference is full.reference
    assert torch.equal(case.problem.data, full.kspace * mask)
    shown = retrospective_case("measured", replace(full, reference=None), mask, SENSE)
    assert torch.equal(shown.reference, case.problem.operator.fully_sampled_image(full.kspace))


def test_the_psnr_is_that_of_the_cropped_support(full, mask):
    reconstruct = Reconstruction(solver=make_solver("cg-sense"), device="cpu")
    case = retrospective_case("cropped", full, mask, SENSE, crop=(20, 30))
    image = reconstruct(case.problem).image
    centre = (slice(None), slice(14, 34), slice(5, 35))
    support = case.problem.operator.support
    assert support is not None
    expected = psnr(image[centre], full.reference[centre], support[centre])
    assert case.psnr(reconstruct) == pytest.approx(float(expected))
    assert case.psnr(reconstruct) != pytest.approx(replace(case, crop=None).psnr(reconstruct))


def test_a_watched_prior_has_the_noise_and_temperature_of_the_prior_itself() -> None:
    prior, noise = make_prior("deepen", weights="none", widths=(4,)), torch.tensor([0.003])
    image, seen = torch.ones(1, 8, 8, dtype=torch.complex64), []
    watched = Watched(prior, seen.append).at_noise(noise)
    assert torch.equal(watched.energy(image), prior.at_noise(noise).energy(image)) and seen == [image]
    expected = prior.at_noise(noise).temperature(noise)
    assert torch.equal(watched.temperature(noise), expected) and expected != noise.square()
    single = Watched(prior, seen.append).one_view()
    assert torch.equal(single.energy(image), prior.one_view().energy(image)) and seen.pop() is image
    assert not torch.equal(single.energy(image), prior.energy(image)) and seen.pop() is image
    drawn = Watched(prior, seen.append).in_posterior(noise)
    assert torch.equal(drawn.energy(image), prior.in_posterior(noise).energy(image)) and len(seen) == 2


def test_a_watched_prior_is_asked_for_everything_that_a_prior_can_do() -> None:
    """A method of `Prior` that stayed its default here would answer for a prior that has its own."""
    own = {"missing", "settings_for_noise"}  # an error message, and what is asked of the class
    asked = {name for name, value in vars(Prior).items() if callable(value) and not name.startswith("_")} - own
    assert asked - vars(Delegate).keys() - vars(Watched).keys() == set()


def test_what_cannot_be_compared_is_refused(full, mask, monkeypatch):
    with pytest.raises(InputError, match="fully sampled scan to validate on"):
        retrospective_case("", full.undersampled(mask), mask, SENSE)
    monkeypatch.setattr("mriinv_sense.operator.SenseOperator.fully_sampled_image", lambda *_: None)
    with pytest.raises(SettingsError, match="operator 'sense' shows no reference"):
        retrospective_case("", replace(full, reference=None), mask, SENSE)


def test_operators_that_measure_images_are_refused(full, mask):
    with pytest.raises(SettingsError, match="operator 'blur' measures images: no mask of k-space applies"):
        retrospective_case("", full, mask, Choice(name="blur"))


def test_a_training_is_scored_by_its_map_images(full, tmp_path: Path):
    """A quadratic energy ½θ‖x‖² has the MAP image (AᴴA + θI)⁻¹Aᴴb."""
    np.savez(tmp_path / "scan.npz", kspace=full.kspace.numpy())
    config = TrainConfig.model_validate(
        {
            "out": tmp_path,
            "prior": "deepen",
            "validation": {"scans": [tmp_path / "scan.npz"], "masks": [("poisson-2d", 2.0), ("random-1d", 2.0)]},
        }
    )
    prior = QuadraticPrior(theta=0.05).train()
    scores = ScanValidation(config, torch.device("cpu"))(prior)
    assert prior.training
    values = []
    for name in ("poisson-2d", "random-1d"):
        case = retrospective_case("", replace(full, reference=None), make_mask(name, SHAPE, 2.0), SENSE)
        operator = case.problem.operator
        image = operator.solve_normal(case.problem.back_projection(), 0.05, tolerance=1e-7, max_iterations=500).solution
        values.append(float(psnr(image, case.reference, operator.support)))
    found = [scores[name] for name in ("score", "psnr/scan poisson-2d 2", "psnr/scan random-1d 2")]
    assert found == pytest.approx([sum(values) / 2, *values], abs=0.05)
    twice = {"validation": config.validation.model_copy(update={"scans": config.validation.scans * 2})}
    with pytest.raises(SettingsError, match="found 'scan poisson-2d 2' twice"):
        ScanValidation(config.model_copy(update=twice), torch.device("cpu"))


def test_scans_of_one_name_are_told_apart_by_their_folders(full, tmp_path: Path):
    scans = [tmp_path / subject / "scan.npz" for subject in ("first", "second")]
    for scan in scans:
        scan.parent.mkdir()
        np.savez(scan, kspace=full.kspace.numpy())
    chosen = {"scans": scans, "masks": [("poisson-2d", 2.0)]}
    config = TrainConfig.model_validate({"out": tmp_path, "prior": "deepen", "validation": chosen})
    scores = ScanValidation(config, torch.device("cpu"))(QuadraticPrior(theta=0.05))
    assert scores["psnr/first/scan poisson-2d 2"] == scores["psnr/second/scan poisson-2d 2"] == scores["score"]


class Wandering(Solver):
    """Evaluates the prior at 0.9 times the reference, returns half of it, and says nothing about its cost."""

    name = "wandering"
    requires = (frozenset({"gradient"}),)

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def solve(self, problem, prior, *, initial, generator, monitor):
        prior.gradient(0.9 * self.reference)
        prior.gradient((0.9 * self.reference).repeat(3, 1, 1))  # not an iterate
        return Solution(0.5 * self.reference, torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=torch.int64))


def test_what_a_converged_image_lost_on_the_way(full, mask):
    case = retrospective_case("", full, mask, SENSE)
    values = case.measured_at_convergence(QuadraticPrior(), Wandering(full.reference / case.problem.scale), "cpu")
    half, nine_tenths = (case.psnr_of(factor * full.reference) for factor in (0.5, 0.9))
    assert values == {"psnr": pytest.approx(half, abs=0.01), "psnr_lost": pytest.approx(nine_tenths - half, abs=0.01)}


def test_how_far_the_truth_is_from_the_minimum(full, mask):
    """C(x) = ½‖Ax − b‖² + ½θ‖x‖² at the truth and at (AᴴA + θI)⁻¹Aᴴb; scale and phase cancel."""
    case = retrospective_case("", full, mask, SENSE)
    operator, theta = case.problem.operator, 0.05
    image = operator.solve_normal(case.problem.back_projection(), theta, tolerance=1e-7, max_iterations=500).solution
    prior = QuadraticPrior(theta=theta)
    with torch.no_grad():
        truth, least = (
            case.problem.data_term(x) + prior.energy(x) for x in (operator.fully_sampled_image(full.kspace), image)
        )
    found = case.measured_at_convergence(prior, make_solver("mm-cg", tolerance=1e-8), "cpu")
    assert found["truth_gap"] == pytest.approx((truth / least - 1).item(), rel=1e-3) and found["truth_gap"] > 0.01
    assert found["psnr"] == pytest.approx(case.psnr_of(image), abs=0.05)
    assert found["psnr_lost"] == pytest.approx(5.51, abs=0.1)


def test_the_solver_of_a_prior_is_that_of_its_first_recipe():
    solvers = [registry().usual(prior).solver.name for prior in ("deepen", "cnn-denoiser", "elder", "deepinv-prior")]
    assert solvers == ["mm-cg", "ista", "end-to-end", "mm-cg"]


def test_a_training_is_validated_on_the_middle_slice_under_its_masks(tmp_path):
    full = simulate_acquisition(shape=(48, 40), coils=4, seed=1, slices=3)
    np.savez(tmp_path / "scan.npz", kspace=full.kspace.numpy())
    chosen = {"scans": [tmp_path / "scan.npz"], "masks": [("poisson-2d", 2.0)]}
    config = TrainConfig.model_validate({"out": tmp_path, "prior": "deepen", "validation": chosen})
    (case,) = ScanValidation(config, torch.device("cpu"))._cases
    mask = case.problem.operator.mask
    torch.testing.assert_close(case.problem.data, full.kspace[1:2] * mask)
