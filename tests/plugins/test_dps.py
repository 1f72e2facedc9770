"""DPS and DDS against Gaussian images, whose denoiser and posterior are closed forms."""

import math
from itertools import pairwise

import deepinv
import pytest
import torch

from mriinv import (
    CompatibilityError,
    InverseProblem,
    MriinvError,
    Prior,
    SettingsError,
    complex_noise,
    make_prior,
    make_solver,
)
from mriinv.testing.analytic import DenseOperator, GaussianDenoiser, gaussian_problem
from mriinv_dps.dps import residual_gradient

NOISE = 0.2


def gaussian_case(dtype=torch.complex128):
    """Return a problem with noise, the covariance of its images, and mean and covariance of the posterior."""
    problem, prior, _ = gaussian_problem(shape=(2, 3), samples=4)
    covariance, matrix = 0.05 * torch.linalg.inv(prior.matrix), problem.operator.matrix
    generator = torch.Generator().manual_seed(6)
    image = torch.linalg.cholesky(covariance) @ complex_noise((6,), 1.0, generator, torch.complex128)
    data = matrix @ image + complex_noise((4,), NOISE, generator, torch.complex128)
    posterior = torch.linalg.inv(matrix.mH @ matrix / NOISE**2 + torch.linalg.inv(covariance))
    mean = posterior @ matrix.mH @ data / NOISE**2
    operator = DenseOperator(matrix.to(dtype), (2, 3))
    problem = InverseProblem(operator, data[None].to(dtype), scale=torch.ones(1))
    return problem, covariance.to(dtype), mean.to(dtype), posterior.to(dtype)


def moments(samples):
    flat = samples.draws[:, 0, 0].flatten(1)
    centred = flat - flat.mean(0)
    return flat.mean(0), centred.T @ centred.conj() / (2 * len(flat))  # per real component


def zeros(problem):
    return torch.zeros(problem.batch, 2, 3, dtype=problem.data.dtype)


def test_schedule_is_that_of_equation_24():
    solver = make_solver("dps")
    assert solver.level(1.0) == pytest.approx(9.845, abs=5e-4) and solver.level(1e-3) == pytest.approx(0.0317, abs=5e-5)


@pytest.mark.parametrize("target", ["prior", "posterior"])
def test_without_guidance_dps_draws_from_the_law_of_the_denoiser(target):
    """Of the posterior's own denoiser, which has the exact likelihood score in it, that law is the posterior."""
    problem, covariance, mean, posterior = gaussian_case()
    mean, covariance = (torch.zeros_like(mean), covariance) if target == "prior" else (mean, posterior)
    solver = make_solver("dps", scale=0, steps=1000, samples=5000, batch=5000)
    samples = solver(problem, GaussianDenoiser(covariance, mean), initial=zeros(problem))
    found_mean, found = moments(samples)
    assert (found - covariance).norm() < 0.06 * covariance.norm()
    assert (found_mean - mean).norm() < 4 * (2 * covariance.diagonal().real.sum() / 5000).sqrt()


def test_guidance_lowers_the_residual_and_moves_to_the_posterior_mean():
    problem, covariance, mean, _ = gaussian_case()
    prior = GaussianDenoiser(covariance)
    free, guided = (make_solver("dps", scale=z, steps=200, samples=50, batch=50)(problem, prior) for z in (0.0, 0.05))
    assert problem.data_term(guided.image) < 0.3 * problem.data_term(free.image)
    assert (guided.image.flatten() - mean).norm() < 0.5 * (free.image.flatten() - mean).norm()


def test_gradient_is_that_of_deepinv_for_each_image_of_a_batch():
    """The peer, whose norm is over one image too, with the operator on two channels."""
    problem, covariance, _, _ = gaussian_case(torch.complex64)
    prior = GaussianDenoiser(covariance)
    x = complex_noise((3, 2, 3), 1.0, torch.Generator().manual_seed(3))

    def channels(value):
        return torch.view_as_real(value).movedim(-1, 1)

    def image(value):
        return torch.view_as_complex(value.movedim(1, -1).contiguous())

    physics = deepinv.physics.LinearPhysics(A=lambda v: channels(problem.operator.forward(image(v))))
    fidelity = deepinv.sampling.DPSDataFidelity(
        lambda v, sigma: channels(prior.denoise(image(v), sigma, create_graph=True))
    )
    expected = fidelity.grad(channels(x), channels(problem.data.expand(3, -1)), physics, 0.5)
    estimate, residual, gradient = residual_gradient(problem, prior, x, 0.5)
    torch.testing.assert_close(gradient, image(expected))
    torch.testing.assert_close(estimate, prior.denoise(x, 0.5))
    torch.testing.assert_close(residual, problem.operator.forward(estimate) - problem.data)
    for index in range(3):
        single = residual_gradient(problem, prior, x[index : index + 1], 0.5)[2]
        torch.testing.assert_close(single[0], gradient[index])


