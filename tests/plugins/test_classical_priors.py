"""Total variation and wavelets: closed forms, a peer's wavelets, and what every proximal map satisfies."""

import math

import pytest
import pywt
import torch

from mriinv import CompatibilityError, Prior, complex_noise, make_prior, make_solver
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem
from mriinv.testing.priors import check_capabilities, check_proximal

SHAPES = [(1, 16, 12), (3, 9, 14), (1, 7, 5), (2, 4, 3)]
EXACT = {"tolerance": 1e-7, "max_iterations": 20000}


def image(shape=(2, 9, 14), seed=0, dtype=torch.complex128):
    return complex_noise(shape, 0.5, torch.Generator().manual_seed(seed), dtype)


def tv(weight=0.2, **settings):
    return make_prior("tv", weight=weight, **{**EXACT, **settings})


@pytest.mark.parametrize("shape", SHAPES)
def test_total_variation_passes_the_checks(shape):
    check_capabilities(tv(), image(shape))
    check_proximal(tv(), image(shape), 0.7)
    check_proximal(tv(), image(shape), torch.linspace(0.2, 0.9, shape[0], dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 4])
def test_wavelets_pass_the_checks_of_a_proximal_map(shape, levels):
    prior = make_prior("l1-wavelet", weight=0.2, levels=levels)
    check_capabilities(prior, image(shape))
    check_proximal(prior, image(shape), 0.7, energy=False)


