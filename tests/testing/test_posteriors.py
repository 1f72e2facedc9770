"""The exact laws against integration and dense algebra, and measurements of samplers that are right and wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mriinv import Chain, InputError, Sampler, SettingsError
from mriinv.numerics.noise import complex_noise
from mriinv.testing.analytic import GaussianMixture, MixturePrior
from mriinv.testing.posteriors import (
    applies,
    compare,
    effective_samples,
    gaussian,
    measure,
    posteriors,
    samplers,
    stationary_covariance,
)
from mriinv.testing.priors import check_capabilities, check_gradient

CASES = {posterior.name: posterior for posterior in posteriors()}
QUICK = {"samples": 2048, "chains": 256, "batch": 256}


def one_pixel() -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([0.7, 0.3]).double(),
        torch.tensor([[0.5 + 0.2j], [-0.6 - 0.3j]]).to(torch.complex128),
        torch.tensor([[[0.04]], [[0.09]]]).to(torch.complex128),
    )


def random_points(count: int, pixels: int) -> torch.Tensor:
    return complex_noise((count, pixels), 0.7, torch.Generator().manual_seed(3), torch.complex128)


def test_the_law_given_data_is_that_of_numerical_integration():
    """Bayes' rule on a grid of the complex plane."""
    prior, level, noise, factor, data = one_pixel(), 0.1, 0.4, 0.8 - 0.3j, 0.1 + 0.2j
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    grid = torch.complex(*torch.meshgrid(axis, axis, indexing="ij")).flatten()
    belief = torch.zeros_like(grid.real)
    for weight, mean, variance in ((0.7, 0.5 + 0.2j, 0.04 + level**2), (0.3, -0.6 - 0.3j, 0.09 + level**2)):
        belief += weight / variance * (-(grid - mean).abs().square() / (2 * variance)).exp()
    density = belief * (-(factor * grid - data).abs().square() / (2 * noise**2)).exp()
    density /= density.sum()
    law = prior.blurred(level).given(torch.tensor([[factor]]).to(grid), torch.tensor([data]).to(grid), noise)
    mean = (density * grid).sum()
    apart = (grid - mean).abs().square()
    torch.testing.assert_close(law.mean[0], mean)
    torch.testing.assert_close(law.covariance[0, 0].real, 0.5 * (density * apart).sum())
    assert law.fourth_moment == pytest.approx(float((density * apart.square()).sum()), rel=1e-7)
    own = law.log_terms(grid[:, None]).exp()
    torch.testing.assert_close(own.sum(1) * float(axis[1] - axis[0]) ** 2, density, atol=1e-12, rtol=1e-7)
    torch.testing.assert_close((density[:, None] * own / own.sum(1, keepdim=True)).sum(0), law.weights)
    square = density.view(601, 601)
    core = square[1:-1, 1:-1]
    around = [square[1 + i : 600 + i, 1 + j : 600 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    peaks = grid.view(601, 601)[1:-1, 1:-1][torch.stack([core > other for other in around]).all(0) & (core > 1e-12)]
    modes = law.modes()[:, 0]
    assert len(modes) == len(peaks) == 2
    assert all((peaks - mode).abs().min() < 0.01 for mode in modes)


def test_the_gaussian_law_is_that_of_dense_algebra():
    posterior = CASES["gaussian"]
    hessian = posterior.matrix.mH @ posterior.matrix + posterior.prior.matrix
    exact = torch.linalg.solve(hessian, posterior.matrix.mH @ posterior.problem.data[0])
    torch.testing.assert_close(posterior.mean, exact)
    torch.testing.assert_close(posterior.covariance, posterior.noise_std**2 * torch.linalg.inv(hessian))
    torch.testing.assert_close(posterior.modes[0], exact)


@pytest.mark.parametrize("name", CASES)
def test_the_cost_is_the_logarithm_of_the_law(name):
    """−∇C/η² = ∇ log p at any image: problem, prior, noise, level and law fit together."""
    posterior = CASES[name]
    problem = posterior.problem
    images = random_points(5, len(posterior.mean)).view(5, *problem.back_projection().shape[1:])
    prior = posterior.prior.at_noise(problem.noise_std)
    gradient = problem.data_gradient(images) + prior.gradient(images, posterior.level or None)
    score = posterior.law().score(images.flatten(1))
    torch.testing.assert_close(-gradient.flatten(1) / posterior.noise_std**2, score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [None, 0.1, torch.tensor([0.02, 0.3, 2.0], dtype=torch.float64)])
def test_the_energy_of_a_mixture_has_its_gradient(level):
    prior = MixturePrior(CASES["mixture"].belief, noise_std=0.2)
    images = random_points(3, 6).view(3, 2, 3)
    check_gradient(prior, images, level)
    check_capabilities(prior, images)


def test_the_energy_absorbs_the_noise_of_each_image():
    prior, images = MixturePrior(CASES["mixture"].belief), random_points(2, 6).view(2, 2, 3)
    noise = torch.tensor([0.1, 0.5], dtype=torch.float64)
    energy, gradient = prior.at_noise(noise).energy_and_gradient(images, 0.1)
    whole = prior.energy_and_gradient(images, 0.1)
    torch.testing.assert_close(energy, noise**2 * whole[0])
    torch.testing.assert_close(gradient, (noise**2).view(-1, 1, 1) * whole[1])


@pytest.mark.parametrize("level", [0.05, 0.4])
def test_the_denoiser_is_the_posterior_mean(level):
    belief = CASES["mixture"].belief
    images = random_points(4, 6).view(4, 2, 3)
    found = MixturePrior(belief).denoise(images, level)
    eye = torch.eye(6, dtype=torch.complex128)
    exact = torch.stack([belief.given(eye, image.flatten(), level).mean for image in images])
    torch.testing.assert_close(found.flatten(1), exact)


def test_every_mode_is_a_maximum():
    posterior = CASES["mixture, far apart"]
    law, modes = posterior.law(), posterior.modes
    assert len(modes) == 3 and float(law.score(modes).abs().max()) < 1e-8
    near = modes.repeat_interleave(20, 0) + 1e-3 * random_points(60, 6)
    density = law.log_terms(modes).logsumexp(1)
    assert (law.log_terms(near).logsumexp(1) < density.repeat_interleave(20)).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_independent_draws_agree_with_their_law(name, seed):
    law = CASES[name].law()
    draws = law.draw(2000, torch.Generator().manual_seed(seed)).unflatten(0, (100, 20))
    found = compare(draws, law)
    assert found["agrees"]
    assert found["covariance_error"] == pytest.approx(found["covariance_expected"], rel=0.6)
    assert found["effective_samples"] > 600


class Lazy(Sampler):
    """Stays with probability ½ and else draws from `law`, which is its stationary law."""

    name = "lazy"
    requires = (frozenset({"gradient"}),)
    law: GaussianMixture

    def chain(self, target, image, generator, *, previous=None, passing=False):
        return LazyChain(self.law, image, generator)


class LazyChain(Chain):
    def __init__(self, law, image, generator):
        self.law, self.image, self.generator = law, image, generator

    def step(self):
        fresh = self.law.draw(len(self.image), self.generator).view(self.image.shape)
        moved = torch.rand(len(fresh), generator=self.generator) < 0.5
        self.image = torch.where(moved.view(-1, 1, 1), fresh, self.image)


def lazy(law: GaussianMixture) -> type[Sampler]:
    return type("Lazy", (Lazy,), {"law": law})


@pytest.mark.parametrize("name", CASES)
def test_a_right_sampler_passes(name):
    posterior = CASES[name]
    found = measure(lazy(posterior.law()), posterior, {**QUICK, "levels": 1, "thinning": 1})
    assert found.agrees and not found.approximate
    assert found.effective_samples == pytest.approx(2048 / 3, rel=0.35)  # (1 − ρ)/(1 + ρ) with ρ = ½
    assert found.steps == 10 + 7 and found.draws == 2048


def half_noise(law: GaussianMixture) -> GaussianMixture:
    return replace(law, covariances=0.25 * law.covariances)


def shifted(law: GaussianMixture) -> GaussianMixture:
    return replace(law, means=law.means + 0.4 * law.covariance.diagonal().real.sqrt())


def other_weights(law: GaussianMixture) -> GaussianMixture:
    return replace(law, weights=torch.tensor([0.5, 0.25, 0.25]).double())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name in CASES for wrong in (half_noise, shifted)]
    + [(name, other_weights) for name in CASES if name.startswith("mixture")],
)
def test_a_wrong_sampler_is_found(name, wrong):
    posterior = CASES[name]
    found = measure(lazy(wrong(posterior.law())), posterior, {**QUICK, "levels": 1, "thinning": 1})
    assert not found.agrees
    if wrong is half_noise and name in ("gaussian", "SENSE"):
        assert found.variance == pytest.approx(0.25, rel=0.05)
    if wrong is other_weights:
        assert found.weight_error > 5 * found.weight_expected


