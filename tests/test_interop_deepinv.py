from __future__ import annotations

from dataclasses import replace

import deepinv
import pytest
import torch

from mriinv import (
    CompatibilityError,
    DenoiserPrior,
    InputError,
    InverseProblem,
    PhysicsOperator,
    PotentialPrior,
    complex_noise,
    from_channels,
    make_mask,
    make_prior,
    make_problem,
    make_solver,
    simulate_acquisition,
    to_channels,
    to_deepinv_denoiser,
    to_deepinv_physics,
    to_deepinv_prior,
)
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem
from mriinv.testing.operators import check_adjoint, check_gram, check_norm_bound
from mriinv.testing.priors import check_gradient, check_proximal

SHAPE = (32, 28)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return complex_noise(shape, 1.0, torch.Generator().manual_seed(seed), dtype)


@pytest.fixture(scope="module")
def problem() -> InverseProblem:
    acquisition = simulate_acquisition(shape=SHAPE, coils=4, coil_maps=True)
    return make_problem(acquisition.undersampled(make_mask("poisson-2d", SHAPE, 3.0))).normalised()


def test_channels_are_real_and_imaginary_part() -> None:
    data = noise(2, 3, 4, 5)
    channels = to_channels(data)
    assert channels.shape == (2, 2, 3, 4, 5)
    torch.testing.assert_close(channels[:, 0], data.real)
    torch.testing.assert_close(channels[:, 1], data.imag)
    torch.testing.assert_close(from_channels(to_channels(data.conj())), data.conj())
    with pytest.raises(InputError, match="2, …"):
        from_channels(torch.zeros(2, 3, 4))


def test_sense_as_a_physics_is_the_multi_coil_mri_of_deepinv(problem: InverseProblem) -> None:
    physics = to_deepinv_physics(problem.operator, problem.data)
    mask = problem.operator.mask.float()[:, None].expand(-1, 2, -1, -1)
    peer = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=problem.operator.coil_maps, img_size=(1, 2, *SHAPE))
    image = to_channels(noise(1, *SHAPE))
    torch.testing.assert_close(physics.A(image), peer.A(image), atol=2e-6, rtol=1e-5)
    data = to_channels(problem.data)
    torch.testing.assert_close(physics.A_adjoint(data), peer.A_adjoint(data), atol=2e-6, rtol=1e-5)
    check_adjoint(PhysicsOperator(physics, SHAPE), noise(1, *SHAPE), noise(1, 4, *SHAPE, seed=2))
    again = PhysicsOperator(peer, SHAPE)
    torch.testing.assert_close(again.forward(noise(2, *SHAPE)), problem.operator.forward(noise(2, *SHAPE)))
    check_adjoint(again, noise(2, *SHAPE), noise(2, 4, *SHAPE, seed=2))
    check_norm_bound(again, noise(1, *SHAPE))
    check_gram(again.to("cpu"), noise(2, *SHAPE))


def test_proximal_map_of_the_data_term_and_its_gradients() -> None:
    problem, _, _ = gaussian_problem((2, 3), 4)
    physics = to_deepinv_physics(problem.operator, problem.data)
    image, data = to_channels(noise(1, 2, 3, dtype=torch.complex128)), to_channels(problem.data)
    found = physics.prox_l2(image, data, gamma=2.0, tol=1e-12)
    rhs = problem.back_projection() + from_channels(image) / 2
    expected = problem.operator.solve_normal(rhs, 0.5, tolerance=1e-12).solution
    torch.testing.assert_close(from_channels(found), expected, atol=1e-10, rtol=0)
    gamma = torch.tensor(2.0, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (image, data, gamma)]
    # a solve of the backward pass starts where the one before ended
    assert torch.autograd.gradcheck(lambda x, y, g: physics.prox_l2(x, y, g, tol=1e-13), inputs, nondet_tol=1e-12)
    from_zero = from_channels(physics.prox_l2(None, data, 2.0, tol=1e-12))
    ridge = problem.operator.solve_normal(problem.back_projection(), 0.5, tolerance=1e-12).solution
    torch.testing.assert_close(from_zero, ridge, atol=1e-10, rtol=0)


