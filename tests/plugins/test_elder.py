"""ELDER: its iteration against linear algebra, its gradients against each other and against differences."""

from functools import partial

import pytest
import torch

from mriinv import Prior, make_prior, make_problem, make_solver, simulate_acquisition
from mriinv.errors import SettingsError
from mriinv.testing.analytic import gaussian_problem
from mriinv.testing.priors import check_capabilities, check_gradient
from support import random, scaled_problem

FORMS = {"residual": {"widths": [4, 6], "blocks": 1}, "published": {"form": "published", "widths": [4]}}
SHAPE = (4, 6)


def elder(form="residual", **more):
    torch.manual_seed(0)
    return make_prior("elder", weights="none", **FORMS[form], **more).double()


def problem():
    return gaussian_problem(SHAPE, samples=14, batch=2)[0]


@pytest.mark.parametrize("form", FORMS)
def test_energy_and_its_gradient(form):
    prior, x = elder(form), random(2, 9, 12, std=0.5)
    check_gradient(prior, x)
    check_capabilities(prior, x)
    assert (prior.energy(x) >= 0).all() and prior.energy(x).dtype == torch.float64
    explicit, by_autograd = prior.energy_and_gradient(x), prior.energy_and_gradient(x, create_graph=True)
    torch.testing.assert_close(explicit, by_autograd, rtol=1e-10, atol=1e-12)
    if form == "residual":
        torch.testing.assert_close(prior.denoise(x, 0.1), prior.denoise(x, 0.1, create_graph=True), rtol=1e-10, atol=0)


@pytest.mark.parametrize("iterations", [1, 7])
def test_with_a_quadratic_energy_the_iterates_are_known(iterations):
    """x_K = (I − αP)^K (x_0 − x*) + x*, with P = AᴴA + Q and x* = P⁻¹Aᴴb."""
    data, quadratic, hessian = gaussian_problem(SHAPE, samples=14, batch=2)
    prior = elder(iterations=iterations, initial_step=0.7)
    prior.energy_and_gradient = quadratic.energy_and_gradient
    x0 = random(2, *SHAPE, std=0.5)
    solution = prior.reconstruct(data, initial=x0)
    target = torch.linalg.solve(hessian, data.back_projection().flatten(1).T)
    power = torch.linalg.matrix_power(torch.eye(24, dtype=hessian.dtype) - prior_step(solution) * hessian, iterations)
    expected = (power @ (x0.flatten(1).T - target) + target).T.view_as(x0)
    assert prior_step(solution) == pytest.approx(0.7)
    torch.testing.assert_close(solution.image, expected, rtol=1e-6, atol=1e-6)  # the step is single precision


def prior_step(solution):
    (step,) = set(solution.history["step"].flatten().tolist())
    return step


def test_a_step_that_would_diverge_is_shortened():
    data, quadratic, hessian = gaussian_problem(SHAPE, samples=14)
    prior = elder(iterations=400, initial_step=50.0)
    prior.energy_and_gradient = quadratic.energy_and_gradient
    solution = prior.reconstruct(data)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert 0.5 / largest < prior_step(solution) < 2 / largest
    expected = torch.linalg.solve(hessian, data.back_projection().flatten())
    torch.testing.assert_close(solution.image.flatten(), expected, rtol=1e-4, atol=1e-4)
    assert solution.converged.all()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_through_the_iterations_is_that_of_differences(form):
    """In α, and in the parameters of the energy along a random direction."""
    smooth = {"activation": "softplus"} if form == "published" else {}
    prior = elder(form, iterations=3, initial_step=0.4, **smooth).requires_grad_(True)
    data, weight = problem(), random(2, *SHAPE, seed=5)
    parameters = list(prior.parameters())
    with torch.no_grad():
        directions = [torch.randn_like(p) * (1e-1 + p.abs().mean()) for p in parameters]

    def loss(image):
        return (image.conj() * weight).real.sum()

    found = torch.autograd.grad(loss(prior.reconstruct(data).image), parameters)
    moves = list(zip(parameters, directions, found, strict=True))
    for of_the_step in (True, False):
        pairs = [move for move in moves if (move[0] is prior.raw_step) == of_the_step]
        slope = sum((g * d).sum() for _, d, g in pairs)
        values = []
        with torch.no_grad():
            for move in (1e-5, -2e-5):
                for p, d, _ in pairs:
                    p.add_(d, alpha=move)
                values.append(loss(prior.reconstruct(data).image))
            for p, d, _ in pairs:
                p.add_(d, alpha=1e-5)
        assert float(slope) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-5)


