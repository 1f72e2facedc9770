"""Zero-filled, CG-SENSE and FISTA against dense algebra, optimality conditions, and what they state."""

import pytest
import torch

from mriinv import InverseProblem, MriinvError, Prior, make_prior, make_solver
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem

EXACT = {"tolerance": 1e-13, "max_iterations": 5000}


class ProximalQuadratic(QuadraticPrior):
    """½xᴴQx with its proximal map (I + step·Q)⁻¹."""

    provides = frozenset({"proximal"})

    def proximal(self, image, step, memory=None):
        matrix = torch.eye(len(self.matrix)) + step * self.matrix
        return torch.linalg.solve(matrix, image.flatten(1).T).T.view_as(image)


class Lasso(Prior):
    """λ‖x‖₁ without an energy, as plug-and-play maps have none."""

    name = "lasso"
    provides = frozenset({"proximal"})
    weight = 0.1

    def proximal(self, image, step, memory=None):
        return image * (1 - self.weight * step / image.abs()).clamp_min(0)


def dense_solution(problem, hessian):
    return torch.linalg.solve(hessian, problem.back_projection().flatten(1).T).T.unflatten(1, problem.operator.shape)


@pytest.mark.parametrize("batch", [1, 3])
def test_fista_reaches_the_dense_solution_of_a_quadratic_energy(batch):
    problem, prior, hessian = gaussian_problem(batch=batch)
    solution = make_solver("fista", **EXACT)(problem, ProximalQuadratic(prior.matrix))
    assert solution.converged.all()
    torch.testing.assert_close(solution.image, dense_solution(problem, hessian), rtol=1e-9, atol=1e-10)


def test_fista_meets_the_optimality_conditions_of_the_lasso():
    problem, _, _ = gaussian_problem(samples=7)
    x = make_solver("fista", **EXACT)(problem, Lasso()).image
    descent = -problem.data_gradient(x)
    nonzero = x.abs() > 0
    assert nonzero.any() and not nonzero.all()
    torch.testing.assert_close(descent[nonzero], Lasso.weight * (x / x.abs())[nonzero], rtol=0, atol=1e-10)
    assert (descent[~nonzero].abs() <= Lasso.weight + 1e-10).all()


def test_fista_takes_the_norm_of_the_operator_into_account():
    """Data and energy that are scaled together have the same solution; a unit step would diverge."""
    problem, prior, hessian = gaussian_problem()
    operator = type(problem.operator)(3 * problem.operator.matrix, problem.operator.shape)
    larger = InverseProblem(operator, 3 * problem.data, scale=problem.scale)
    image = make_solver("fista", **EXACT)(larger, ProximalQuadratic(9 * prior.matrix)).image
    torch.testing.assert_close(image, dense_solution(problem, hessian), rtol=1e-9, atol=1e-10)


def test_fista_records_change_and_data_term():
    problem, prior, _ = gaussian_problem(batch=2)
    prior = ProximalQuadratic(prior.matrix)
    solution = make_solver("fista")(problem, prior)
    history = solution.history
    assert set(history) == {"change", "data"}
    torch.testing.assert_close(history["data"][-1], problem.data_term(solution.image))


def test_fista_restarts_where_momentum_overshoots():
    problem, prior, hessian = gaussian_problem()
    exact = dense_solution(problem, hessian)
    solution = make_solver("fista", tolerance=1e-6)(problem, ProximalQuadratic(prior.matrix))
    assert (solution.image - exact).norm() < 1e-5 * exact.norm()
    # λmin = 0.1 and α = 1: gradient descent needs ln(1e6)/0.1 = 138 iterations, momentum a third of them
    assert solution.iterations.item() < 60


def test_fista_stops_by_the_relative_change_image_by_image():
    problem, prior, _ = gaussian_problem(batch=2)
    prior = ProximalQuadratic(prior.matrix)
    data = problem.data * torch.tensor([[1.0], [0.0]])
    start = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)]).to(torch.complex128)
    solver = make_solver("fista", tolerance=1e-3)
    both = solver(InverseProblem(problem.operator, data, scale=problem.scale), prior, initial=start)
    assert both.converged.all() and both.iterations[1] == 1 < both.iterations[0]
    change = both.history["change"][:, 0]
    assert change[-1] <= 1e-3 < change[:-1].min()
    alone = solver(InverseProblem(problem.operator, data[:1], scale=torch.ones(1)), prior, initial=start[:1])
    torch.testing.assert_close(both.image[:1], alone.image)
    assert not make_solver("fista", tolerance=1e-13, max_iterations=2)(problem, prior).converged.any()


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
def test_solution_does_not_depend_on_the_units_of_the_data(name):
    problem, _, _ = gaussian_problem(shape=(4, 4))
    images = [
        make_solver("fista")(InverseProblem(problem.operator, f * problem.data, f * 0.01), make_prior(name)).image / f
        for f in (1.0, 1e4)
    ]
    torch.testing.assert_close(*images)


def test_fista_refuses_a_prior_without_proximal_map():
    problem, prior, _ = gaussian_problem()
    with pytest.raises(MriinvError, match=r"cannot combine prior 'quadratic' with solver 'fista'.*proximal"):
        make_solver("fista")(problem, prior)


def test_zero_filled_is_the_adjoint():
    problem, _, _ = gaussian_problem(batch=2)
    solution = make_solver("zero-filled")(problem)
    assert torch.equal(solution.image, problem.back_projection())
    assert solution.converged.all() and not solution.iterations.any() and not solution.history


def test_cg_sense_is_the_dense_solution():
    problem, _, _ = gaussian_problem(batch=2)
    solution = make_solver("cg-sense", regularisation=0.02, tolerance=1e-12)(problem)
    hessian = problem.operator.matrix.mH @ problem.operator.matrix + 0.02 * torch.eye(12)
    torch.testing.assert_close(solution.image, dense_solution(problem, hessian))


def test_cg_sense_takes_the_norm_of_the_operator_into_account():
    problem, _, _ = gaussian_problem()
    operator = type(problem.operator)(3 * problem.operator.matrix, problem.operator.shape)
    larger = InverseProblem(operator, 3 * problem.data, scale=problem.scale)
    images = [make_solver("cg-sense", regularisation=0.02, tolerance=1e-12)(p).image for p in (problem, larger)]
    torch.testing.assert_close(*images)


def test_the_regularisation_of_cg_sense_follows_the_noise_unless_it_is_set():
    problem, _, _ = gaussian_problem(batch=2)
    noise = torch.tensor([0.005, 0.02], dtype=torch.float64)
    noisy = InverseProblem(problem.operator, problem.data, noise, problem.scale)
    rule = 3.8 * noise**1.2
    expected = [make_solver("cg-sense", regularisation=float(value))(problem).image[i] for i, value in enumerate(rule)]
    torch.testing.assert_close(make_solver("cg-sense")(noisy).image, torch.stack(expected))
    set_to, unknown = make_solver("cg-sense", regularisation=0.01)(noisy), make_solver("cg-sense")(problem)
    torch.testing.assert_close(set_to.image, unknown.image)


def test_the_last_iteration_that_is_allowed_may_converge():
    problem, _, _ = gaussian_problem()
    few, enough = (make_solver("cg-sense", tolerance=1e-12, max_iterations=most)(problem) for most in (2, 100))
    assert not few.converged.any() and enough.converged.all()
    just = make_solver("cg-sense", tolerance=1e-12, max_iterations=int(enough.iterations))(problem)
    assert just.converged.all()
