"""Metropolis-adjusted and preconditioned Langevin against Gaussian posteriors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mriinv import MriinvError, SettingsError, Target, make_solver
from mriinv.core.problem import InverseProblem
from mriinv.numerics.noise import complex_noise
from mriinv.testing.analytic import DenseOperator, QuadraticPrior, gaussian_problem
from mriinv_langevin.chains import KineticChain, LangevinChain, MetropolisChain, Shifted
from mriinv_sense.operator import SenseOperator
from support import random, scaled_problem

NOISE = 0.1
CHAINS, DRAWS = 400, 4000


def posterior(batch=1):
    """Return a problem with noise, its prior, and the Hessian of the cost."""
    problem, prior, hessian = gaussian_problem(shape=(2, 3), samples=4, batch=batch)
    return replace(problem, noise_std=torch.full((batch,), NOISE, dtype=torch.float64)), prior, hessian


def covariance(samples):
    flat = samples.draws[:, :, 0].flatten(0, 1).flatten(1)
    centred = flat - flat.mean(0)
    return centred.T @ centred.conj() / len(flat)


def sampled(name, **settings):
    problem, prior, hessian = posterior()
    options = {
        "samples": DRAWS,
        "chains": CHAINS,
        "batch": CHAINS,
        "burn_in": 60,
        "thinning": 6,
        "long_run": 0,
    } | settings
    return make_solver(name, **options)(problem, prior), 2 * NOISE**2 * torch.linalg.inv(hessian)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mala", {}),
        ("mala", {"step_size": 1.1}),  # beyond what is accurate, near what is stable
        ("preconditioned-langevin", {"metropolis": True}),
        ("preconditioned-langevin", {"metropolis": True, "step_size": 0.9}),
    ],
)
def test_the_metropolis_correction_makes_the_posterior_stationary(name, settings):
    samples, exact = sampled(name, **settings)
    assert (covariance(samples) - exact).norm() < 0.06 * exact.norm()


def test_without_the_correction_the_same_step_is_biased():
    """The tolerance above tells the corrected law from the uncorrected one."""
    problem, prior, hessian = posterior(1000)
    exact = 2 * NOISE**2 * torch.linalg.inv(hessian)
    generator = torch.Generator().manual_seed(0)
    temperature = torch.full((1000,), NOISE**2, dtype=torch.float64)
    chain = LangevinChain(
        Target(problem, prior),
        torch.zeros(1000, 2, 3, dtype=torch.complex128),
        generator,
        step_size=torch.full_like(temperature, 0.9),
        noise=1.8 * temperature,
    )
    for _ in range(40):
        chain.step()
    flat = chain.image.flatten(1)
    centred = flat - flat.mean(0)
    assert (centred.T @ centred.conj() / 1000 - exact).norm() > 0.15 * exact.norm()


@pytest.mark.parametrize("persistence", [0.0, 0.7])
@pytest.mark.parametrize("step", [0.4, 1.0])
def test_the_preconditioned_chain_is_exact_for_gaussians(step, persistence):
    """At every step and persistence; with a perturbation of its own in each step, τ = 1 is off by more than half."""
    samples, exact = sampled(
        "preconditioned-langevin", step_size=step, persistence=persistence, cg_tolerance=1e-8, thinning=10
    )
    assert (covariance(samples) - exact).norm() < 0.06 * exact.norm()


def test_a_step_moves_by_the_momentum_before_and_after_it():
    """Where nothing pulls, p ← ρp + √((1 − ρ²)T)·z and x moves by h/2 times the sum of the two."""
    problem, prior, _ = posterior()
    ones, start = torch.ones(1, dtype=torch.float64), torch.ones(1, 2, 3, dtype=torch.complex128)
    chain = KineticChain(
        Target(replace(problem, data=0 * problem.data), prior),
        0 * start,
        torch.Generator().manual_seed(0),
        step_size=2 * ones,
        temperature=4 * ones,
        momentum=start,
        persistence=0.6,
    )
    chain.step()
    kicked = 0.6 * start + 0.8 * 2 * complex_noise(start.shape, 1.0, torch.Generator().manual_seed(0), start.dtype)
    torch.testing.assert_close(chain.image, start + kicked)
    torch.testing.assert_close(chain.momentum, kicked)


@pytest.mark.parametrize(("persistence", "bound"), [(0.0, 0.83), (0.7, 0.38)])
def test_momentum_explores_what_nothing_determines_well(persistence, bound):
    """States ten steps apart, along a direction fifty times weaker than the preconditioner takes it for."""
    h, g = 2**0.5, 0.02
    step = np.array(
        [[1 - h * h * g * (1 + persistence) / 2, h * (1 + persistence) / 2], [-persistence * h * g, persistence]]
    )
    alike = np.linalg.matrix_power(step, 10)[0] @ [1, h * g / 2]  # E px = (hg/2) E x² before the last half kick
    assert alike < bound
    operator = DenseOperator(torch.tensor([[1, 0]], dtype=torch.complex128), (1, 2))
    problem = InverseProblem(operator, torch.zeros(1, 1).to(operator.matrix), noise_std=torch.ones(1).double())
    prior = QuadraticPrior(torch.tensor([[1, 0], [0, 0.02]]).to(operator.matrix))
    settings = {"chains": 2000, "batch": 2000, "burn_in": 150, "thinning": 10, "long_run": 0}
    solver = make_solver("preconditioned-langevin", samples=4000, persistence=persistence, **settings)
    first, second = solver(problem, prior).draws[:, :, 0, 0, 1].unbind(1)
    found = float((first.conj() * second).real.mean() / first.abs().square().mean())
    assert found == pytest.approx(alike, abs=0.04)


def test_the_perturbation_is_exact_for_many_coils():
    """Aᴴz₁ + √λ z₂ has covariance AᴴA + λI = M⁻¹, for maps that overlap and a mask that misses most of k-space."""
    generator = torch.Generator().manual_seed(0)
    maps = complex_noise((1, 3, 4, 4), 1.0, generator, torch.complex128)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    operator = SenseOperator(maps, torch.rand(1, 4, 4, generator=generator) < 0.4)
    problem = InverseProblem(operator, torch.zeros(1, 3, 4, 4, dtype=torch.complex128), scale=torch.ones(1).double())
    preconditioner = Shifted(problem, torch.tensor([0.2]).double(), 1e-10, 60)
    draws = torch.cat(
        [preconditioner.perturbation(torch.zeros(500, 4, 4).to(maps), generator).flatten(1) for _ in range(20)]
    )
    eye = torch.eye(16, dtype=torch.complex128).view(16, 4, 4)
    inverse = operator.gram(eye).flatten(1).T + 0.2 * eye.flatten(1)
    assert (draws.T @ draws.conj() / len(draws) - 2 * inverse).norm() < 0.1 * inverse.norm()
    torch.testing.assert_close(preconditioner.apply(eye[:1]).flatten(), torch.linalg.inv(inverse)[:, 0])


def test_the_step_adapts_to_the_acceptance_and_then_stays():
    problem, prior, _ = posterior()
    samples, _ = sampled("mala", samples=600, chains=200, batch=200, burn_in=200)
    assert samples.acceptance.shape == (200, 1)
    assert float(samples.acceptance.mean()) == pytest.approx(0.574, abs=0.03)
    chain = MetropolisChain(
        Target(problem, prior),
        problem.sense(),
        torch.Generator().manual_seed(0),
        temperature=torch.tensor([NOISE**2]).double(),
        step_size=torch.tensor([0.1]).double(),
        adapt=True,
    )
    chain.step()
    adapted = float(chain.step_size)
    assert adapted != 0.1
    chain.begin()
    chain.step()
    assert float(chain.step_size) == adapted


def test_proposals_that_are_not_finite_are_refused():
    class Cliff(QuadraticPrior):
        """Infinite energy beyond a radius."""

        def energy(self, image, noise_level=None):
            size = image.abs().square().flatten(1).sum(1)
            return torch.where(size < 60, super().energy(image), torch.nan)

    problem, _, _ = posterior()
    solver = make_solver("mala", samples=40, burn_in=5, step_size=1.0, temperature=100, long_run=0)
    samples = solver(problem, Cliff())
    assert samples.draws.isfinite().all() and 0 < float(samples.acceptance.mean()) < 1


def test_draws_of_a_chain_are_thinned_and_batches_change_only_random_numbers():
    problem, prior, _ = posterior()
    solver = make_solver("preconditioned-langevin", samples=10, chains=3, batch=2, burn_in=5, thinning=4)
    samples = solver(problem, prior)
    assert samples.draws.shape == (3, 4, 1, 2, 3)  # as many of each chain, 10 or a few more
    assert samples.traces["k-space band 3"].shape == (3, 1 + 3 * 4, 1)
    assert samples.iterations.tolist() == [5 + 3 * 4]
    assert {"split_rhat", "long_run_drift"} < samples.numbers().keys()


def test_a_shift_that_is_set_is_compared_with_what_is_stable():
    """λ takes the place of the curvature of the energy; below half of it the chain would diverge."""
    problem, prior, _ = posterior()
    options = {"samples": 2, "chains": 1, "burn_in": 2, "long_run": 0}
    prepared = make_solver("preconditioned-langevin", **options).prepared(
        Target(problem.normalised(), prior),
        problem.back_projection(),
        torch.Generator().manual_seed(0),
    )
    measured = prepared.settings.shift
    assert prepared.prepared(Target(problem, prior), problem.back_projection(), torch.Generator()) is prepared
    make_solver("preconditioned-langevin", **options, shift=measured)(problem, prior)
    with pytest.raises(SettingsError, match=r"solver\.shift: found .*; stable above"):
        make_solver("preconditioned-langevin", **options, shift=0.4 * measured)(problem, prior)


def test_the_law_does_not_depend_on_the_shift():
    samples, exact = sampled("preconditioned-langevin", shift=4.0, cg_tolerance=1e-8, thinning=30, burn_in=150)
    assert (covariance(samples) - exact).norm() < 0.06 * exact.norm()


def test_systems_that_are_not_solved_are_said():
    problem, _, _ = gaussian_problem(shape=(8, 8), samples=40)
    options = {"samples": 2, "chains": 1, "levels": 1, "burn_in": 1, "long_run": 0, "shift": 1e-3}
    weak = QuadraticPrior(theta=1e-3)
    for settings, said in (({"cg_iterations": 2}, True), ({"cg_iterations": 200}, False)):
        notes = make_solver("preconditioned-langevin", **options, **settings)(problem, weak).notes
        assert any("in 2 iterations; raise solver.cg_iterations" in note for note in notes) == said


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_shift_of_an_energy_without_curvature(factor):
    """An energy without curvature counts as one of 1e-4‖A‖²."""
    problem, _, _ = scaled_problem(factor)
    target = Target(problem, QuadraticPrior(theta=0.0))
    found = make_solver("preconditioned-langevin").prepared(target, problem.sense(), torch.Generator().manual_seed(0))
    assert found.settings.shift == pytest.approx(1e-4 * factor**2)


def test_the_shift_is_that_of_the_largest_curvature_of_the_batch():
    problem, _, _ = gaussian_problem(batch=2)

    class Uneven(QuadraticPrior):
        def energy(self, image, noise_level=None):
            return super().energy(image) * torch.tensor([1.0, 2.0])

    target = Target(problem, Uneven(theta=1.5))
    found = make_solver("preconditioned-langevin").prepared(target, problem.sense(), torch.Generator().manual_seed(0))
    assert found.settings.shift == pytest.approx(3.0, rel=0.02)


def test_only_steps_that_do_not_pass_are_adjusted():
    problem, prior, _ = gaussian_problem()
    generator = torch.Generator().manual_seed(0)
    for name, settings in (
        ("mala", {}),
        ("mala", {"step_size": 0.3}),
        ("preconditioned-langevin", {"metropolis": True}),
    ):
        for passing in (True, False):
            chain = make_solver(name, **settings).chain(
                Target(problem, prior), problem.sense(), generator, passing=passing
            )
            assert isinstance(chain, MetropolisChain) != passing


def test_the_momentum_of_a_new_chain_has_its_law():
    problem, prior, _ = gaussian_problem()
    problem = replace(problem, noise_std=torch.full((1,), 0.1, dtype=torch.float64))
    solver, generator = (
        make_solver("preconditioned-langevin", persistence=0.6, shift=0.5),
        torch.Generator().manual_seed(0),
    )
    start = torch.zeros(4000, 3, 4, dtype=torch.complex128)
    chain = solver.chain(Target(problem, prior), start, generator)
    assert (
        chain.persistence == 0.6
        and solver.chain(Target(problem, prior), start, generator, passing=True).persistence == 0
    )
    matrix = problem.operator.matrix
    exact = 2 * 0.1**2 * (matrix.mH @ matrix + 0.5 * torch.eye(12))
    flat = chain.momentum.flatten(1)
    assert (flat.T @ flat.conj() / 4000 - exact).norm() < 0.1 * exact.norm()


def test_corrected_chains_solve_their_systems_closely():
    problem, prior, _ = gaussian_problem()
    solver = make_solver("preconditioned-langevin", metropolis=True, shift=0.5)
    chain = solver.chain(Target(problem, prior), problem.sense(), torch.Generator().manual_seed(0))
    chain.preconditioner.apply(random(1, 3, 4))
    assert chain.preconditioner._residual <= 1e-6


def test_the_acceptance_of_the_burn_in_does_not_count():
    problem, prior, _ = gaussian_problem()
    chain = make_solver("mala").chain(Target(problem, prior), problem.sense(), torch.Generator().manual_seed(0))
    chain.step()
    chain.begin()
    assert chain.acceptance is None


def test_the_worst_solve_is_remembered():
    problem, _, _ = gaussian_problem(shape=(8, 8), samples=40)
    preconditioner = Shifted(problem, torch.tensor([1e-3]).double(), 1e-3, 2)
    for image in (random(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.complex128)):
        preconditioner.apply(image)
    assert preconditioner.notes


def test_the_limit_of_the_shift_is_stated():
    problem, _, _ = gaussian_problem()
    options = {"samples": 2, "chains": 1, "burn_in": 2, "long_run": 0, "step_size": 0.5}
    make_solver("preconditioned-langevin", **options, shift=0.3)(problem, QuadraticPrior(theta=1.0))
    with pytest.raises(MriinvError, match=r"shift: found 0\.2; stable above 0\.25"):
        make_solver("preconditioned-langevin", **options, shift=0.2)(problem, QuadraticPrior(theta=1.0))
