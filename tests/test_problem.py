"""Problems and products of operators."""

import jaxtyping
import pytest
import torch

from mriinv import (
    InputError,
    InverseProblem,
    Prior,
    Solution,
    Solver,
    complex_noise,
    make_mask,
    make_problem,
    make_solver,
    simulate_acquisition,
)
from mriinv.testing.analytic import DenseOperator, gaussian_problem
from support import random, scaled_problem


class ToImages(DenseOperator):
    """Gives images again."""

    def forward(self, image):
        return super().forward(image).view(image.shape)

    def adjoint(self, data):
        return super().adjoint(data.flatten(1))


def test_a_product_of_operators_is_that_of_their_matrices():
    outer, inner = random(4, 6), random(6, 6, seed=1)
    product, matrix = DenseOperator(outer, (2, 3)) @ ToImages(inner, (2, 3)), outer @ inner
    image, data = random(3, 2, 3, seed=2), random(3, 4, seed=3)
    for same in (product, product.H.H):
        torch.testing.assert_close(same(image), image.flatten(1) @ matrix.T)
        torch.testing.assert_close(same.H(data), (data @ matrix.conj()).view(3, 2, 3))
        torch.testing.assert_close(same.gram(image), (image.flatten(1) @ (matrix.mH @ matrix).T).view(3, 2, 3))
    shift = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    solved = product.H.solve_normal(data, shift, tolerance=1e-12).solution  # of data, not images
    torch.testing.assert_close(solved @ (matrix @ matrix.mH).T + shift[:, None] * solved, data)
    norms = [float(torch.linalg.matrix_norm(part, 2)) for part in (outer, inner, matrix)]
    assert product.norm_bound == pytest.approx(norms[0] * norms[1]) and product.norm_bound > norms[2]


def test_a_product_weights_samples_as_its_outer_operator_does():
    class Weighted(DenseOperator):
        notes = ("weighted",)

        def robust(self, residual, noise_std):
            return Weighted(root[:, None] * self.matrix, self.shape), root[None]

    outer, inner = random(4, 6), random(6, 6, seed=1)
    root = torch.tensor([0.5, 1, 1, 1], dtype=torch.float64)
    product = Weighted(outer, (2, 3)) @ ToImages(inner, (2, 3))
    problem = InverseProblem(product, random(1, 4, seed=2), torch.tensor([0.1]))
    weighted = problem.robust()
    assert torch.equal(weighted.data, root * problem.data) and product.notes == ("weighted",)
    image = random(1, 2, 3, seed=3)
    torch.testing.assert_close(weighted.operator(image), root * product(image))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (torch.zeros(0, 4, dtype=torch.complex64), r"found shape \(0, 4\); expected at least one image"),
        (torch.ones(1, 4), "found torch.float32; expected complex values"),
        (torch.tensor([[1, 0, torch.nan, 0j]]), "found NaN or infinity; expected finite values"),
        (torch.tensor([[1, 0, torch.inf, 0j]]), "found NaN or infinity; expected finite values"),
    ],
)
def test_data_that_are_none_are_refused(data, found):
    with pytest.raises(InputError, match=f"data: {found}"):
        InverseProblem(DenseOperator(random(4, 6), (2, 3)), data)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("noise_std", torch.nan, "nan"),
        ("noise_std", -0.1, "-0.1"),
        ("noise_std", torch.tensor([0.1, -1.0, 0.1]), "-1.0"),
        ("scale", 0, "0.0"),
        ("scale", torch.inf, "inf"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, found):
    with pytest.raises(InputError, match=f"{name}: found .*{found}.*; expected finite numbers"):
        InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(3, 4), **{name: value})


def test_a_start_is_an_image_of_the_problem():
    problem = InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(3, 4))
    solver = make_solver("cg-sense", regularisation=0.1)
    for wrong in (torch.ones(2, 3), torch.ones(2, 2, 3), torch.ones(3, 3, 2)):
        with pytest.raises(InputError, match=r"cg-sense: initial: found shape .*; expected a tensor \(3, 2, 3\)"):
            solver(problem, None, initial=wrong)
    real = solver(problem, None, initial=torch.ones(3, 2, 3))
    torch.testing.assert_close(real.image, solver(problem, None).image, rtol=1e-4, atol=1e-4)


def test_an_image_that_is_not_finite_has_not_converged():
    class Broken(Solver):
        name = "broken"

        def solve(self, problem, prior, *, initial, generator, monitor):
            image = problem.back_projection()
            image[1, 0, 0] = torch.nan
            return Solution(image, torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.int64))

    found = Broken()(InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(3, 4)), None)
    assert found.converged.tolist() == [True, False, True]
    assert found.notes == ("broken: the image holds NaN or infinity",)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda image, each: image, "broken: solve: found Tensor; expected a Solution"),
        (lambda image, each: Solution(image[:1], each, each), r"image: found complex128 \(1, 2, 3\); expected complex"),
        (lambda image, each: Solution(image.abs(), each, each), r"image: found float64 \(3, 2, 3\); expected complex"),
        (lambda image, each: Solution(image, each[:1], each), r"converged: found shape \(1,\); expected \(3,\)"),
        (lambda image, each: Solution(image, each, each[0]), r"iterations: found shape \(\); expected \(3,\)"),
    ],
)
def test_what_a_solver_returns_is_for_every_image(returned, message, monkeypatch):
    class Broken(Solver):
        name = "broken"

        def solve(self, problem, prior, *, initial, generator, monitor):
            return returned(problem.back_projection(), torch.ones(3, dtype=torch.bool))

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message):
        Broken()(InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(3, 4)), None)