def test_many_unrolled_steps_have_the_implicit_gradient():
    """E = e^s (½‖x‖² + 0.02 Σ|x|⁴) bends everywhere, so that the descent ends."""
    data, weight, found = problem(), random(2, *SHAPE, seed=5), []
    for settings in ({"iterations": 150}, {"iterations": 100, "gradient": "implicit", "tolerance": 1e-11}):
        prior = elder(initial_scale=0.3, initial_step=0.8, **settings).requires_grad_(True)

        def energy(x, level=None, prior=prior):
            square = x.real.square() + x.imag.square()
            return prior.log_scale.exp() * (0.5 * square + 0.02 * square.square()).sum((1, 2))

        prior.energy, prior.energy_and_gradient = energy, partial(Prior.energy_and_gradient, prior)
        image = prior.reconstruct(data).image
        (gradient,) = torch.autograd.grad((image.conj() * weight).real.sum(), prior.log_scale)
        found.append((image.detach(), gradient))
    (unrolled, gradient), (implicit, other) = found
    torch.testing.assert_close(unrolled, implicit, rtol=1e-8, atol=1e-8)
    assert abs(gradient - other) <= 1e-6 * abs(gradient)


def test_reconstructs_by_name_without_a_graph_and_reports():
    prior, acquisition = elder(), simulate_acquisition(shape=(32, 32), coils=4)
    seen = []
    single = prior.float()
    solution = make_solver("end-to-end")(
        make_problem(acquisition), single, monitor=lambda iteration, values: seen.append((iteration, values["change"]))
    )
    assert solution.image.dtype == torch.complex64 and not solution.image.requires_grad
    assert seen[-1] == (30, pytest.approx(float(solution.history["change"][-1, 0])))
    assert solution.history["change"].shape == solution.history["step"].shape == (30, 1)


def test_untrained_it_stays_near_sense():
    """The energy begins small: on noisy simulated data the image changes by less than 0.1 % of its energy."""
    acquisition = simulate_acquisition(shape=(64, 64), coils=4, noise_std=0.007)
    problem = make_problem(acquisition).normalised()
    torch.manual_seed(0)
    prior = make_prior("elder", weights="none")
    sense, image = problem.sense(), prior.reconstruct(problem).image.detach()
    assert (image - sense).abs().square().sum() < 1e-3 * sense.abs().square().sum()


def test_wrong_settings_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'iterations'"):
        make_prior("elder", weights="none", iteration=3)
    for name, value in (("iterations", 0), ("initial_step", 0), ("form", "deep"), ("gradient", "none"), ("widths", ())):
        with pytest.raises(SettingsError, match=rf"elder\.{name}"):
            make_prior("elder", weights="none", **{name: value})


def test_the_learned_step_is_held_below_the_limit_of_the_operator():
    data, quadratic, hessian = scaled_problem(shape=(4, 6), samples=14)
    torch.manual_seed(0)
    prior = make_prior("elder", weights="none", widths=[4, 6], blocks=1, iterations=3, initial_step=50.0).double()
    prior.energy_and_gradient = quadratic.energy_and_gradient
    (step,) = set(prior.reconstruct(data).history["step"].flatten().tolist())
    largest = float(torch.linalg.eigvalsh(9 * (hessian - quadratic.matrix) + quadratic.matrix)[-1])
    assert 0.5 / largest < step < 2 / largest
