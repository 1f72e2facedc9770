"""The robust data term: Huber's weights of k-space samples, and problems with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mriinv import (
    InputError,
    InverseProblem,
    Prior,
    Target,
    complex_noise,
    make_mask,
    make_problem,
    make_solver,
    simulate_acquisition,
)
from mriinv.core.problem import LEAST_NOISE
from mriinv.testing.analytic import gaussian_problem
from mriinv.testing.operators import check_adjoint, check_gram, check_norm_bound
from mriinv_sense.operator import SenseOperator
from mriinv_sense.robust import huber_weights
from support import random, unit_maps

NOISE = 0.1


class SmallEnergy(Prior):
    """½·w‖x‖², so that MM-CG is regularised least squares."""

    name = "small"
    provides = frozenset({"energy"})

    def energy(self, image, noise_level=None):
        return 0.005 * image.abs().double().square().sum((1, 2))


def points(y, x, batch=1):
    mask = torch.rand(batch, y, x, generator=torch.Generator().manual_seed(y + x)) < 0.6
    mask[:, y // 2, x // 2] = True
    return mask


def by_hand(residual, mask, noise):
    """Huber's weights, sample by sample."""
    _, _, rows, columns = residual.shape
    power = (residual.abs() ** 2 / 2).mean(1).numpy()
    sampled = mask.expand(len(residual), rows, columns).numpy()
    weights = np.ones(power.shape)
    for image, row, column in np.argwhere(sampled):
        near = [(r % rows, c % columns) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)]
        values = [power[image, r, c] for r, c in near if sampled[image, r, c]]
        weights[image, row, column] = min(1.0, noise[image] / np.sqrt(np.mean(values)))
    return weights


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_weights_are_those_of_the_definition(shape, lines):
    mask = points(*shape)[:, :1] | (torch.arange(shape[1]) == 3) if lines else points(*shape)
    noise = torch.tensor([0.5, 2.0], dtype=torch.float64)
    residual = random(2, 3, *shape)  # not zero where nothing was sampled
    found = huber_weights(residual, mask, noise)
    expected = torch.from_numpy(by_hand(residual, mask, noise.numpy()))
    where = mask.expand(found.shape)
    torch.testing.assert_close(found[where], expected[where])
    assert (found[where] < 1).any() and (found[where] == 1).any()


@pytest.mark.parametrize("kind", ["points", "line", "full, one weight"])
def test_the_weighted_operator_is_the_root_of_the_weights_times_the_operator(kind):
    y, x = 7, 6
    maps = unit_maps(1, 3, y, x)
    mask = points(y, x) if kind == "points" else torch.ones(1, 1, x, dtype=torch.bool)
    if kind == "line":
        mask[..., ::3] = False
    operator = SenseOperator(maps, mask)
    residual = mask[:, None] * (random(1, 3, y, x) if kind != "full, one weight" else torch.ones(1, 3, y, x) + 0j)
    weighted, root = operator.robust(residual.to(maps), torch.tensor([NOISE]))
    image = random(1, y, x)
    torch.testing.assert_close(weighted(image), root * operator(image))
    check_adjoint(weighted, image, random(1, 3, y, x))
    check_gram(weighted, image)
    check_norm_bound(weighted, image)
    assert (root < 1).any()


@pytest.mark.parametrize("map_batch", [1, 2])
@pytest.mark.parametrize("lines", [False, True])
def test_images_of_a_batch_have_weights_of_their_own(lines, map_batch):
    y, x, noise = 7, 6, torch.tensor([0.5, 0.0], dtype=torch.float64)
    maps = random(map_batch, 3, y, x)
    mask = torch.arange(x).view(1, 1, x) % 3 > 0 if lines else points(y, x)
    operator, residual, image = SenseOperator(maps, mask), random(2, 3, y, x), random(2, y, x)
    weighted, root = operator.robust(residual, noise)
    assert (root[0] < 1).any() and (root[1] == 1).all()
    torch.testing.assert_close(weighted(image), root * operator(image))
    check_adjoint(weighted, image, random(2, 3, y, x))
    check_gram(weighted, image)
    torch.testing.assert_close(weighted._gram_batched(image), weighted.gram(image))
    with pytest.raises(InputError, match="image"):
        weighted(random(3, y, x))


