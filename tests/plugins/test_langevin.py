"""The sampler against the closed form of its own discretised chain on a Gaussian posterior."""

import pytest
import torch

from mriinv import InverseProblem, MriinvError, SettingsError, Target, make_solver
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem
from mriinv.testing.posteriors import stationary_covariance
from support import scaled_problem

CHAINS = 6000


@pytest.mark.parametrize(
    ("settings", "step", "noise", "steps"),
    [
        ({"form": "eq16", "epsilon": 0.1, "step_size": 1.0}, 1.0, 0.1**2, 120),
        ({"form": "eq16", "epsilon": 0.1, "step_size": 0.3}, 0.3, 0.3 * 0.1**2, 300),
        ({"form": "eq11", "epsilon": 0.9}, 0.9**2 / 2, 0.9**2, 200),
    ],
)
def test_mean_and_covariance_are_those_of_the_discretised_chain(settings, step, noise, steps):
    problem, prior, hessian = gaussian_problem(shape=(2, 3), samples=4, batch=CHAINS)
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(CHAINS, 2, 3, dtype=torch.complex128)
    states = make_solver("langevin", **settings).advance(Target(problem, prior), start, steps, generator).flatten(1)
    mean = torch.linalg.solve(hessian, problem.back_projection()[0].flatten())
    exact, ideal = 2 * stationary_covariance(hessian, step, noise), noise / step * torch.linalg.inv(hessian)
    centred = states - mean
    covariance = centred.T @ centred.conj() / CHAINS
    assert (covariance - exact).norm() < 0.05 * exact.norm() < (exact - ideal).norm()
    error = states.mean(0) - mean
    assert error.norm() < 4 * (exact.diagonal().real.sum() / CHAINS).sqrt()


def test_samples_have_mean_and_both_standard_deviations():
    problem, prior, _ = gaussian_problem()
    samples = make_solver("langevin", samples=5, batch=2, burn_in=7, chains=5, epsilon=0.1)(problem, prior)
    assert samples.draws.shape == (5, 1, 1, 3, 4)
    flat = samples.draws[:, 0]
    torch.testing.assert_close(samples.image, flat.mean(0))
    torch.testing.assert_close(samples.std, ((flat - flat.mean(0)).abs() ** 2).sum(0).div(4).sqrt())
    torch.testing.assert_close(samples.magnitude_std, flat.abs().std(0))


def test_scaled_samples_scale_their_spread():
    problem, prior, _ = gaussian_problem()
    solver = make_solver("langevin", samples=3, burn_in=5)
    small, large = (solver(InverseProblem(problem.operator, f * problem.data), prior) for f in (1.0, 100.0))
    torch.testing.assert_close(large.std, 100 * small.std)


def test_seed_determines_the_samples():
    problem, prior, _ = gaussian_problem()
    solver = make_solver("langevin", samples=2, burn_in=3)
    first, same, other = (
        solver(problem, prior, generator=torch.Generator().manual_seed(seed)).draws for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_step_follows_the_measured_curvature():
    problem, _, _ = gaussian_problem(batch=2)
    generator, start = torch.Generator().manual_seed(0), problem.sense()

    class Uneven(QuadraticPrior):
        """The second image of a batch has twice the curvature."""

        def energy(self, image, noise_level=None):
            return super().energy(image) * torch.tensor([1.0, 2.0])

    step = make_solver("langevin").prepared(Target(problem, Uneven(theta=1.5)), start, generator).settings.step_size
    assert step == pytest.approx(0.5 / (1 + 3.0), rel=0.02)
    fixed = make_solver("langevin", step_size=0.3)
    assert fixed.prepared(Target(problem, Uneven()), start, generator) is fixed


def test_temperature_is_the_variance_of_the_noise():
    problem, prior, _ = gaussian_problem(batch=2)
    noisy = InverseProblem(problem.operator, problem.data, torch.tensor([0.1, 0.3]), problem.scale)
    for settings, exact in (({}, [0.01, 0.09]), ({"temperature": 2.0}, [0.02, 0.18]), ({"epsilon": 0.2}, [0.02, 0.02])):
        found = make_solver("langevin", **settings).temperature(Target(noisy, prior))
        torch.testing.assert_close(found, torch.tensor(exact).double())
    spread = make_solver("langevin", samples=30, chains=30, burn_in=60)(noisy, prior).std.mean((1, 2))
    assert spread[1] / spread[0] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("settings", [{}, {"epsilon": 0.1, "step_size": 0.5}])
def test_the_step_of_equation_11_is_epsilon_alone(settings):
    with pytest.raises(MriinvError, match="form eq11 takes its step from epsilon alone"):
        make_solver("langevin", form="eq11", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 60.0}, r"step_size: found 60; stable below 1\.1"),
        ({"form": "eq11", "epsilon": 3.0}, r"epsilon: found 3; stable below 1\.5"),
    ],
)
def test_a_step_beyond_the_limit_is_refused_before_it_runs(settings, message):
    problem, prior, hessian = gaussian_problem()
    seen = []
    with pytest.raises(SettingsError, match=message):
        make_solver("langevin", **settings)(problem, prior, monitor=lambda *_: seen.append(1))
    assert not seen and 1 < torch.linalg.matrix_norm(hessian, 2) < 1.7