@pytest.mark.parametrize("name", ["diffusion", "deepen"])
def test_gradient_through_learned_denoisers_by_differences(name):
    settings = {"widths": [4, 4, 8, 8], "blocks": 1} if name == "diffusion" else {"widths": [4]}
    prior = make_prior(name, weights="none", **settings).double()
    problem, *_ = gaussian_case()
    x, v = complex_noise((2, 1, 2, 3), 1.0, torch.Generator().manual_seed(3), torch.complex128)
    gradient = residual_gradient(problem, prior, x, 0.1)[2]
    ahead, behind = (residual_gradient(problem, prior, x + sign * 1e-6 * v, 0.1)[1].norm() for sign in (1, -1))
    torch.testing.assert_close((gradient.conj() * v).real.sum(), (ahead - behind) / 2e-6, rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", ["dps", "dds"])
def test_draws_are_laid_out_by_chain_and_repeat_with_the_seed(solver):
    problem, covariance, _, _ = gaussian_case()
    prior = GaussianDenoiser(covariance)
    solve = make_solver(solver, steps=5, samples=3, batch=2)
    seen = []
    samples = solve(problem, prior, monitor=lambda step, values: seen.append((step, *values)))
    assert samples.draws.shape == (3, 1, 1, 2, 3) and samples.iterations.tolist() == [5]
    assert seen == [(5, "mismatch_rms"), (10, "mismatch_rms")]
    torch.testing.assert_close(samples.image, samples.draws.mean((0, 1)))
    assert torch.equal(samples.draws, solve(problem, prior).draws)
    assert not torch.equal(samples.draws, solve(problem, prior, generator=torch.Generator().manual_seed(1)).draws)
    several = InverseProblem(problem.operator, problem.data.repeat(2, 1), scale=problem.scale.repeat(2))
    assert solve(several, prior).draws.shape == (3, 1, 2, 2, 3)


@pytest.mark.parametrize(("known", "used"), [((0.01, 0.5), (0.5, 0.0317)), ((0.1, 50.0), (9.845, 0.1))])
def test_dps_stays_within_the_levels_of_the_prior(known, used):
    problem, covariance, _, _ = gaussian_case()
    levels = []

    class Recorded(GaussianDenoiser):
        def denoise(self, image, noise_level, *, create_graph=False):
            levels.append(float(noise_level))
            return super().denoise(image, noise_level, create_graph=create_graph)

    make_solver("dps", steps=10, samples=1)(problem, Recorded(covariance, noise_range=known))
    assert (levels[0], levels[-1]) == pytest.approx(used, abs=5e-4) and len(levels) == 11
    assert levels == sorted(levels, reverse=True)


def test_dps_refuses_a_prior_without_levels_of_the_schedule():
    problem, covariance, _, _ = gaussian_case()
    with pytest.raises(CompatibilityError, match=r"noise from 9\.85 to 0\.0317; .* knows 0\.01 to 0\.02"):
        make_solver("dps")(problem, GaussianDenoiser(covariance, noise_range=(0.01, 0.02)))


def test_dps_refuses_a_denoiser_without_derivative():
    problem, covariance, _, _ = gaussian_case()

    class Detached(GaussianDenoiser):
        def denoise(self, image, noise_level, *, create_graph=False):
            return super().denoise(image.detach(), noise_level)

    with pytest.raises(CompatibilityError, match="differentiates the denoiser"):
        make_solver("dps")(problem, Detached(covariance))


@pytest.mark.parametrize("solver", ["dps", "dds"])
def test_divergence_is_an_error(solver):
    class Broken(Prior):
        name, provides, noise_range = "broken", frozenset({"denoiser", "noise-conditional"}), (0.01, 1.0)

        def denoise(self, image, noise_level, *, create_graph=False):
            return image * float("nan")

    with pytest.raises(MriinvError, match="diverged after"):
        make_solver(solver, steps=10)(gaussian_case()[0], Broken())


def ladder(prior, steps):
    lowest, highest = prior.noise_range
    return [*(highest * (lowest / highest) ** (k / (steps - 1)) for k in range(steps)), 0.0]


@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_dds_without_data_is_ddim(eta):
    """Variance per eigenvector of the prior: x' = (k + √(σ'² − c²)(1 − k)/σ)x + cz with k = q/(q + σ²)."""
    problem, covariance, _, _ = gaussian_case()
    prior = GaussianDenoiser(covariance, noise_range=(0.05, 5.0))
    solver = make_solver("dds", steps=12, eta=eta, data_weight=1e-9, samples=5000, batch=5000)
    variance, factor = torch.full_like(prior.variances, 25.0), torch.ones_like(prior.variances)
    levels = ladder(prior, 12)
    for level, after in pairwise(levels):
        kept, fresh = prior.variances / (prior.variances + level**2), eta * after * math.sqrt(1 - (after / level) ** 2)
        slope = kept + math.sqrt(after**2 - fresh**2) * (1 - kept) / level
        variance, factor = slope**2 * variance + fresh**2, slope * factor
    samples = solver(problem, prior, initial=zeros(problem))
    modes = samples.draws[:, 0, 0].flatten(1) @ prior.basis.conj()
    torch.testing.assert_close(modes.abs().square().mean(0) / 2, variance, rtol=0.06, atol=0)
    if eta == 0:  # then the first noise says it all
        noise = complex_noise((5000, 2, 3), 5.0, torch.Generator().manual_seed(0), torch.complex128)
        torch.testing.assert_close(modes, factor * (noise.flatten(1) @ prior.basis.conj()), rtol=1e-5, atol=1e-6)


def test_dds_makes_denoised_images_consistent_by_conjugate_gradients():
    """Two levels by dense algebra; six unknowns take six iterations."""
    problem, covariance, _, _ = gaussian_case()
    prior, weight = GaussianDenoiser(covariance, noise_range=(0.1, 1.0)), 3.0
    solver = make_solver("dds", steps=2, eta=0.0, data_weight=weight, cg_iterations=8, samples=1)
    matrix = problem.operator.matrix
    x = complex_noise((1, 2, 3), 1.0, torch.Generator().manual_seed(0), torch.complex128)
    for level, after in ((1.0, 0.1), (0.1, 0.0)):
        denoised = prior.denoise(x, level).flatten()
        rhs = matrix.mH @ problem.data[0] + denoised / weight
        consistent = torch.linalg.solve(matrix.mH @ matrix + torch.eye(6) / weight, rhs)
        x = (consistent + after * (x.flatten() - denoised) / level).view(1, 2, 3)
    torch.testing.assert_close(solver(problem, prior, initial=zeros(problem)).image, x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("solver", "wrong"), [("dps", {"steps": 0}), ("dps", {"scale": -1}), ("dds", {"eta": 1.1})])
def test_settings_are_checked(solver, wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        make_solver(solver, **wrong)


@pytest.mark.parametrize("solver", ["dps", "dds", "pnp-flow"])
def test_an_energy_of_many_levels_serves_too(solver):
    prior = make_prior("deepen", weights="none", widths=[4])
    problem, *_ = gaussian_case(torch.complex64)
    problem = InverseProblem(problem.operator, problem.data, NOISE, torch.ones(1))
    assert torch.isfinite(make_solver(solver, steps=12)(problem, prior).image.abs()).all()


def test_priors_without_levels_are_refused():
    with pytest.raises(CompatibilityError, match="noise-conditional"):
        make_solver("dps")(gaussian_problem()[0], gaussian_problem()[1])


def test_dds_takes_as_many_iterations_as_it_is_told():
    problem, covariance, _, _ = gaussian_case()
    prior = GaussianDenoiser(covariance, noise_range=(0.1, 1.0))
    one, all_ = (make_solver("dds", steps=2, eta=0.0, cg_iterations=n, samples=1)(problem, prior).image for n in (1, 8))
    assert (one - all_).norm() > 1e-3 * all_.norm()