def test_the_law_is_that_of_the_level_where_samples_are_drawn():
    posterior = CASES["mixture"]
    options = {**QUICK, "levels": 1, "thinning": 1}
    assert measure(lazy(posterior.law(0.3)), posterior, {**options, "noise_level": 0.3}).agrees
    assert not measure(lazy(posterior.law(0.3)), posterior, options).agrees
    assert measure(lazy(posterior.law(0.01)), posterior, {**options, "noise_level": 0.001}).agrees  # the lowest known
    with pytest.raises(SettingsError, match="has no noise levels"):
        measure("langevin", CASES["gaussian"], {**options, "noise_level": 0.3})


def test_effective_samples_of_short_autoregressive_chains():
    """8 draws each of x' = ρx + √(1 − ρ²)z, where autocorrelations cannot be estimated."""
    rho, chains, draws = 0.8, 256, 8
    noise = torch.randn(draws, chains, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = [noise[0]]
    for fresh in noise[1:]:
        states.append(rho * states[-1] + (1 - rho**2) ** 0.5 * fresh)
    exact = chains * draws / (1 + 2 * sum((1 - k / draws) * rho**k for k in range(1, draws)))
    found = effective_samples(torch.stack(states, 1))
    assert float(found.mean()) == pytest.approx(exact, rel=0.03) and float(found.std()) < 0.1 * exact


def test_the_covariance_of_a_discretised_chain_solves_its_recursion():
    matrix, other = (random_points(6, 6) for _ in range(2))
    hessian = matrix @ matrix.mH / 10 + 0.1 * torch.eye(6)
    preconditioner = torch.linalg.inv(hessian + 0.3 * torch.eye(6) + 0.1 * other @ other.mH)
    for m, step in ((torch.eye(6).to(hessian), 0.5), (preconditioner, 0.9)):
        moved = torch.eye(6) - step * m @ hessian
        covariance = torch.zeros_like(hessian)
        for _ in range(3000):
            covariance = moved @ covariance @ moved.mH + 0.02 * m
        torch.testing.assert_close(stationary_covariance(hessian, step, 0.02, m), covariance)
    # ε²/(h(2 − αh)) of the paper's step
    one = stationary_covariance(torch.tensor([[0.8]]).to(hessian), 0.5, 0.5 * 0.1**2)
    assert complex(one) == pytest.approx(0.1**2 / (0.8 * (2 - 0.5 * 0.8)))


def test_samplers_of_the_registry():
    found = samplers()
    assert {"langevin", "mala", "preconditioned-langevin", "dps", "dds"} <= set(found)
    assert "mm-cg" not in found
    assert applies(found["dds"], CASES["mixture"]) and not applies(found["dds"], CASES["gaussian"])
    right = measure("mala", CASES["gaussian"], QUICK)
    assert right.agrees and right.acceptance == pytest.approx(0.57, abs=0.05)
    assert 256 * right.steps < right.evaluations < 256 * (right.steps + 2)
    diffusion = measure("dds", CASES["mixture"], {"samples": 64, "steps": 20})
    assert diffusion.approximate and diffusion.evaluations == 64 * 20 and not diffusion.agrees


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("mala", {}),
        ("preconditioned-langevin", {"metropolis": True, "levels": 1, "burn_in": 60, "thinning": 3}),
    ],
)
def test_the_metropolis_correction_is_exact_for_a_mixture(sampler, settings):
    """For Gaussians much of the acceptance cancels."""
    found = measure(sampler, CASES["mixture"], {**QUICK, **settings})
    assert found.agrees and found.effective_samples > 500