def test_divergence_is_reported():
    problem, prior, _ = gaussian_problem()
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(MriinvError, match=r"langevin diverged after .* smaller solver\.step_size"):
        make_solver("langevin", step_size=60.0).advance(Target(problem, prior), problem.sense(), 400, generator)


def test_divergence_in_the_last_steps_is_reported_too():
    class Late(QuadraticPrior):
        """Not finite from the 13th step on, after the eight evaluations of a measured curvature."""

        steps = 0

        def energy_and_gradient(self, image, noise_level=None, **more):
            self.steps += 1
            energy, gradient = super().energy_and_gradient(image, noise_level, **more)
            return energy, gradient * (1 if self.steps < 8 + 13 else torch.inf)

    problem, prior, _ = gaussian_problem()
    solver = make_solver("langevin", samples=1, burn_in=15, step_size=0.1, long_run=0)
    assert torch.isfinite(solver(problem, QuadraticPrior(prior.matrix)).draws).all()
    with pytest.raises(MriinvError, match="langevin diverged after 15 steps"):
        solver(problem, Late(prior.matrix))


def test_monitor_counts_all_steps():
    problem, prior, _ = gaussian_problem()
    seen = []
    solver = make_solver("langevin", samples=4, batch=2, burn_in=20, long_run=0)
    solver(problem, prior, monitor=lambda step, values: seen.append((step, *values)))
    assert [step for step, *_ in seen] == [10, 20, 30, 40]
    assert all(name == "gradient_rms" for _, name in seen)


def test_chains_from_noise_start_apart_whatever_the_batch():
    problem, prior, _ = gaussian_problem()
    for batch in (1, 4):
        samples = make_solver("langevin", samples=4, chains=4, batch=batch, burn_in=0, start="noise")(problem, prior)
        apart = (samples.draws[:, None] - samples.draws[None]).abs().flatten(2).mean(2)
        assert (apart + torch.eye(4) > 0.5).all()


def test_a_level_for_a_prior_without_levels_is_refused():
    problem, prior, _ = gaussian_problem()
    for solver, setting in (("langevin", "noise_level"), ("mm-cg", "lowest_level")):
        with pytest.raises(SettingsError, match=r"found 0\.05; prior 'quadratic' has no noise levels"):
            make_solver(solver, **{setting: 0.05})(problem, prior)


def test_the_limit_of_the_step_knows_the_norm_of_the_operator():
    problem, prior, _ = scaled_problem()
    with pytest.raises(MriinvError, match=r"stable below 0\.2[0-2]"):
        make_solver("langevin", step_size=0.3)(problem, prior)


def test_the_step_that_is_measured_knows_the_norm_of_the_operator():
    problem, _, _ = scaled_problem()
    target = Target(problem, QuadraticPrior(theta=1.5))
    found = make_solver("langevin").prepared(target, problem.sense(), torch.Generator().manual_seed(0))
    assert found.settings.step_size == pytest.approx(0.5 / (9 + 1.5), rel=0.02)


def test_the_last_step_is_reported():
    problem, prior, _ = gaussian_problem()
    seen = []
    for steps in (3, 20):
        make_solver("langevin", step_size=0.1).advance(
            Target(problem, prior),
            problem.sense(),
            steps,
            torch.Generator().manual_seed(0),
            lambda step, _: seen.append(step),
        )
    assert seen == [3, 10, 20]
