"""MM-CG against dense algebra, and the guarantees it states."""

from dataclasses import replace

import pytest
import torch

from mriinv import InverseProblem, Iterations, MriinvError, complex_noise, inner_product, make_solver
from mriinv.testing.analytic import DenseOperator, QuadraticPrior, gaussian_problem
from support import random


class DoubleWell(QuadraticPrior):
    """A smooth non-convex energy: the quadratic one and a sum of cosines."""

    def energy(self, image, noise_level=None):
        parts = torch.view_as_real(image).flatten(1)
        return 0.05 * super().energy(image) + 0.2 * (1 - torch.cos(3 * parts)).double().sum(1)


class Conditional(QuadraticPrior):
    """An energy whose weight falls with the noise level, as a noise-conditional one does."""

    provides = frozenset({"energy", "gradient", "noise-conditional"})
    noise_range = (0.01, 0.2)

    def energy(self, image, noise_level=None):
        level = self.noise_range[0] if noise_level is None else torch.as_tensor(noise_level)
        return super().energy(image) * (self.noise_range[0] / level) ** 2


@pytest.fixture(params=[0, 10], ids=["published", "accelerated"])
def mmcg(request):
    """Build the solver in either form."""
    return lambda **settings: make_solver("mm-cg", **{"memory": request.param, **settings})


def dense_solution(problem, hessian):
    back_projection = problem.back_projection().flatten(1)
    return torch.linalg.solve(hessian, back_projection.T).T.unflatten(1, problem.operator.shape)


@pytest.mark.parametrize("batch", [1, 3])
def test_quadratic_energy_reaches_the_dense_solution(mmcg, batch):
    problem, prior, hessian = gaussian_problem(batch=batch)
    solution = mmcg(tolerance=1e-15, cg_tolerance=1e-12, cg_iterations=50)(problem, prior)
    exact = dense_solution(problem, hessian)
    assert solution.converged.all()
    assert (solution.image - exact).norm() <= 1e-6 * exact.norm()


def test_the_zero_of_the_energy_does_not_matter(mmcg):
    """A constant changes no step; the cost that changes are relative to may be negative."""

    class Offset(DoubleWell):
        offset = 0.0

        def energy(self, image, noise_level=None):
            return super().energy(image) + self.offset

    problem, prior, _ = gaussian_problem(batch=2)
    found = []
    for Offset.offset in (1e4, -1e4):
        found.append(mmcg(tolerance=1e-9)(problem, Offset(prior.matrix)))
    assert all(one.converged.all() for one in found)
    assert found[0].iterations.tolist() == pytest.approx(found[1].iterations.tolist(), abs=2)
    torch.testing.assert_close(found[0].image, found[1].image, rtol=0, atol=1e-2)


@pytest.mark.parametrize("energy", [QuadraticPrior, Conditional], ids=["one level", "levels"])
def test_the_history_counts_the_gradients(mmcg, energy):
    problem, prior, _ = gaussian_problem(batch=2)

    class Counted(energy):
        calls = 0

        def energy_and_gradient(self, *arguments, **options):
            self.calls += 1
            return super().energy_and_gradient(*arguments, **options)

    counted = Counted(prior.matrix)
    found = mmcg()(problem, counted).history["gradients"]
    assert found[-1].tolist() == [counted.calls] * 2 and (found.diff(dim=0) > 0).all()


def test_one_step_with_the_true_curvature_is_equation_15():
    problem, prior, _ = gaussian_problem()
    L = 0.8  # noqa: N806 - above the largest eigenvalue 0.7 of Q, so the majoriser holds at once
    start = complex_noise((1, 3, 4), 1.0, torch.Generator().manual_seed(1), torch.complex128)
    solver = make_solver("mm-cg", initial_curvature=L, max_iterations=1, cg_iterations=100, cg_tolerance=1e-14)
    found = solver(problem, prior, initial=start).image
    gram = problem.operator.matrix.mH @ problem.operator.matrix
    rhs = (problem.back_projection() + L * start - prior.gradient(start)).flatten()
    exact = torch.linalg.solve(gram + L * torch.eye(12, dtype=rhs.dtype), rhs).view(1, 3, 4)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("curvature", [None, 1e-3, 50.0])
