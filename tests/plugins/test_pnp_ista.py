"""PnP-ISTA where its fixed point is known, against deepinv's PGD, and where it diverges."""

from dataclasses import replace

import pytest
import torch

from mriinv import InverseProblem, Prior, SettingsError, complex_noise, make_prior, make_solver
from mriinv.testing.analytic import DenseOperator, gaussian_problem
from support import random, scaled_problem


class Denoiser(Prior):
    name = "denoiser"
    provides = frozenset({"denoiser"})

    def __init__(self, function):
        super().__init__()
        self.function = function

    def denoise(self, image, noise_level, *, create_graph=False):
        return self.function(image)


def linear(matrix):
    return Denoiser(lambda image: (image.flatten(1) @ matrix.T).view(image.shape))


def test_resolvent_of_a_quadratic_energy_gives_its_map_image():
    """D = (I + αQ)⁻¹ is the proximal map of α·½xᴴQx, so the fixed point solves Aᴴ(Ax − b) + Qx = 0."""
    problem, quadratic, hessian = gaussian_problem(batch=2)
    prior = linear(torch.linalg.inv(torch.eye(len(hessian)) + quadratic.matrix))
    solution = make_solver("ista", tolerance=1e-12, max_iterations=3000)(problem, prior)
    exact = torch.linalg.solve(hessian, problem.back_projection().flatten(1)[0])
    assert solution.converged.all() and not solution.notes
    torch.testing.assert_close(solution.image.flatten(1), exact.expand(2, -1), rtol=1e-7, atol=1e-9)


def test_a_denoiser_of_more_noise_than_the_data_have_takes_a_share_of_its_step():
    """(1 − s)I + sD in the place of D, s = η/σ for each image, at most 1 and 1 where η is not known."""
    problem, quadratic, _ = gaussian_problem(batch=2)
    matrix = torch.linalg.inv(torch.eye(len(quadratic.matrix)) + quadratic.matrix)
    noisy = replace(problem, noise_std=torch.tensor([0.004, 0.03], dtype=torch.float64))
    settings = {"noise_level": 0.01, "tolerance": 1e-12, "max_iterations": 5000}
    found = make_solver("ista", **settings)(noisy, linear(matrix)).image
    whole = make_solver("ista", **settings)(problem, linear(matrix)).image
    shared = 0.4 * matrix + 0.6 * torch.eye(len(matrix))
    expected = make_solver("ista", **settings)(problem, linear(shared)).image
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)  # 0.4 has a rounding of its own
    torch.testing.assert_close(found[1], whole[1], rtol=1e-7, atol=1e-9)
    assert (found[0] - whole[0]).norm() > 0.05 * whole[0].norm()
    published = make_solver("ista", relaxation=1, **settings)(noisy, linear(matrix)).image
    torch.testing.assert_close(published, whole, rtol=1e-7, atol=1e-9)


def soft(image, threshold=0.05):
    return image * (1 - threshold / image.abs().clamp_min(threshold))


def test_soft_threshold_gives_ista_as_deepinv_runs_it():
    """Real operator and data, where soft thresholding of magnitudes is that of deepinv's L1 prior."""
    from deepinv.optim import L1Prior
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.optimizers import optim_builder
    from deepinv.physics import LinearPhysics

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    matrix /= torch.linalg.matrix_norm(matrix, 2)
    truth = torch.where(torch.rand(12, generator=generator) < 0.3, 1.0, 0.0).double()
    data = (matrix @ truth)[None]
    problem = InverseProblem(DenseOperator(matrix.to(torch.complex128), (3, 4)), data.to(torch.complex128))
    problem = InverseProblem(problem.operator, problem.data, scale=torch.ones(1, dtype=torch.float64))
    physics = LinearPhysics(
        A=lambda x, **_: x.flatten(1) @ matrix.T, A_adjoint=lambda y, **_: (y @ matrix).view(-1, 1, 3, 4)
    )
    theirs = optim_builder(
        "PGD",
        prior=L1Prior(),
        data_fidelity=L2(),
        max_iter=300,
        early_stop=False,
        params_algo={"stepsize": 1.0, "lambda": 0.05, "g_param": 1.0},
    )(data, physics, init=lambda y, physics: physics.A_adjoint(y))
    ours = make_solver("ista", max_iterations=300, tolerance=1e-15)(
        problem, Denoiser(soft), initial=problem.back_projection()
    )
    torch.testing.assert_close(ours.image.real[0], theirs[0, 0], rtol=1e-9, atol=1e-9)