def test_images_of_a_batch_are_solved_for_by_themselves() -> None:
    """An easy one beside a hard one, at a tolerance that stops the easy one early."""
    problem, _, _ = gaussian_problem((4, 5), 12, batch=2)
    data = torch.stack([problem.data[0], 0 * problem.data[1] + 1e-3])
    image = noise(2, 4, 5, dtype=torch.complex128)
    both = to_deepinv_physics(problem.operator, data).prox_l2(to_channels(image), to_channels(data), 50.0)
    for index in range(2):
        one = to_deepinv_physics(problem.operator, data[index : index + 1])
        alone = one.prox_l2(to_channels(image[index : index + 1]), to_channels(data[index : index + 1]), 50.0)
        torch.testing.assert_close(both[index : index + 1], alone, rtol=0, atol=1e-9)


def test_the_physics_is_its_own_normal_operator() -> None:
    problem, _, _ = gaussian_problem((2, 3), 4)
    physics = to_deepinv_physics(problem.operator, problem.data)
    image = to_channels(noise(1, 2, 3, dtype=torch.complex128)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: physics.A_adjoint(physics.A(x)), [image])


def test_deepinv_finds_the_minimum_of_our_energy_that_mm_cg_finds() -> None:
    problem, prior, hessian = gaussian_problem()
    model = deepinv.optim.GD(
        data_fidelity=deepinv.optim.L2(), prior=to_deepinv_prior(prior), stepsize=1.0, max_iter=500, early_stop=False
    )
    physics = to_deepinv_physics(problem.operator, problem.data)
    image = from_channels(model(to_channels(problem.data), physics).detach())
    exact = torch.linalg.solve(hessian, problem.back_projection().flatten())
    torch.testing.assert_close(image.flatten(), exact, atol=1e-9, rtol=1e-7)
    ours = make_solver("mm-cg", tolerance=1e-14)(problem, prior).image
    torch.testing.assert_close(image, ours, atol=1e-6, rtol=1e-5)


def test_deepinv_descends_along_the_gradient_of_the_deepen_energy() -> None:
    problem, _, _ = gaussian_problem((8, 6), 30)
    prior, level = make_prior("deepen", weights="none", widths=(4,), blocks=1, views=1, weight=8.0).double(), 0.05
    model = deepinv.optim.GD(
        data_fidelity=deepinv.optim.L2(),
        prior=to_deepinv_prior(prior, level),
        stepsize=0.5,
        max_iter=40,
        early_stop=False,
    )
    images = [problem.sense()]
    for _ in range(40):
        images.append(images[-1] - 0.5 * (problem.data_gradient(images[-1]) + prior.gradient(images[-1], level)))
    start = to_channels(images[0])
    with torch.no_grad():
        found = model(
            to_channels(problem.data), to_deepinv_physics(problem.operator, problem.data), init=(start, start)
        )
    torch.testing.assert_close(from_channels(found), images[-1])
    costs = [float(problem.data_term(image) + prior.energy(image, level)) for image in (images[0], images[-1])]
    assert costs[1] < 0.5 * costs[0]


def test_proximal_gradients_of_deepinv_with_our_wavelets_are_fista(problem: InverseProblem) -> None:
    prior = make_prior("l1-wavelet", weight=0.01)
    model = deepinv.optim.PGD(
        data_fidelity=deepinv.optim.L2(), prior=to_deepinv_prior(prior), stepsize=1.0, max_iter=150, early_stop=False
    )
    physics = to_deepinv_physics(problem.operator, problem.data)
    with torch.no_grad():
        found = from_channels(model(to_channels(problem.data), physics))
    ours = make_solver("fista", tolerance=1e-6, max_iterations=1000)(problem, prior).image
    difference = (found - ours).abs().square().sum() / ours.abs().square().sum()
    assert difference.sqrt() < 2e-3