def test_cost_never_increases_whatever_the_first_curvature(mmcg, curvature):
    problem, _, _ = gaussian_problem(batch=2, seed=3)
    prior = DoubleWell()
    start = complex_noise((2, 3, 4), 2.0, torch.Generator().manual_seed(2), torch.complex128)
    solution = mmcg(initial_curvature=curvature, tolerance=1e-12)(problem, prior, initial=start)
    cost = torch.cat([(problem.data_term(start) + prior.energy(start)).detach()[None], solution.history["cost"]])
    assert (cost.diff(dim=0) <= 0).all()
    final = problem.data_term(solution.image) + prior.energy(solution.image)
    torch.testing.assert_close(final.detach(), cost[-1])
    assert cost[-1].lt(0.9 * cost[0]).all()
    gradient = problem.data_gradient(solution.image) + prior.gradient(solution.image)
    assert gradient.abs().max() < 1e-4  # a stationary point


def test_a_fixed_curvature_below_the_energys_would_diverge_and_backtracking_prevents_it(mmcg):
    """0.3 λmax without backtracking diverges: the guarantee is not an accident of the test problem."""
    problem, prior, hessian = gaussian_problem(samples=1)
    L = 0.3 * 0.7  # noqa: N806
    gram = problem.operator.matrix.mH @ problem.operator.matrix
    iteration = torch.linalg.solve(gram + L * torch.eye(12), L * torch.eye(12) - prior.matrix)
    assert torch.linalg.eigvals(iteration).abs().max() > 1
    solution = mmcg(initial_curvature=L, tolerance=1e-14, cg_tolerance=1e-12)(problem, prior)
    exact = dense_solution(problem, hessian)
    assert (solution.image - exact).norm() < 1e-4 * exact.norm()


def test_stops_by_the_relative_change_of_the_cost(mmcg):
    problem, prior, _ = gaussian_problem()
    loose = mmcg(tolerance=1e-2)(problem, prior)
    cost = loose.history["cost"][:, 0]
    change = -cost.diff() / cost[:-1]
    assert loose.converged.all()
    assert change[-1] <= 1e-2 and (change[:-1] > 1e-2).all()
    short = mmcg(tolerance=1e-15, max_iterations=2)(problem, prior)
    assert not short.converged.any() and short.iterations.item() == 2


def test_images_of_a_batch_stop_on_their_own(mmcg):
    problem, prior, _ = gaussian_problem(batch=2)
    data = problem.data * torch.tensor([[1.0], [0.0]])
    start = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)]).to(torch.complex128)
    both = InverseProblem(problem.operator, data, scale=problem.scale)
    solution = mmcg(tolerance=1e-12)(both, prior, initial=start)
    assert solution.iterations[1] == 1 < solution.iterations[0]
    one = InverseProblem(problem.operator, data[:1], scale=torch.ones(1))
    alone = mmcg(tolerance=1e-12)(one, prior, initial=start[:1])
    torch.testing.assert_close(solution.image[:1], alone.image, rtol=1e-6, atol=1e-8)


def test_an_image_that_stops_searching_is_left_alone_while_others_go_on():
    """At the minimum no step promises more than the tolerance; the steps of another image are no further trials."""
    problem, prior, hessian = gaussian_problem(batch=2)
    exact = dense_solution(problem, hessian)
    near = exact[:1] + 1e-5 * complex_noise((1, 3, 4), 1.0, torch.Generator().manual_seed(3), torch.complex128)
    far = exact[:1] + complex_noise((1, 3, 4), 3.0, torch.Generator().manual_seed(3), torch.complex128)
    solver = make_solver("mm-cg", initial_curvature=1e-3, robust=False, cg_iterations=50, cg_tolerance=1e-9)
    one = InverseProblem(problem.operator, problem.data[:1], scale=torch.ones(1))
    together = solver(problem, prior, initial=torch.cat([near, far]))
    torch.testing.assert_close(together.image[:1], solver(one, prior, initial=near).image, rtol=1e-9, atol=0)


