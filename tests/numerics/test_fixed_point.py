"""Gradients of iterations against closed forms and plain autograd, in double precision."""

import pytest
import torch

from mriinv import MriinvError, equilibrium, normal_map, regularised_inverse, unroll
from mriinv.testing.analytic import DenseOperator, gaussian_problem
from support import graph_size, random

SHAPE = (3, 4)
IMAGES = (2, *SHAPE)


def affine(largest=0.8, seed=2):
    """x ↦ s·Mx + c with ‖M‖ = `largest`; M, s and c are the parameters."""
    matrix = random(12, 12, seed=seed)
    matrix = (largest * matrix / torch.linalg.matrix_norm(matrix, 2)).requires_grad_()
    constant = random(*IMAGES, seed=3).requires_grad_()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    parameters = [matrix, constant, scale]
    return lambda x: scale * (x.flatten(1) @ matrix.T).view_as(x) + constant, parameters


def nonlinear():
    """A smooth contraction that is not linear, with its parameters."""
    inner, parameters = affine(0.6)
    return lambda x: torch.tanh(inner(x).real) + 0.5j * torch.tanh(inner(x).imag), parameters


def gradients(image, parameters):
    weight = random(*IMAGES, seed=7)
    return torch.autograd.grad((image.conj() * weight).real.sum(), parameters)


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("make", [affine, nonlinear])
def test_implicit_gradient_is_that_of_many_unrolled_steps(make):
    step, parameters = make()
    implicit = equilibrium(step, 0 * random(*IMAGES), tolerance=1e-12)
    unrolled = unroll(step, 0 * random(*IMAGES), 150, parameters)
    assert implicit.converged.all()
    torch.testing.assert_close(implicit.image, unrolled.image, rtol=1e-10, atol=1e-10)
    assert_close(gradients(implicit.image, parameters), gradients(unrolled.image, parameters), 1e-8)


def test_equilibrium_of_an_affine_map_is_its_fixed_point_in_few_steps():
    step, (matrix, constant, _) = affine(0.95)
    with torch.no_grad():
        found = equilibrium(step, 0 * random(*IMAGES), tolerance=1e-10)
        expected = torch.linalg.solve(torch.eye(12) - matrix, constant.flatten(1).T).T.view_as(constant)
    torch.testing.assert_close(found.image, expected, rtol=1e-7, atol=1e-7)
    assert not found.image.requires_grad
    assert found.iterations.max() <= 60 and len(found.change) == found.iterations.max()
    assert (found.change[-1] <= 1e-10).all() and found.change[0].min() == 1


def test_an_image_that_has_converged_is_left_alone():
    """The other image of the batch decides how long the iteration goes on."""
    step, _ = affine()
    with torch.no_grad():
        at_rest = equilibrium(step, 0 * random(*IMAGES), tolerance=1e-13).image
        start = torch.stack([at_rest[0], 10 * random(*IMAGES)[1]])
        found = equilibrium(step, start, tolerance=1e-8)
        alone = equilibrium(lambda x: step(x.expand(2, *SHAPE))[:1], start[:1], tolerance=1e-8)
    assert found.iterations[0] == 1 < found.iterations[1]
    assert torch.equal(found.image[:1], alone.image)
    assert found.converged.all() and (found.change[1:, 0] == 0).all()


def test_an_iteration_that_does_not_contract_says_so():
    step, _ = affine(3.0)
    with torch.no_grad():
        found = equilibrium(lambda x: step(x).abs().sqrt() * (1 + 0j) + x, random(*IMAGES), max_iterations=7)
    assert not found.converged.any() and (found.iterations == 7).all()