def test_an_image_without_noise_leaves_the_weights_of_the_others():
    y, x = 7, 6
    operator, data = SenseOperator(random(1, 3, y, x), points(y, x)), random(2, 3, y, x)
    both = InverseProblem(operator, data, torch.tensor([0.1, 0.0])).robust()
    alone = InverseProblem(operator, data[:1], 0.1).robust()
    torch.testing.assert_close(both.data[:1], alone.data)
    torch.testing.assert_close(both.data[1], data[1])


def test_noise_below_what_is_followed_has_the_weights_of_that():
    """The image whose residuals are looked at is regularised, which alone leaves more than such noise."""
    full = simulate_acquisition(shape=(48, 40), coils=6, noise_std=1e-6, seed=2)
    problem = make_problem(full.undersampled(make_mask("random-1d", (48, 40), 3, 12, seed=1))).normalised()
    least = replace(problem, noise_std=torch.full_like(problem.noise_std, LEAST_NOISE))
    torch.testing.assert_close(problem.robust().data, least.robust().data)


def test_samplers_solve_the_robust_problem_and_advance_the_given_one():
    full = simulate_acquisition(shape=(24, 20), coils=4, seed=1)
    problem = make_problem(full.undersampled(make_mask("random-1d", (24, 20), 1.5, 12, seed=1)))
    problem = replace(problem, noise_std=problem.noise_std / 5)  # weights well below 1
    assert problem.robust() is not problem
    settings = {"samples": 2, "levels": 1, "burn_in": 2, "long_run": 0}
    drawn_by = {on: make_solver("langevin", robust=on, **settings) for on in (True, False)}
    images = {on: sampler(problem, SmallEnergy()).image for on, sampler in drawn_by.items()}
    assert not torch.allclose(images[True], images[False])
    chains = [
        sampler.advance(Target(problem, SmallEnergy()), images[True], 2, torch.Generator().manual_seed(0))
        for sampler in drawn_by.values()
    ]
    assert torch.equal(*chains)


def test_what_noise_explains_keeps_its_weight():
    full = simulate_acquisition(shape=(48, 40), coils=6, seed=2)
    problem = make_problem(full.undersampled(make_mask("poisson-2d", (48, 40), acceleration=3, seed=1)))
    x = torch.randn(1, 48, 40, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    noise = complex_noise(problem.data.shape, NOISE, torch.Generator().manual_seed(1)) * problem.operator.mask[:, None]
    data = problem.operator(x) + noise
    weights = InverseProblem(problem.operator, data, NOISE).robust().data.abs() / data.abs().clamp_min(1e-12)
    assert weights[data.abs() > 0].square().mean() > 0.99


def test_a_line_that_went_wrong_hurts_less():
    full = simulate_acquisition(shape=(64, 56), coils=8, seed=3)
    scan = full.undersampled(make_mask("random-1d", (64, 56), acceleration=2, seed=3))
    truth = make_problem(full).operator.fully_sampled_image(full.kspace)
    wrong = scan.kspace.clone()
    line = next(i for i in range(6, 56) if scan.mask[0, 0, i])
    wrong[..., line] += 20 * float(full.noise_std) * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    problem = make_problem(scan)
    problem = InverseProblem(problem.operator, wrong, full.noise_std, problem.scale)
    images = [make_solver("mm-cg", robust=robust, levels=1)(problem, SmallEnergy()).image for robust in (True, False)]
    robust, squares = (float((image - truth).norm()) for image in images)
    assert robust < 0.8 * squares


def test_without_noise_or_weights_the_problem_stays():
    acquisition = simulate_acquisition(shape=(32, 32), coils=4)
    known = make_problem(acquisition)
    for noise in (None, 0.0):
        unknown = InverseProblem(known.operator, known.data, noise)
        assert unknown.robust() is unknown
    dense = replace(gaussian_problem((3, 3))[0], noise_std=0.1)
    assert dense.robust() is dense


def test_a_problem_that_is_weighted_already_is_weighted_again():
    full = simulate_acquisition(shape=(64, 56), coils=4, seed=3)
    scan = full.undersampled(make_mask("random-1d", (64, 56), acceleration=2, seed=3))
    scan.kspace[..., 28] += 20 * float(full.noise_std) * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    once = make_problem(scan).normalised().robust()
    twice = once.robust()
    assert (twice.data.abs() < 0.9 * once.data.abs()).any()
    image = torch.randn(1, 64, 56, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    operator = twice.operator
    torch.testing.assert_close(operator.gram(image), operator.adjoint(operator.forward(image)), rtol=1e-4, atol=1e-5)
