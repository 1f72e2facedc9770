"""MoL: its fixed point in closed form, its gradients, and the constraint on its network."""

import math

import pytest
import torch

from mriinv import complex_noise, make_prior, make_problem, make_solver, simulate_acquisition
from mriinv.errors import SettingsError
from mriinv.numerics.images import relative_norm
from mriinv.testing.analytic import gaussian_problem
from support import random

SHAPE = (4, 6)
SMALL = {"widths": [4, 6], "blocks": 1}
TIGHT = {"tolerance": 1e-10, "cg_tolerance": 1e-12, "iterations": 300}


def mol(**more):
    torch.manual_seed(0)
    return make_prior("mol", weights="none", **{**SMALL, **more}).double()


def problem():
    return gaussian_problem(SHAPE, samples=14, batch=2)[0]


def linear(largest, seed=3):
    """x ↦ Mx with spectral norm `largest`, as a network."""
    matrix = random(24, 24, seed=seed)
    matrix *= largest / torch.linalg.matrix_norm(matrix, 2)
    return matrix, lambda x: (x.flatten(1) @ matrix.T).view_as(x)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_fixed_point_with_a_linear_network_is_known_and_independent_of_alpha(alpha):
    """λAᴴ(Ax − b) + x − Hx = 0."""
    data, prior = problem(), mol(alpha=alpha, initial_data_weight=7.0, **TIGHT)
    matrix, prior.contraction = linear(0.9)
    solution = prior.reconstruct(data)
    weight, normal = math.exp(float(prior.log_data_weight)), data.operator.matrix.mH @ data.operator.matrix
    system = weight * normal + torch.eye(24, dtype=torch.complex128) - matrix
    expected = torch.linalg.solve(system, weight * data.back_projection().flatten(1).T).T.view_as(solution.image)
    assert solution.converged.all()
    torch.testing.assert_close(solution.image, expected, rtol=1e-7, atol=1e-7)


def test_the_data_weigh_as_much_more_as_they_have_less_noise():
    """λ/γ in the place of λ, γ = η/η₀ for each image."""
    data, prior = problem(), mol(initial_data_weight=7.0, data_noise_std=0.01, **TIGHT)
    matrix, prior.contraction = linear(0.9)
    solution = prior.at_noise(torch.tensor([0.01, 0.0025], dtype=torch.float64)).reconstruct(data)
    normal, projected = data.operator.matrix.mH @ data.operator.matrix, data.back_projection().flatten(1)
    for image, right, weight in zip(solution.image, projected, (7.0, 28.0), strict=True):
        system = weight * normal + torch.eye(24, dtype=torch.complex128) - matrix
        torch.testing.assert_close(image.flatten(), torch.linalg.solve(system, weight * right), rtol=1e-6, atol=1e-6)
    fixed = mol(data_noise_std=None)
    assert fixed.at_noise(torch.tensor([0.5, 0.5])) is fixed


def test_the_iteration_ends_at_the_fixed_point_and_not_where_conjugate_gradients_are_content():
    """Data that weigh a lot: what they leave open hardly shows in the residual of the data consistency."""
    data, prior = problem(), mol(initial_data_weight=1e5)
    _, prior.contraction = linear(0.5)
    solution = prior.reconstruct(data)
    weight, x = math.exp(float(prior.log_data_weight)), solution.image
    left = weight * data.data_gradient(x) + x - prior.contraction(x)
    assert solution.converged.all() and (relative_norm(left, x) < 1e-3).all(), relative_norm(left, x)


def test_implicit_gradient_is_that_of_many_unrolled_steps():
    """In the parameters of the network, in its gain and in λ."""
    data, weight, found = problem(), random(2, *SHAPE, seed=5), []
    for gradient, settings in (("implicit", {}), ("unrolled", {"iterations": 40})):
        prior = mol(gradient=gradient, monotonicity=0.5, **{**TIGHT, **settings}).requires_grad_(True)
        image = prior.reconstruct(data).image
        loss = (image.conj() * weight).real.sum()
        found.append((image.detach(), torch.autograd.grad(loss, list(prior.parameters()))))
    (implicit, gradients), (unrolled, others) = found
    torch.testing.assert_close(implicit, unrolled, rtol=1e-8, atol=1e-8)
    for one, other in zip(gradients, others, strict=True):
        assert other.norm() > 0 and (one - other).norm() <= 1e-5 * other.norm()