@pytest.mark.parametrize("weight", [0.3, 20.0])
def test_total_variation_of_stripes_is_the_closed_form(weight):
    """Two plateaus of n and m rows approach each other by 2λ/n and 2λ/m, until they meet in the mean."""
    x = torch.zeros(1, 16, 6, dtype=torch.complex128)
    x[:, :10], x[:, 10:] = 1 + 2j, -2 + 1j
    jump = (1 + 2j) - (-2 + 1j)
    found = tv(weight).proximal(x, 1.0)
    expected = torch.empty_like(x)
    expected[:, :10] = (1 + 2j) - 2 * weight / 10 * jump / abs(jump)
    expected[:, 10:] = (-2 + 1j) + 2 * weight / 6 * jump / abs(jump)
    torch.testing.assert_close(found, expected if weight < 1 else x.mean().expand_as(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(tv(weight).energy(x), torch.tensor([weight * 2 * 6 * abs(jump)], dtype=torch.float64))


def test_total_variation_is_isotropic_and_periodic():
    x = torch.zeros(1, 5, 5, dtype=torch.complex128)
    x[0, 0, 0] = 2j  # its own two differences meet in one pixel, those of its neighbours do not
    assert tv(1.0).energy(x).item() == pytest.approx(2 * (math.sqrt(2) + 2))


def test_total_variation_states_its_error():
    x, exact = image((1, 32, 24)), tv().proximal(image((1, 32, 24)), 1.0)
    for tolerance in (1e-1, 1e-2, 1e-3):
        error = (tv(tolerance=tolerance).proximal(x, 1.0) - exact).norm() / x.norm()
        assert error <= tolerance


def test_a_memory_is_where_the_next_call_starts():
    x, memory, budget = image((1, 32, 24)), {}, tv(max_iterations=20)
    exact = tv().proximal(x, 1.0)
    errors = [float((budget.proximal(x, 1.0, memory) - exact).norm()) for _ in range(5)]
    assert errors[-1] < 0.2 * errors[0]
    smaller = tv().proximal(x, 0.01, memory)
    assert (smaller - tv().proximal(x, 0.01)).norm() < 1e-6 * x.norm()


@pytest.mark.parametrize(("shape", "levels"), [((16, 8), 1), ((16, 24), 2), ((32, 32), 3)])
def test_wavelets_are_the_mean_over_all_shifts_of_the_orthonormal_transform(shape, levels):
    x, threshold, shifts = image((1, *shape)), 0.4, 2**levels
    total, energy = torch.zeros_like(x), 0.0
    for dy in range(shifts):
        for dx in range(shifts):
            shifted = x.roll((dy, dx), (1, 2))[0].numpy()
            approximation, *details = pywt.wavedec2(shifted, "db2", mode="periodization", level=levels)
            shrunk = [tuple(pywt.threshold(d, threshold) for d in level) for level in details]
            energy += threshold * sum(abs(d).sum() for level in details for d in level) / shifts**2
            back = pywt.waverec2([approximation, *shrunk], "db2", mode="periodization")
            total += torch.from_numpy(back)[None].roll((-dy, -dx), (1, 2)) / shifts**2
    prior = make_prior("l1-wavelet", weight=threshold, levels=levels)
    torch.testing.assert_close(prior.proximal(x, 1.0), total, atol=1e-10, rtol=0)
    assert prior.energy(x).item() == pytest.approx(energy, rel=1e-10)


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_images_of_a_batch_do_not_mix(name, dtype):
    prior, x = make_prior(name, weight=0.1, **(EXACT if name == "tv" else {})), image((3, 16, 12), dtype=dtype)
    if dtype == torch.complex64 and name == "tv":
        prior = make_prior(name, weight=0.1, tolerance=1e-4, max_iterations=2000)
    together = prior.proximal(x, 0.5)
    alone = torch.cat([prior.proximal(one[None], 0.5) for one in x])
    assert together.dtype == dtype and prior.energy(x).dtype == torch.float64
    assert (together - alone).norm() <= 2e-4 * x.norm()
    torch.testing.assert_close(prior.energy(x), torch.cat([prior.energy(one[None]) for one in x]))


def test_an_image_does_not_go_on_with_its_neighbours():
    """A flat one is done at once, a noisy one is not."""
    noisy = image((1, 24, 20))
    prior, flat = make_prior("tv", weight=0.05), 0.01 * noisy + 1
    both = prior.proximal(torch.cat([flat, noisy]), 1.0)
    for index, one in enumerate((flat, noisy)):
        torch.testing.assert_close(both[index : index + 1], prior.proximal(one, 1.0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
def test_the_weight_follows_the_noise_unless_it_is_set(name):
    noise = torch.tensor([0.002, 0.02])
    prior, fixed = make_prior(name), make_prior(name, weight=0.03)
    weights = prior.at_noise(noise).weight
    assert (weights > 0).all() and weights[1] > 3 * weights[0]
    assert prior.weight == pytest.approx(float(prior.at_noise(torch.tensor([0.01])).weight))  # of unknown noise
    assert fixed.at_noise(noise).weight == fixed.weight == 0.03
    x = image((2, 16, 12), dtype=torch.complex64)
    values = [prior.at_noise(noise[i : i + 1]).proximal(x[i : i + 1], 1.0) for i in range(2)]
    torch.testing.assert_close(prior.at_noise(noise).proximal(x, 1.0), torch.cat(values), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
def test_solvers_that_need_gradients_refuse(name):
    problem, _, _ = gaussian_problem()
    with pytest.raises(CompatibilityError, match="energy, gradient"):
        make_solver("mm-cg")(problem, make_prior(name))


class Lasso(Prior):
    """λ‖x‖₁, and mistakes to be found."""

    name = "lasso"
    provides = frozenset({"proximal"})

    def __init__(self, mistake=""):
        super().__init__()
        self.mistake = mistake

    def energy(self, image, noise_level=None):
        return 0.3 * image.abs().double().sum((1, 2))

    def proximal(self, image, step, memory=None):
        threshold = 0.3 * torch.as_tensor(step).reshape(-1, 1, 1) * (1.02 if self.mistake == "threshold" else 1)
        shrunk = image * (1 - threshold / image.abs()).clamp_min(0)
        if self.mistake == "expansive":
            shrunk = image + 0.5 * (image - shrunk)
        if self.mistake == "memory" and memory is not None:
            shrunk = 0.9 * shrunk + 0.1 * memory.setdefault("image", shrunk)
        return shrunk


def test_the_check_accepts_a_proximal_map():
    check_proximal(Lasso(), image(), 0.5)
    check_proximal(Lasso(), image(dtype=torch.complex64), torch.tensor([0.5, 2.0]), tolerance=1e-4)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [("threshold", "does not minimise"), ("expansive", "not firmly nonexpansive"), ("memory", "a memory of other")],
)
def test_the_check_finds_mistakes(mistake, message):
    with pytest.raises(AssertionError, match=message):
        check_proximal(Lasso(mistake), image(), 0.5)
    if mistake == "threshold":
        check_proximal(Lasso(mistake), image(), 0.5, energy=False)


def test_a_prior_without_proximal_map_says_so():
    with pytest.raises(CompatibilityError, match="prior 'quadratic' has no proximal"):
        QuadraticPrior().proximal(image(), 1.0)


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
def test_weights_follow_the_noise_down_to_the_least(name):
    weights = make_prior(name).at_noise(torch.tensor([0.0, 0.001, 0.002, 0.004])).weight
    assert weights[0] == weights[1] == weights[2] < weights[3]