def test_the_law_of_sense_is_also_that_of_its_robust_problem():
    problem = CASES["SENSE"].problem
    weighted = problem.robust()
    assert weighted is not problem and torch.equal(weighted.data, problem.data)


def test_the_bias_by_a_step_is_the_one_predicted():
    posterior, step = CASES["gaussian"], 1.0
    found = measure("langevin", posterior, {**QUICK, "samples": 4096, "step_size": step})
    hessian = posterior.noise_std**2 * torch.linalg.inv(posterior.covariance)
    predicted = stationary_covariance(hessian, step, 2 * step * posterior.noise_std**2)
    assert not found.agrees
    expected = float(predicted.diagonal().real.sum() / posterior.covariance.diagonal().real.sum())
    assert found.variance == pytest.approx(expected, abs=4 * found.variance_error)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="temperature"):
        measure("langevin", CASES["gaussian"], {"temperature": 2.0})
    with pytest.raises(InputError, match="a solver that returns samples"):
        measure("cg-sense", CASES["gaussian"])
    with pytest.raises(InputError, match="at least 16"):
        measure("mala", CASES["gaussian"], {"samples": 40, "chains": 4})


def test_a_measurement_repeats():
    options = {**QUICK, "samples": 512}
    first, second = (measure("langevin", gaussian(), options, seed=5) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert replace(measure("langevin", gaussian(), options, seed=6), seconds=0.0) != replace(first, seconds=0.0)
