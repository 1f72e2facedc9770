"""The solver and the trainer of learned reconstructions, on a prior whose best parameter is known."""

import math
from contextlib import suppress

import pytest
import torch
from torch import nn

from mriinv import (
    CompatibilityError,
    InverseProblem,
    Prior,
    ProblemSource,
    Solution,
    complex_noise,
    make_prior,
    make_solver,
    make_trainer,
)
from mriinv.errors import SettingsError
from mriinv.training.loop import LoopOptions, train
from mriinv_sense.operator import SenseOperator
from support import Identity

NOISE = 0.5


class Noisy(ProblemSource):
    """x with unit variance per real component, b = x + n."""

    def images(self, count, generator):
        return complex_noise((count, 8, 8), 1.0, generator)

    def problem(self, images, generator):
        data = images + complex_noise(images.shape, NOISE, generator)
        return InverseProblem(Identity(), data, NOISE, torch.ones(len(images)))


class Undersampled(Noisy):
    """Two coils, every second column."""

    def images(self, count, generator):
        smooth = torch.linspace(-1, 1, 16).square()
        return (1.5 - smooth[:, None] - smooth) + complex_noise((count, 16, 16), 0.1, generator)

    def problem(self, images, generator):
        maps = torch.stack([torch.linspace(0.2, 0.9, 16), torch.linspace(0.9, 0.2, 16)])
        maps = (maps / maps.norm(dim=0))[None, :, None].expand(1, 2, 16, 16).to(images.dtype).contiguous()
        mask = (torch.arange(16) % 2 == 0).view(1, 1, 16)
        operator = SenseOperator(maps, mask)
        data = operator(images) + mask[:, None] * complex_noise((len(images), 2, 16, 16), 0.01, generator)
        return InverseProblem(operator, data, 0.01, torch.ones(len(images)))


class Shrink(Prior):
    """x = w b, whose best w is the Wiener filter 1/(1 + η²)."""

    name = "shrink"
    provides = frozenset({"reconstruction"})

    def __init__(self, start=0.2, price=0.0):
        super().__init__()
        self.weight, self.price = nn.Parameter(torch.tensor(start)), price
        self.filter = nn.Parameter(torch.ones(1))

    def reconstruct(self, problem, *, initial=None, monitor=None):
        image = self.weight * self.filter * (problem.data if initial is None else initial)
        if monitor is not None:
            monitor(1, {"change": 0.0})
        count = torch.ones(len(image), dtype=torch.int64)
        return Solution(image, count > 0, count)

    def penalty(self, image, generator):
        assert not image.requires_grad
        return self.price * self.weight.square()


def trainer(**settings):
    return make_trainer("end-to-end", **({"batch": 4} | settings))


def test_minimises_the_mean_square_error(tmp_path):
    prior, learner = Shrink(), trainer(steps=120, batch=16, learning_rate=0.02, scalar_learning_rate_factor=2.0)
    train(prior, learner, Noisy(), LoopOptions(tmp_path))
    assert (prior.weight * prior.filter).item() == pytest.approx(1 / (1 + NOISE**2), rel=0.03)


@pytest.mark.parametrize("compared", ["complex", "magnitude"])
def test_loss_is_the_relative_error_in_percent_and_the_penalty(compared):
    prior, learner = Shrink(price=3.0), trainer(loss=compared)
    loss = learner.loss(prior, Noisy(), 0, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    images = Noisy().images(4, generator)
    found = 0.2 * Noisy().problem(images, generator).data
    error = found - images if compared == "complex" else found.abs() - images.abs()
    expected = 100 * error.abs().square().sum() / images.abs().square().sum() + 3.0 * 0.2**2
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)
    mean_square = float((found - images).abs().square().mean())
    assert loss.log["mse_db"] == pytest.approx(10 * math.log10(mean_square), abs=1e-4)
    assert loss.log["penalty"] == pytest.approx(0.12) and loss.log["iterations"] == 1


def test_numbers_learn_at_their_own_rate_and_rates_fall():
    learner = trainer(steps=1000, learning_rate=1e-3, scalar_learning_rate_factor=7.0)
    prior = make_prior("elder", weights="none", widths=[4]).requires_grad_(True)
    network, numbers = learner.parameter_groups(prior)
    assert {id(p) for p in numbers["params"]} == {id(prior.log_scale), id(prior.raw_step)}
    assert (network["lr"], numbers["lr"]) == (1e-3, pytest.approx(7e-3))
    assert len(network["params"]) + 2 == len(list(prior.parameters()))
    factors = [learner.learning_rate_factor(step) for step in (0, 49, 500, 1000)]
    assert factors == pytest.approx([0.02, 0.994, 0.51, 0.02], abs=1e-3)