def test_divergence_is_reported_and_the_best_iterate_kept():
    """One image has energy where D expands, and diverges; the other has none, and converges."""
    operator = DenseOperator(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])).to(torch.complex128), (2, 2))
    problem = InverseProblem(operator, operator.forward(torch.ones(2, 2, 2, dtype=torch.complex128)))
    start = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1e-3, 0.0]]], dtype=torch.complex128)
    prior = linear(torch.diag(torch.tensor([0.9, 0.9, 1.3, 1.0])).to(torch.complex128))
    solution = make_solver("ista", max_iterations=200)(problem, prior, initial=start)
    assert solution.converged.tolist() == [True, False]
    assert len(solution.notes) == 1 and "diverged after" in solution.notes[0]
    assert solution.iterations[1] < 200
    change = solution.history["change"][:, 1]
    best = int(change.argmin())
    assert 0 < best < len(change) - 1
    torch.testing.assert_close(solution.image[1, 1, 0].real.item(), 1e-3 * 1.3 ** (best + 1), rtol=1e-6, atol=0)


def test_the_start_does_not_decide_whether_it_diverges():
    problem, _, _ = gaussian_problem()
    solver, prior = make_solver("ista", tolerance=1e-9, max_iterations=2000), Denoiser(lambda image: 0.9 * image)
    usual = solver(problem, prior)
    for factor in (0, 1e-3):
        found = solver(problem, prior, initial=factor * problem.sense())
        assert found.converged.all() and not found.notes
        torch.testing.assert_close(found.image, usual.image, rtol=1e-6, atol=1e-8)


def test_not_a_number_is_divergence():
    problem, _, _ = gaussian_problem()
    calls = []

    def breaks(image):
        calls.append(0)
        return image if len(calls) < 3 else image * float("nan")

    solution = make_solver("ista", tolerance=1e-15)(problem, Denoiser(breaks))
    assert not solution.converged.any() and solution.notes and torch.isfinite(solution.image.abs()).all()


def test_network_denoiser_keeps_graphs_only_when_asked():
    prior = make_prior("cnn-denoiser", weights="none").requires_grad_(True)
    image = complex_noise((2, 9, 11), 0.1, torch.Generator().manual_seed(0), torch.complex64)
    assert sum(p.numel() for p in prior.parameters()) == 113_154  # five layers of 64 channels with biases
    assert not prior.denoise(image, 0.01).requires_grad
    assert prior.denoise(image, 0.01, create_graph=True).requires_grad


def test_step_beyond_the_stability_limit_is_refused():
    with pytest.raises(SettingsError, match="step"):
        make_solver("ista", step_size=2.0)


def test_the_step_is_relative_to_the_norm_of_the_operator():
    problem, quadratic, hessian = gaussian_problem()
    larger, _, _ = scaled_problem()
    prior = linear(torch.linalg.inv(torch.eye(len(hessian)) + quadratic.matrix))
    images = [make_solver("ista", tolerance=1e-12, max_iterations=3000)(one, prior).image for one in (problem, larger)]
    torch.testing.assert_close(*images)


def test_data_without_noise_still_relax_a_little():
    problem, quadratic, _ = gaussian_problem()
    prior = linear(torch.linalg.inv(torch.eye(12) + quadratic.matrix))
    silent = replace(problem, noise_std=torch.zeros(1, dtype=torch.float64))
    settings = {"tolerance": 1e-12, "max_iterations": 5000}
    found, expected = (
        make_solver("ista", **settings)(silent, prior),
        make_solver("ista", relaxation=0.05, **settings)(problem, prior),
    )
    torch.testing.assert_close(found.image, expected.image)


def test_the_change_is_relative_to_the_new_image():
    """An image that a denoiser makes zero in one step: the change is relative to the image that it becomes."""
    problem, _, _ = gaussian_problem()
    prior = Denoiser(lambda image: 0.5 * image)
    solution = make_solver("ista", max_iterations=1)(problem, prior, initial=random(1, 3, 4))
    start = random(1, 3, 4)
    moved = solution.image - start
    assert solution.history["change"].item() == pytest.approx(float(moved.norm() / solution.image.norm()))