def test_noise_level_falls_geometrically_and_ends_at_the_lowest(mmcg):
    problem, prior, _ = gaussian_problem()
    conditional = Conditional(prior.matrix)
    solver = mmcg(levels=5, steps_per_level=2, highest_level=0.16, lowest_level=0.01, tolerance=1e-10)
    levels = solver(problem, conditional).history["noise_level"][:, 0]
    assert levels[:8].tolist() == pytest.approx([0.16, 0.16, 0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
    assert (levels[8:] == 0.01).all() and len(levels) > 8
    one_level = mmcg(levels=1, lowest_level=0.01)(problem, conditional)
    assert (one_level.history["noise_level"] == 0.01).all()
    assert mmcg()(problem, prior).history["noise_level"].isnan().all()


def test_last_level_is_what_the_data_leave_open(mmcg):
    """The noise of each image, or the distance from the start, within the trained range."""
    problem, prior, _ = gaussian_problem(batch=3)
    noise, one = torch.tensor([0.001, 0.05, 0.9], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    near = InverseProblem(problem.operator, 1e-3 * problem.data, noise, one)
    levels = mmcg(levels=3)(near, Conditional(prior.matrix)).history["noise_level"]
    torch.testing.assert_close(levels[-1], torch.tensor([0.01, 0.05, 0.1], dtype=torch.float64))
    start = torch.zeros(3, 3, 4, dtype=torch.complex128)
    solver = mmcg(levels=2, steps_per_level=1, max_iterations=8, highest_level=0.2, initial_curvature=0.5)
    far, first = (
        InverseProblem(problem.operator, 0.05 * problem.data, None, one),
        mmcg(max_iterations=1, highest_level=0.2, lowest_level=0.2, initial_curvature=0.5),
    )
    moved = first(far, Conditional(prior.matrix), initial=start).image  # the one step at the first level
    distance = torch.view_as_real(moved).square().flatten(1).mean(1).sqrt()
    levels = solver(far, Conditional(prior.matrix), initial=start).history["noise_level"]
    torch.testing.assert_close(levels[-1], distance.clamp(0.01, 0.2))
    assert distance.min() > 0.01 and distance.max() < 0.2
    lowest = mmcg(lowest_level=0.03)(near, Conditional(prior.matrix)).history["noise_level"][-1]
    torch.testing.assert_close(lowest, torch.full((3,), 0.03, dtype=torch.float64))
    above = mmcg(highest_level=0.05, lowest_level=0.12)(near, Conditional(prior.matrix)).history["noise_level"]
    assert (above == 0.12).all()  # what is set for the last level counts, above the first one too


def test_the_noise_of_the_start_is_not_what_the_data_leave_open():
    from mriinv_mmcg.state import State

    problem, prior, _ = gaussian_problem(batch=3)
    noisy = InverseProblem(problem.operator, problem.data, 0.1, problem.scale)
    start = torch.zeros(3, 3, 4, dtype=torch.complex128)
    state = State(noisy, prior, start, Iterations(start, 5), torch.tensor([0.3, 0.6, 0.0], dtype=torch.float64))
    state.image = start + 0.5 * (1 + 1j)
    torch.testing.assert_close(state.open_std(), torch.tensor([0.4, 0.1, 0.5], dtype=torch.float64))


def test_solution_does_not_depend_on_the_units_of_the_data(mmcg):
    problem, prior, _ = gaussian_problem()
    data = {factor: factor * problem.data for factor in (1.0, 1e4)}
    images = {f: mmcg()(InverseProblem(problem.operator, d), prior).image for f, d in data.items()}
    torch.testing.assert_close(images[1e4] / 1e4, images[1.0])


def test_refuses_a_prior_without_energy():
    problem, _, _ = gaussian_problem()
    with pytest.raises(MriinvError, match=r"cannot combine prior 'none' with solver 'mm-cg'.*energy, gradient"):
        make_solver("mm-cg")(problem)


def test_dense_operator_is_its_matrix():
    matrix = complex_noise((5, 6), 1.0, torch.Generator().manual_seed(0), torch.complex128)
    operator = DenseOperator(matrix, (2, 3))
    image = complex_noise((1, 2, 3), 1.0, torch.Generator().manual_seed(1), torch.complex128)
    torch.testing.assert_close(operator(image)[0], matrix @ image.flatten())
    torch.testing.assert_close(operator.gram(image).flatten(), matrix.mH @ matrix @ image.flatten())


@pytest.mark.parametrize("budget", [1, 2, 7, 30])
def test_the_budget_counts_every_step_and_ends_at_the_lowest_level(mmcg, budget):
    problem, prior, _ = gaussian_problem()
    solver = mmcg(max_iterations=budget, tolerance=1e-15, lowest_level=0.01)
    levels = solver(problem, Conditional(prior.matrix)).history["noise_level"][:, 0].nan_to_num(0.01)
    assert len(levels) <= budget and levels[-1] == 0.01
    assert (levels == 0.01).sum() >= len(levels) / 2
    assert (levels.diff() <= 0).all()


class WrongSign(QuadraticPrior):
    def energy_and_gradient(self, image, noise_level=None, *, create_graph=False):
        energy, gradient = super().energy_and_gradient(image, noise_level)
        return energy, -5 * gradient


def test_an_image_that_cannot_descend_has_not_converged(mmcg):
    problem, prior, _ = gaussian_problem()
    start = torch.ones(1, 3, 4, dtype=torch.complex128)
    solution = mmcg(initial_curvature=1.0)(problem, WrongSign(prior.matrix), initial=start)
    assert not solution.converged.any() and solution.iterations.item() < 500
    cost = solution.history["cost"][:, 0]
    assert (cost.diff() <= 0).all()


def test_a_refused_step_that_promised_a_rise_has_not_converged():
    class Uphill(DenseOperator):
        """Its regularised inverse points the wrong way."""

        def solve_normal(self, rhs, shift, **options):
            found = super().solve_normal(rhs, shift, **options)
            return replace(found, solution=-found.solution)

    problem, prior, _ = gaussian_problem()
    wrong = InverseProblem(Uphill(problem.operator.matrix, (3, 4)), problem.data, scale=problem.scale)
    start = torch.ones(1, 3, 4, dtype=torch.complex128)
    solution = make_solver("mm-cg")(wrong, prior, initial=start)
    assert solution.iterations.item() < 500 and not solution.converged.any()


def test_an_energy_that_is_not_finite_is_reported(mmcg):
    problem, _, _ = gaussian_problem()
    with pytest.raises(MriinvError, match="the energy is not finite"):
        mmcg()(problem, QuadraticPrior(theta=float("nan")))


def test_highest_level_is_clamped_to_the_trained_range(mmcg):
    problem, prior, _ = gaussian_problem()
    for asked, first in ((5.0, 0.2), (0.001, 0.01)):
        levels = mmcg(highest_level=asked, lowest_level=0.001)(problem, Conditional(prior.matrix)).history[
            "noise_level"
        ]
        assert levels[0].item() == pytest.approx(first) and levels[-1].item() == 0.01


def test_acceleration_reaches_the_same_minimum_with_a_third_of_the_gradients():
    """Twice as many unknowns as samples, and an energy whose curvature spans three decades: hard for plain MM."""
    generator = torch.Generator().manual_seed(6)
    matrix, basis = (complex_noise((n, 36), 1.0, generator, torch.complex128) for n in (18, 36))
    unitary, curvatures = torch.linalg.qr(basis)[0], torch.logspace(-3, 0, 36, dtype=torch.complex128)
    operator = DenseOperator(matrix / torch.linalg.matrix_norm(matrix, 2), (6, 6))
    data = complex_noise((3, 18), 1.0, generator, torch.complex128)
    problem = InverseProblem(operator, data, scale=torch.ones(3))
    prior = QuadraticPrior(unitary * curvatures @ unitary.mH)
    exact = dense_solution(problem, operator.matrix.mH @ operator.matrix + prior.matrix)
    best, gradients = (problem.data_term(exact) + prior.energy(exact)).detach(), {}
    for memory in (0, 10):
        solver = make_solver("mm-cg", tolerance=1e-11, memory=memory, max_iterations=400, cg_iterations=50)
        history = solver(problem, prior).history
        arrived = (history["cost"] <= best * (1 + 1e-6)).all(dim=1)
        gradients[memory] = int(history["gradients"][arrived, 0][0])
        assert (history["cost"].diff(dim=0) <= 0).all()
    assert 3 * gradients[10] <= gradients[0]


def test_a_direction_that_does_not_descend_is_replaced():
    """Pairs of another cost make the quasi-Newton direction an ascent; the step of the majoriser takes over."""
    from mriinv_mmcg.quasi_newton import Pair, QuasiNewton
    from mriinv_mmcg.state import State

    problem, prior, _ = gaussian_problem(batch=2)
    start = torch.ones(2, 3, 4, dtype=torch.complex128)
    state = State(problem, prior, start, Iterations(start, 5), torch.zeros(2))
    state.enter(None)
    state.curvature = torch.ones(2, dtype=torch.float64)
    quasi_newton, cost = QuasiNewton(3), state.cost
    wrong = Pair(state.descent, -state.descent, torch.tensor([-2.0, 0.0]) / inner_product(state.descent, state.descent))
    quasi_newton._pairs = [wrong]
    taken = quasi_newton(state, lambda rhs, shift: problem.operator.solve_normal(rhs, shift), 1e-6)
    assert not taken.refused.any() and (state.cost < cost).all()
    assert (wrong.weight == 0).all()


def test_a_curvature_that_is_too_low_grows_by_a_fixed_factor():
    """½θ‖x‖² is majorised by L ≥ θ alone: from 0.6θ two refusals lead to 0.6·1.6²θ."""
    problem, _, _ = gaussian_problem()
    solver = make_solver("mm-cg", memory=0, initial_curvature=0.6, max_iterations=1)
    assert solver(problem, QuadraticPrior(theta=1.0)).history["curvature"].item() == pytest.approx(0.6 * 1.6**2)


@pytest.mark.parametrize(
    ("settings", "factor"), [({}, 0.9), ({"curvature_decay": 0.5}, 0.5), ({"curvature_decay": 1}, 1)]
)
def test_the_curvature_falls_by_the_decay_after_a_step(settings, factor):
    problem, _, _ = gaussian_problem()
    solver = make_solver("mm-cg", memory=0, initial_curvature=8.0, max_iterations=3, tolerance=1e-12, **settings)
    found = solver(problem, QuadraticPrior(theta=1.0)).history["curvature"][:, 0]
    assert found.tolist() == pytest.approx([8.0, 8.0 * factor, 8.0 * factor**2])


def test_levels_go_on_from_one_another():
    """Going on from the image of the first level is the same as starting there."""
    problem, prior, _ = gaussian_problem()
    prior, options = Conditional(prior.matrix), {"initial_curvature": 0.5, "robust": False, "tolerance": 1e-12}
    both = make_solver(
        "mm-cg", levels=2, highest_level=0.2, lowest_level=0.01, max_iterations=5, steps_per_level=2, **options
    )
    high = make_solver("mm-cg", levels=1, highest_level=0.2, lowest_level=0.2, max_iterations=2, **options)
    low = make_solver("mm-cg", levels=1, lowest_level=0.01, max_iterations=3, **options)
    start = random(1, 3, 4)
    expected = low(problem, prior, initial=high(problem, prior, initial=start).image)
    torch.testing.assert_close(both(problem, prior, initial=start).image, expected.image)


@pytest.mark.parametrize(("memory", "steps"), [(10, 1), (0, 3)])
def test_steps_at_each_level(memory, steps):
    problem, prior, _ = gaussian_problem()
    solver = make_solver("mm-cg", memory=memory, lowest_level=0.01, tolerance=1e-12)
    levels = solver(problem, Conditional(prior.matrix)).history["noise_level"][:, 0]
    assert (levels == levels[0]).sum() == steps


def test_accelerated_steps_take_the_curvature_from_the_change_of_the_gradient():
    """L = 1.5‖Qs‖/‖s‖ after the step s, at most five times the L before."""
    problem, prior, _ = gaussian_problem()
    start = random(1, 3, 4)
    one, two, low = (
        make_solver("mm-cg", max_iterations=count, initial_curvature=first)(problem, prior, initial=start)
        for count, first in ((1, 1.0), (2, 1.0), (2, 0.01))
    )
    step = (one.image - start).flatten()
    expected = 1.5 * (prior.matrix @ step).norm() / step.norm()
    assert two.history["curvature"][1].item() == pytest.approx(expected.item())
    assert low.history["curvature"][1].item() == pytest.approx(0.05)


def test_the_curvature_falls_no_further_than_its_floor():
    """Along a direction where E does not curve L falls by five in each step, to 1e-4 at least."""
    problem, _, _ = gaussian_problem()
    solver = make_solver("mm-cg", tolerance=1e-300, max_iterations=12, initial_curvature=1e-3)
    assert solver(problem, QuadraticPrior(theta=0.0)).history["curvature"].min().item() == pytest.approx(1e-4)


def test_a_step_that_lowers_the_cost_by_next_to_nothing_is_shortened():
    """A = 1, E = ½θ|x|², from 0 with L = 1: the step b/2 raises the cost where θ > 3, here by 5e-5 of its slope."""
    problem = InverseProblem(
        DenseOperator(torch.eye(4, dtype=torch.complex128), (2, 2)), torch.ones(1, 4, dtype=torch.complex128), scale=1
    )
    start = torch.zeros(1, 2, 2, dtype=torch.complex128)
    solver = make_solver("mm-cg", initial_curvature=1.0, max_iterations=1, cg_tolerance=1e-12)
    cost = solver(problem, QuadraticPrior(theta=3.0002), initial=start).history["cost"][0]
    assert cost < problem.data_term(start)