def test_denoisers_give_what_deepinv_gives() -> None:
    torch.manual_seed(0)
    images, levels = noise(2, *SHAPE), torch.tensor([0.05, 0.1])
    network = deepinv.models.DRUNet(2, 2, nc=(4, 4, 4, 4), nb=1, pretrained=None).eval()
    prior = DenoiserPrior(network)
    expected = network(to_channels(images), levels)
    torch.testing.assert_close(prior.denoise(images, levels), from_channels(expected.detach()))
    torch.testing.assert_close(to_deepinv_denoiser(prior)(to_channels(images), levels), expected)
    assert to_deepinv_denoiser(prior)(to_channels(images), 0.1).requires_grad
    assert not prior.denoise(images, 0.1).requires_grad
    classical = DenoiserPrior(deepinv.models.TVDenoiser(n_it_max=20), channels=1)
    parts = [deepinv.models.TVDenoiser(n_it_max=20)(part[:, None], 0.1)[:, 0] for part in (images.real, images.imag)]
    torch.testing.assert_close(classical.denoise(images, 0.1), torch.complex(*parts), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(classical.denoise(images, 0.1), classical.denoise(images, 0.1))  # nothing is remembered
    function = DenoiserPrior(lambda x, sigma: (1 - sigma.view(-1, 1, 1, 1)) * x)
    torch.testing.assert_close(function.denoise(images, levels), (1 - levels.view(-1, 1, 1)) * images)


def test_potentials_keep_their_promises() -> None:
    images = noise(2, 8, 6, dtype=torch.complex128)
    smooth = PotentialPrior(deepinv.optim.Tikhonov(), frozenset({"energy", "gradient", "proximal"}), 0.3)
    check_gradient(smooth, images)
    check_proximal(smooth, images, torch.tensor([0.5, 2.0], dtype=torch.float64))
    check_proximal(PotentialPrior(deepinv.optim.L1Prior(), frozenset({"proximal"}), 0.3), images, 1.5)
    tv = PotentialPrior(deepinv.optim.TVPrior(), frozenset({"proximal"}), 0.3)
    check_proximal(tv, images, torch.tensor([0.5, 2.0], dtype=torch.float64), tolerance=1e-4)


def test_gradients_of_an_energy_train_its_parameters() -> None:
    prior = QuadraticPrior(theta=2.0)
    image = to_channels(noise(1, 3, 4, dtype=torch.complex128))
    to_deepinv_prior(prior).grad(image).square().sum().backward()
    torch.testing.assert_close(prior.theta.grad, 4 * image.square().sum())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="no denoiser"):
        to_deepinv_denoiser(QuadraticPrior())
    with pytest.raises(CompatibilityError, match="no energy or proximal map"):
        to_deepinv_prior(DenoiserPrior(deepinv.models.MedianFilter(), channels=1))
    with pytest.raises(CompatibilityError, match="not a linear physics"):
        PhysicsOperator(deepinv.physics.Haze(), SHAPE)
    with pytest.raises(CompatibilityError, match="does not take images"):
        PhysicsOperator(deepinv.physics.Tomography(4, 8, normalize=False), SHAPE, channels=1)
    kept = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    with pytest.raises(CompatibilityError, match="differently"):
        PhysicsOperator(deepinv.physics.Inpainting(img_size=(2, *SHAPE), mask=kept), SHAPE)
    operator = PhysicsOperator(deepinv.physics.Denoising(), SHAPE, channels=1)
    with pytest.raises(InputError, match=r"\(batch, 32, 28\)"):
        operator.forward(noise(1, 32, 32))


def test_networks_of_another_precision_than_the_images() -> None:
    image = noise(2, *SHAPE, dtype=torch.complex128)
    single = DenoiserPrior(deepinv.models.DnCNN(2, 2, pretrained=None, nf=4, depth=3))
    denoised = single.denoise(image, 0.1)
    assert denoised.dtype == torch.complex128
    torch.testing.assert_close(denoised, single.denoise(image.to(torch.complex64), 0.1).to(torch.complex128))
    full = simulate_acquisition(shape=SHAPE, coils=2)
    wide = replace(full, kspace=full.kspace.to(torch.complex128), reference=None)
    one, other = (make_problem(acquisition, "tomography") for acquisition in (full, wide))
    assert other.data.dtype == torch.complex128
    measured = one.operator(image.to(torch.complex64)).to(torch.complex128)
    torch.testing.assert_close(other.operator(image), measured)