def test_checkpoints_change_no_number_and_keep_no_graph_of_a_step():
    step, parameters = nonlinear()
    plain = unroll(step, random(*IMAGES), 5, parameters, checkpoint=False)
    saved = unroll(step, random(*IMAGES), 5, parameters)
    assert torch.equal(plain.image, saved.image) and torch.equal(plain.change, saved.change)
    for one, other in zip(gradients(plain.image, parameters), gradients(saved.image, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    assert graph_size(saved.image.grad_fn) < graph_size(plain.image.grad_fn) / 2


def test_unrolled_steps_may_differentiate():
    """∇E of E = ½θ‖x‖⁴ inside the step: x ← x − 2θ‖x‖²x, by autograd or by hand."""
    theta, start = torch.tensor(0.003, dtype=torch.float64, requires_grad=True), random(*IMAGES)

    def norm(x):
        return (x.real.square() + x.imag.square()).sum((1, 2), keepdim=True)

    def by_autograd(x):
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((0.5 * theta * norm(leaf).square()).sum(), leaf, create_graph=create)
        return x - gradient

    found = unroll(by_autograd, start, 4, [theta])
    expected = unroll(lambda x: x - 2 * theta * norm(x) * x, start, 4, checkpoint=False)
    torch.testing.assert_close(found.image, expected.image)
    assert_close(gradients(found.image, [theta]), gradients(expected.image, [theta]), 1e-12)
    with torch.no_grad():
        assert unroll(by_autograd, start, 4, [theta]).image.grad_fn is None


def test_normal_map_has_first_and_second_derivatives():
    problem, _, _ = gaussian_problem(SHAPE, batch=2)
    x = random(*IMAGES).requires_grad_()
    assert torch.equal(normal_map(problem.operator, x), problem.operator.gram(x))
    assert torch.autograd.gradcheck(lambda x: normal_map(problem.operator, x), x)
    assert torch.autograd.gradgradcheck(lambda x: normal_map(problem.operator, x), x)


def test_regularised_inverse_is_the_dense_one_with_its_derivatives():
    problem, _, _ = gaussian_problem(SHAPE, batch=2)
    operator: DenseOperator = problem.operator
    rhs, shift = random(*IMAGES).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def inverse(rhs, shift):
        return regularised_inverse(operator, rhs, shift, initial=random(*IMAGES, seed=9), tolerance=1e-13)

    def dense(rhs, shift):
        matrix = operator.matrix.mH @ operator.matrix + shift * torch.eye(12, dtype=torch.float64)
        return torch.linalg.solve(matrix, rhs.flatten(1).T).T.view_as(rhs)

    torch.testing.assert_close(inverse(rhs, shift), dense(rhs, shift))
    found, expected = (gradients(f(rhs, shift), [rhs, shift]) for f in (inverse, dense))
    assert_close(found, expected, 1e-10)
    assert torch.autograd.gradcheck(inverse, (rhs, shift))


def test_the_solve_of_a_repeated_backward_pass_starts_where_the_last_one_ended():
    problem, _, _ = gaussian_problem(SHAPE, batch=2)
    solves = []

    class Counting(DenseOperator):
        def solve_normal(self, *args, **kwargs):
            result = super().solve_normal(*args, **kwargs)
            solves.append(int(result.iterations.max()))
            return result

    rhs = random(*IMAGES).requires_grad_()
    out = regularised_inverse(Counting(problem.operator.matrix, SHAPE), rhs, torch.tensor(0.3, dtype=torch.float64))
    one, two = (torch.autograd.grad(out, rhs, random(*IMAGES, seed=4), retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(one, two)
    assert solves[2] == 0 < solves[1]


def test_what_is_no_number_has_not_converged():
    start = torch.full((1, 2, 2), 2.0, dtype=torch.complex64)
    assert not equilibrium(lambda x: 3 * x**2, start, tolerance=1e-4, max_iterations=50).converged.any()


def test_a_gradient_that_is_not_found_is_said():
    """Iterating 3x is no contraction: from 0 it stays, but no gradient comes back."""
    turned = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = 3 * torch.linalg.qr(turned).Q.to(torch.complex128)
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    found = equilibrium(lambda x: theta * x @ turned, torch.zeros(1, 4, 12, dtype=torch.complex128), max_iterations=4)
    with pytest.raises(MriinvError, match=r"not found in 4 iterations: the map does not contract there; unroll it"):
        torch.view_as_real(found.image * random(1, 4, 12)).sum().backward()