def test_a_solver_takes_a_prior_and_a_generator_only(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    problem, prior, _ = gaussian_problem()
    for wrong, message in (
        ({"prior": "deepen"}, "mm-cg: prior: found str; expected an instance of Prior"),
        ({"prior": prior, "generator": 0}, "mm-cg: generator: found int; expected a torch.Generator"),
    ):
        with pytest.raises(InputError, match=message):
            make_solver("mm-cg")(problem, **wrong)


def test_a_prior_that_is_not_used_is_mentioned():
    problem, prior, _ = gaussian_problem()
    unused = f"solver 'cg-sense' takes no prior: '{prior.name}' is not used"
    assert make_solver("cg-sense")(problem, prior).notes == (unused,)
    assert make_solver("cg-sense")(problem).notes == ()


def test_samples_outside_the_mask_are_refused():
    full = simulate_acquisition(shape=(32, 28), coils=4, coil_maps=True)
    problem = make_problem(full.undersampled(make_mask("random-1d", (32, 28), 2.0, 8)))
    forgotten = InverseProblem(problem.operator, full.kspace, 0.005)
    for solver in (make_solver("zero-filled"), make_solver("cg-sense")):
        with pytest.raises(InputError, match="data: found values outside the mask; expected zeros"):
            solver(forgotten)


def test_a_solution_has_no_graph():
    data = random(1, 4).requires_grad_()
    assert not make_solver("cg-sense")(InverseProblem(DenseOperator(random(4, 6), (2, 3)), data)).image.requires_grad


def test_an_operator_moves_to_devices_alone():
    with pytest.raises(TypeError):
        DenseOperator(random(4, 6), (2, 3)).to(torch.float64)


def test_a_solver_works_in_inference_mode():
    class Smooth(Prior):
        name = "smooth"
        provides = frozenset({"energy"})

        def energy(self, image, noise_level=None):
            return image.diff(dim=1).abs().square().sum((1, 2)).double()

    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            problem = InverseProblem(DenseOperator(random(9, 6), (2, 3)), random(2, 9, seed=1), 0.1)
            found.append(make_solver("mm-cg")(problem, Smooth()).image.clone())
    assert torch.equal(*found)


def test_the_noise_in_the_sense_image():
    """Of the data of each image; against the difference that noise makes."""
    scan = simulate_acquisition(shape=(64, 48), coils=4, slices=2, noise_std=0.0)
    problem = make_problem(scan.undersampled(make_mask("random-1d", (64, 48), 2.0, 16)))
    noise = torch.tensor([0.01, 0.03])
    noisy = InverseProblem(problem.operator, problem.data, noise)
    found = noisy.sense_noise(torch.Generator().manual_seed(0))
    drawn = complex_noise(problem.data.shape, 1.0, torch.Generator().manual_seed(1)) * noise.view(-1, 1, 1, 1)
    difference = InverseProblem(problem.operator, problem.data + drawn, noise).sense() - problem.sense()
    expected = torch.view_as_real(difference).double().square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)
    assert (problem.sense_noise(torch.Generator()) == 0).all()
    unknown = InverseProblem(problem.operator, problem.data).sense_noise(torch.Generator())
    assert unknown.tolist() == [0, 0]


def test_sense_does_not_depend_on_the_units_of_the_operator():
    problem, _, _ = gaussian_problem(batch=2)
    torch.testing.assert_close(scaled_problem(batch=2)[0].sense(), problem.sense(), rtol=1e-5, atol=1e-6)


def test_the_least_noise_is_relative_to_the_scale():
    """Data without noise in any units: the least noise is relative to the scale."""
    full = simulate_acquisition(shape=(32, 28), coils=4, coil_maps=True, noise_std=1e-5)
    one = make_problem(full)
    many = InverseProblem(one.operator, 1000 * one.data, 1000 * one.noise_std)
    torch.testing.assert_close(many.robust().data / 1000, one.robust().data)


def test_a_product_moves_with_its_parts():
    product = DenseOperator(random(4, 6), (2, 3)) @ ToImages(random(6, 6, seed=1), (2, 3))
    moved = product.to("meta")
    assert {part.matrix.device.type for part in (moved._outer, moved._inner)} == {"meta"}
    assert product._outer.matrix.device.type == "cpu"


def test_an_operator_is_asked_for(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="operator: found str; expected an Operator"):
        InverseProblem("sense", random(1, 4))
    with pytest.raises(InputError, match=r"noise_std: found '0\.1'; expected a number, or one per image"):
        InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(1, 4), "0.1")
    with pytest.raises(
        InputError, match=r"data: found torch\.float64; expected complex values, complex64 or complex128"
    ):
        InverseProblem(DenseOperator(random(4, 6), (2, 3)), random(1, 4).abs())
