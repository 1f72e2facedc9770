"""PnP-Flow against Gaussian images, whose flow is a closed form."""

import pytest
import torch

from mriinv import CompatibilityError, InverseProblem, MriinvError, SettingsError, complex_noise, make_solver
from mriinv.testing.analytic import DenseOperator, GaussianDenoiser, gaussian_problem


def gaussian_case():
    problem, quadratic, _ = gaussian_problem(shape=(2, 3), samples=4)
    return problem, GaussianDenoiser(0.05 * torch.linalg.inv(quadratic.matrix))


def test_the_step_is_relative_to_the_norm_of_the_operator():
    problem, prior = gaussian_case()
    matrix, data = problem.operator.matrix, problem.data
    images = []
    for factor in (1, 4):  # the same images fit; unstable unless the step follows
        scaled = InverseProblem(DenseOperator(factor * matrix, (2, 3)), factor * data, scale=1)
        images.append(make_solver("pnp-flow", steps=6)(scaled, prior).image)
        assert scaled.operator.norm_bound == pytest.approx(factor * problem.operator.norm_bound)
    torch.testing.assert_close(images[1] - images[0], torch.zeros_like(images[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("time", [0.2, 0.7])
def test_denoiser_of_the_flow_is_that_of_white_noise(time):
    """y + (1 − t) v(y, t) with the velocity of Gaussian images, E[x − ε | y] by linear regression."""
    _, prior = gaussian_case()
    covariance, eye = prior.basis @ torch.diag(prior.variances).to(prior.basis.dtype) @ prior.basis.mH, torch.eye(6)
    y = complex_noise((1, 2, 3), 1.0, torch.Generator().manual_seed(2), torch.complex128)
    regression = (time * covariance - (1 - time) * eye) @ torch.linalg.inv(time**2 * covariance + (1 - time) ** 2 * eye)
    flow = y + (1 - time) * (y.flatten(1) @ regression.T).view(y.shape)
    torch.testing.assert_close(prior.denoise(y / time, (1 - time) / time), flow)


def test_two_steps_by_dense_algebra():
    problem, prior = gaussian_case()
    matrix, generator = problem.operator.matrix, torch.Generator().manual_seed(4)
    x = torch.ones(6, dtype=torch.complex128)
    for time in (1 / 3, 2 / 3):
        z = x - 0.8 * (1 - time) ** 2 * (matrix.mH @ (matrix @ x - problem.data[0]))
        noise = complex_noise((4, 2, 3), 1.0, generator, torch.complex128)
        path = time * z.view(1, 2, 3) + (1 - time) * noise
        x = prior.denoise(path / time, (1 - time) / time).mean(0).flatten()
    solver = make_solver("pnp-flow", steps=3, step_size=0.8, exponent=2, draws=4)
    start = torch.ones(1, 2, 3, dtype=torch.complex128)
    solution = solver(problem, prior, initial=start, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(solution.image.flatten(), x)
    assert solution.iterations.tolist() == [2] and solution.history["change"].shape == (2, 1)


def test_images_of_zeros_are_reconstructed():
    """A start of zeros, and an empty slice beside another."""
    problem, prior = gaussian_case()
    solver = make_solver("pnp-flow", steps=10)
    from_zero = solver(problem, prior, initial=torch.zeros(1, 2, 3, dtype=torch.complex128))
    assert from_zero.image.isfinite().all() and from_zero.history["change"].max() < 10
    several, *_ = gaussian_problem(shape=(2, 3), samples=4, batch=2)
    empty = InverseProblem(several.operator, torch.stack([0 * several.data[0], several.data[1]]), scale=1)
    assert solver(empty, prior).image.isfinite().all()


def test_seeds_and_batches():
    problem, prior = gaussian_case()
    solver = make_solver("pnp-flow", steps=30)
    first = solver(problem, prior).image
    assert torch.equal(first, solver(problem, prior).image)
    other = solver(problem, prior, generator=torch.Generator().manual_seed(1)).image
    assert not torch.equal(first, other)
    several, *_ = gaussian_problem(shape=(2, 3), samples=4, batch=2)
    assert solver(several, prior).image.shape == (2, 2, 3)


def test_times_outside_the_range_of_the_prior():
    problem, prior = gaussian_case()
    levels = []

    class Recorded(GaussianDenoiser):
        def denoise(self, image, noise_level, *, create_graph=False):
            levels.append(noise_level)
            return super().denoise(image, noise_level)

    prior = Recorded(torch.eye(6, dtype=torch.complex128), noise_range=(0.2, 1.0))
    make_solver("pnp-flow", steps=10)(problem, prior)
    assert levels == pytest.approx([1.0, 4 / 6, 3 / 7, 2 / 8, 0.2])
    with pytest.raises(CompatibilityError, match="set more steps"):
        make_solver("pnp-flow", steps=2)(problem, GaussianDenoiser(torch.eye(6).cdouble(), noise_range=(0.1, 0.5)))


def test_divergence_and_settings_are_errors():
    problem, _ = gaussian_case()
    broken = GaussianDenoiser(torch.eye(6).cdouble(), mean=torch.full((6,), torch.nan).cdouble())
    with pytest.raises(MriinvError, match="diverged after 1 steps"):
        make_solver("pnp-flow")(problem, broken)
    with pytest.raises(SettingsError, match="draws"):
        make_solver("pnp-flow", draws=0)