def test_warm_start_trains_the_denoiser():
    learner = trainer(steps=2, warm_start=1, batch=1)
    prior = make_prior("elder", weights="none", widths=[4], blocks=1, iterations=2).requires_grad_(True)
    first, second = (learner.loss(prior, Noisy(), step, torch.Generator().manual_seed(0)) for step in range(2))
    assert set(first.log) == {"dsm"} and "mse_db" in second.log
    first.value.backward()
    assert prior.network.outlet.weight.grad is not None and prior.raw_step.grad is None
    assert frozenset({"reconstruction", "denoiser"}) in learner.requires


PRIORS = {
    "elder": {"widths": [4], "blocks": 1, "iterations": 4},
    "elder-implicit": {"widths": [4], "blocks": 1, "iterations": 20, "gradient": "implicit"},
    "mol": {"widths": [4], "blocks": 1, "iterations": 20},
}


def learned(name):
    torch.manual_seed(0)
    return make_prior(name.split("-")[0], weights="none", **PRIORS[name]).requires_grad_(True)


@pytest.mark.parametrize("name", ["elder", "mol"])
def test_training_lowers_the_error_of_undersampled_data(name, tmp_path):
    """Smooth images through every second column: the error falls below that of SENSE."""
    learner, prior = trainer(steps=30, batch=1, learning_rate=1e-2), learned(name)
    generator = torch.Generator().manual_seed(5)
    images = Undersampled().images(4, generator)
    problem = Undersampled().problem(images, generator)

    def error(found):
        return float((found - images).abs().square().mean())

    train(prior, learner, Undersampled(), LoopOptions(tmp_path))
    sense, image = problem.sense(), make_solver("end-to-end")(problem, prior).image
    assert error(image) < 0.9 * error(sense)


@pytest.mark.parametrize("name", PRIORS)
def test_an_interrupted_training_resumes_bit_for_bit(name, tmp_path):
    def run(folder, interrupt=None):
        def stop(step, values):
            if step == interrupt:
                raise KeyboardInterrupt

        prior = learned(name)
        with suppress(KeyboardInterrupt):
            train(prior, trainer(steps=4, batch=1), Undersampled(), LoopOptions(tmp_path / folder), monitor=stop)
        return prior.state_dict()

    whole, interrupted = run("whole"), run("parts", interrupt=2)
    resumed = run("parts")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not all(torch.equal(whole[key], interrupted[key]) for key in whole)


def test_solver_runs_what_the_prior_learned():
    generator = torch.Generator().manual_seed(0)
    problem, seen = Noisy().problem(Noisy().images(2, generator), generator), []
    solution = make_solver("end-to-end")(problem, Shrink(0.5), monitor=lambda *step: seen.append(step))
    torch.testing.assert_close(solution.image, 0.5 * problem.data)
    assert not solution.image.requires_grad and seen == [(1, {"change": 0.0})]
    start = torch.ones_like(problem.data)
    torch.testing.assert_close(make_solver("end-to-end")(problem, Shrink(0.5), initial=start).image, 0.5 * start)


def test_wrong_combinations_and_settings_are_refused():
    generator = torch.Generator().manual_seed(0)
    problem = Noisy().problem(Noisy().images(1, generator), generator)
    with pytest.raises(CompatibilityError, match="reconstruction"):
        make_solver("end-to-end")(problem, make_prior("tv"))
    with pytest.raises(SettingsError, match="no setting 'tolerance'"):
        make_solver("end-to-end", tolerance=1)
    for name, value in (("steps", 0), ("batch", 0), ("learning_rate", 0), ("loss", "phase"), ("warm_start", -1)):
        with pytest.raises(SettingsError, match=rf"end-to-end\.{name}"):
            make_trainer("end-to-end", **{name: value})
    for warm_start in (3, 4):
        with pytest.raises(SettingsError, match=f"warm_start: found {warm_start}; expected fewer than steps, 3"):
            trainer(steps=3, warm_start=warm_start)