def test_gradient_in_the_data_weight_is_that_of_differences():
    data, weight, prior = problem(), random(2, *SHAPE, seed=5), mol(monotonicity=0.5, **TIGHT).requires_grad_(True)

    def loss():
        return (prior.reconstruct(data).image.conj() * weight).real.sum()

    (slope,) = torch.autograd.grad(loss(), prior.log_data_weight)
    values = []
    with torch.no_grad():
        for move in (1e-3, -2e-3):
            prior.log_data_weight += move
            values.append(float(loss()))
    assert float(slope) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-6)


@pytest.mark.parametrize(("largest", "expected"), [(0.5, -math.log(0.4)), (1.2, 3 * math.log(10) + 301)])
def test_barrier_is_the_published_one(largest, expected):
    """With H = cU, U unitary, every quotient is c: −log(T − c) below T = 0.9, −log e + (c − T + e)/e above."""
    prior = mol(barrier_weight=2.0)
    matrix, _ = linear(1.0)
    unitary, _ = torch.linalg.qr(matrix)
    prior.contraction = lambda x: largest * (x.flatten(1) @ unitary.T).view_as(x)
    value = prior.penalty(random(2, *SHAPE, std=0.5), torch.Generator().manual_seed(0))
    assert float(value) == pytest.approx(2 * expected)


def test_the_ascent_raises_the_quotient_and_leaves_no_gradient():
    prior, image = mol(initial_gain=10.0).requires_grad_(True), random(2, 12, 12, std=0.5)
    start = image + 0.01 * complex_noise(image.shape, 1.0, torch.Generator().manual_seed(0), image.dtype)
    found = prior._ascend(image, torch.Generator().manual_seed(0))
    before, after = (prior._quotient(image, prior.contraction(image), v) for v in (start, found))
    assert (after > before).all()
    assert not found.requires_grad and all(p.grad is None for p in prior.parameters())
    prior.penalty(image, torch.Generator().manual_seed(0)).backward()
    assert prior.log_gain.grad is not None and prior.log_data_weight.grad is None


def test_the_penalty_makes_the_network_contract():
    """A network that expands is brought below 1 by the penalty alone; without it there is no constraint."""
    prior = mol(initial_gain=40.0).requires_grad_(True)
    image, generator = random(2, 12, 12, std=0.5), torch.Generator().manual_seed(0)

    def largest():
        v = prior._ascend(image, torch.Generator().manual_seed(7))
        return float(prior._quotient(image, prior.contraction(image), v).max().detach())

    assert largest() > 1.1
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        prior.penalty(image, generator).backward()
        optimizer.step()
    assert largest() < 1
    assert mol(barrier_weight=0).penalty(image, generator) == 0


def test_training_begins_near_sense_and_a_reconstruction_by_name_has_no_graph():
    acquisition = simulate_acquisition(shape=(48, 48), coils=4, noise_std=0.007)
    torch.manual_seed(0)
    prior, problem, seen = make_prior("mol", weights="none"), make_problem(acquisition), []
    solution = make_solver("end-to-end")(problem, prior, monitor=lambda i, values: seen.append((i, values["change"])))
    sense = problem.sense() * problem.operator.support
    assert (solution.image - sense).norm() < 0.02 * sense.norm()
    assert solution.converged.all() and not solution.image.requires_grad
    assert seen == [(int(solution.iterations), pytest.approx(float(solution.history["change"][-1, 0])))]
    assert seen[0][1] <= prior.settings.tolerance


@pytest.mark.parametrize("network", ["cnn", "unet"])
def test_both_networks_learn(network):
    widths = SMALL["widths"] if network == "unet" else [4]
    data, prior = problem(), mol(network=network, widths=widths).requires_grad_(True)
    image = prior.reconstruct(data).image
    image.abs().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


def test_wrong_settings_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'monotonicity'"):
        make_prior("mol", weights="none", monotonicty=0.1)
    for name, value in (("alpha", 1.5), ("alpha", 0), ("monotonicity", 1.0), ("barrier_weight", -1), ("gradient", "x")):
        with pytest.raises(SettingsError, match=rf"mol\.{name}"):
            make_prior("mol", weights="none", **{name: value})


def test_the_ascent_keeps_the_norm_of_each_image():
    prior, image = mol(initial_gain=10.0), random(2, 12, 12, std=0.5)
    found = prior._ascend(image, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), image.flatten(1).norm(dim=1))
