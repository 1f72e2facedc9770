"""The energy: derivatives, shapes, and what its documentation states."""

import copy
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mriinv import (
    InverseProblem,
    MriinvError,
    Prior,
    complex_noise,
    make_prior,
    make_problem,
    make_solver,
    simulate_acquisition,
)
from mriinv.errors import SettingsError
from mriinv.testing.priors import check_capabilities, check_gradient
from mriinv_deepen.energy import DeepenEnergy

FORMS = {
    "residual": {"widths": [4, 6], "blocks": 1},
    "one-resolution": {"widths": [4], "unshuffle": 1, "blocks": 3, "activation": "softplus"},
    "one-level": {"widths": [4], "conditional": False},
    "published": {"form": "published", "widths": [4]},
    "published-flatten": {"form": "published", "widths": [4], "head": "flatten", "matrix": [9, 12]},
}


def energy(name, **more):
    torch.manual_seed(0)
    return make_prior("deepen", weights="none", **FORMS[name], **more).double()


def image(shape=(2, 9, 12), seed=0):
    return complex_noise(shape, 0.5, torch.Generator().manual_seed(seed), torch.complex128)


def levels(prior):
    return [None, 0.02, torch.tensor([0.01, 0.1])] if prior.noise_range else [None]


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_finite_differences(form):
    prior, x = energy(form), image()
    for level in levels(prior):
        check_gradient(prior, x, level)
        value, gradient = prior.energy_and_gradient(x, level)
        assert value.dtype == torch.float64 and (value >= 0).all()
        assert not gradient.requires_grad and not value.requires_grad


ARCHITECTURES = {
    "three widths": {"widths": [4, 6, 8]},
    "one width": {"widths": [5], "blocks": 3, "activation": "softplus"},
    "full resolution": {"widths": [4, 6], "unshuffle": 1, "conditional": False},
    "relu": {"widths": [4, 6], "blocks": 1, "activation": "relu"},
    "published": {"form": "published", "widths": [6]},
    "published, smooth": {"form": "published", "widths": [6], "activation": "softplus"},
    "published, flatten": {"form": "published", "widths": [4], "head": "flatten", "matrix": [23, 18]},
    "views": {"widths": [4, 8], "views": 4},
    "eight views": {"widths": [4], "blocks": 1, "views": 8},
    "published, views": {"form": "published", "widths": [4], "views": 2},
}


def by_autograd(prior, x, level=None):
    return Prior.energy_and_gradient(prior, x, level)


def error(found, expected):
    """Return the largest relative error of an image of the batch."""
    return float(((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max())


def built(architecture, **more):
    torch.manual_seed(1)
    prior = make_prior("deepen", weights="none", **ARCHITECTURES[architecture], **more)
    if prior.residual:
        prior.network.outlet.weight.data.mul_(10)
    return prior.double()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_gradient_is_that_of_autograd(architecture, factor):
    """In float64 to 1e-12, in float32 to 1e-5, and as exact as it under autocast; odd sizes, many levels."""
    prior, x = built(architecture).at_noise(torch.tensor([0.007, 0.021])), image((2, 23, 18))
    if not prior.residual:
        prior.network.linear.bias.data.fill_(100 * factor)  # either sign of what the absolute value is taken of
    level, before = torch.tensor([0.02, 0.15]), x.clone()
    energy, gradient = prior.energy_and_gradient(x, level)
    expected = by_autograd(prior, x, level)
    torch.testing.assert_close(energy, expected[0], rtol=1e-12, atol=0)
    assert error(gradient, expected[1]) < 1e-12
    assert torch.equal(x, before)
    torch.testing.assert_close(prior.energy(x, level).detach(), energy, rtol=1e-12, atol=0)
    assert torch.equal(prior.gradient(x, level), gradient)
    x, prior = x.to(torch.complex64), prior.float()
    single = prior.energy_and_gradient(x, level)
    assert single[0].dtype == torch.float64 and single[1].dtype == torch.complex64
    assert error(single[1], by_autograd(prior, x, level)[1]) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        low, reference = prior.energy_and_gradient(x, level), by_autograd(prior, x, level)
    assert low[0].dtype == torch.float64 and low[1].dtype == torch.complex64
    assert 1e-4 < error(low[1], gradient) < 1.5 * error(reference[1], gradient)


@pytest.mark.parametrize("architecture", ["three widths", "published"])
def test_gradient_follows_the_parameters(architecture):
    """Whatever changes them: an optimiser, another state, data that are set, another precision."""
    prior, x = built(architecture).requires_grad_(True), image((1, 23, 18))
    other = copy.deepcopy(prior)
    optimizer = torch.optim.SGD(prior.parameters(), lr=1e-2)
    seen = [prior.gradient(x)]

    def fresh():
        seen.append(prior.gradient(x))
        assert error(seen[-1], by_autograd(prior, x)[1]) < 1e-12
        assert error(seen[-1], seen[-2]) > 1e-9

    prior.energy(x).sum().backward()
    optimizer.step()
    fresh()
    prior.load_state_dict(other.state_dict())
    fresh()
    assert torch.equal(seen[-1], seen[0]) and torch.equal(copy.deepcopy(prior).gradient(x), seen[0])
    next(prior.network.parameters()).data.mul_(1.1)
    fresh()
    assert prior.float().gradient(x.to(torch.complex64)).dtype == torch.complex64
    prior.double()
    fresh()


@pytest.mark.parametrize("architecture", ["three widths", "published"])
def test_gradient_has_no_graph_in_any_context(architecture):
    prior, x = built(architecture).requires_grad_(True), image((1, 23, 18))
    expected = prior.energy_and_gradient(x)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            found = prior.energy_and_gradient(x.clone().requires_grad_(context is torch.enable_grad))
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            assert not any(value.requires_grad for value in found)
    _, gradient = prior.energy_and_gradient(x, create_graph=True)
    assert gradient.requires_grad


def test_denoiser_without_a_graph_is_the_one_with_it():
    prior, x, level = built("three widths").requires_grad_(True), image((2, 23, 18)), torch.tensor([0.02, 0.15])
    trained = prior.denoise(x, level, create_graph=True)
    assert trained.requires_grad and not prior.denoise(x, level).requires_grad
    torch.testing.assert_close(prior.denoise(x, level), trained.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_capabilities_are_those_of_the_form(form):
    prior = energy(form)
    check_capabilities(prior, image())
    assert ("denoiser" in prior.provides) == (not form.startswith("published"))
    prior.provides = frozenset({"energy", "denoiser", "noise-conditional"})
    if form != "residual" and form != "one-resolution":
        with pytest.raises(AssertionError, match=r"denoiser|noise-conditional"):
            check_capabilities(prior, image())


def test_a_wrong_gradient_is_found():
    prior = energy("residual")
    prior.gradient = lambda x, level=None: 1.001 * DeepenEnergy.gradient(prior, x, level)
    with pytest.raises(AssertionError, match="by differences"):
        check_gradient(prior, image())


@pytest.mark.parametrize("form", [name for name in FORMS if name != "published-flatten"])
@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 16, 10), (1, 33, 18)])
def test_any_matrix_and_any_batch(form, shape):
    prior, x = energy(form), image(shape)
    whole, gradient = prior.energy_and_gradient(x)
    assert gradient.shape == x.shape
    single = torch.cat([prior.energy(one[None]) for one in x]).detach()
    torch.testing.assert_close(whole, single)


def test_published_form_has_the_published_number_of_parameters():
    prior = make_prior("deepen", weights="none", form="published", head="flatten")
    assert sum(p.numel() for p in prior.parameters()) == 148_928 + 6_553_601


def test_published_form_is_piecewise_linear():
    """Its gradient does not change under a small step: no Lipschitz constant can be measured, only backtracked."""
    prior, x = energy("published"), image()
    torch.testing.assert_close(prior.gradient(x), prior.gradient(x + 1e-9 * image(seed=1)), rtol=0, atol=0)
    assert energy("residual").gradient(x).ne(energy("residual").gradient(x + 1e-6 * image(seed=1))).any()


def test_denoiser_is_the_gradient_step_that_the_energy_defines():
    prior, x, sigma = energy("residual", weight=3.0), image(), 0.05
    scale = 3.0 * prior.log_scale.exp() * (prior.reference_level / sigma) ** 2
    expected = x - prior.gradient(x, sigma) / scale.detach()
    torch.testing.assert_close(prior.denoise(x, sigma), expected)
    score = (expected - x) / sigma**2
    torch.testing.assert_close(prior.score(x, sigma), score)


def test_default_level_is_the_lowest_and_weight_multiplies():
    x = image()
    prior, doubled = energy("residual"), energy("residual", weight=2.0)
    torch.testing.assert_close(prior.energy(x), prior.energy(x, prior.noise_range[0]))
    torch.testing.assert_close(doubled.energy(x), 2 * prior.energy(x))


def test_zero_image_has_zero_energy_without_biases():
    prior = energy("one-level")
    assert prior.energy(torch.zeros(1, 8, 8, dtype=torch.complex128)).item() == 0


def test_published_form_has_no_denoiser():
    with pytest.raises(MriinvError, match="no denoiser"):
        energy("published").denoise(image(), 0.1)


def test_wrong_settings_are_refused():
    with pytest.raises(SettingsError, match="did you mean 'widths'"):
        make_prior("deepen", weights="none", width=[4])
    for name, value in (("weight", -1), ("noise_range", (0.1, 0.01)), ("noise_range", (0, 0.1)), ("widths", (0,))):
        with pytest.raises(SettingsError, match=rf"deepen\.{name}"):
            make_prior("deepen", weights="none", **{name: value})


def test_gradient_keeps_no_graph_and_training_does():
    prior, x = energy("residual").requires_grad_(True), image()
    assert prior.gradient(x).grad_fn is None
    _, gradient = prior.energy_and_gradient(x, create_graph=True)
    gradient.abs().square().sum().backward()
    assert all(p.grad is not None for p in prior.parameters())


@pytest.mark.parametrize("form", ["residual", "published"])
def test_map_descends_on_a_simulated_scan(form):
    """A random energy, multi-coil data: MM-CG must descend in single precision too."""
    problem = make_problem(simulate_acquisition(shape=(48, 44), coils=4))
    torch.manual_seed(0)
    prior = make_prior("deepen", weights="none", form=form, widths=[8])
    solution = make_solver("mm-cg", max_iterations=12, levels=2)(problem, prior)
    level = solution.history["noise_level"][:, 0].nan_to_num()
    cost = solution.history["cost"][:, 0]
    same = level.diff() == 0
    assert same.sum() >= 3 and (cost.diff()[same] <= 0).all()


def test_energy_follows_the_noise_of_the_data_image_by_image():
    """As (η/η₀)^(7/6), and where the noise is far above that of the training as half of its variance."""
    x, prior = image(), energy("residual", data_noise_std=0.01)
    noisier = prior.at_noise(torch.tensor([0.02, 0.05], dtype=torch.float64))
    factors = torch.tensor([2 ** (7 / 6), 5**2 / 2], dtype=torch.float64)
    torch.testing.assert_close(noisier.energy(x), prior.energy(x) * factors)
    torch.testing.assert_close(noisier.gradient(x)[1], 5**2 / 2 * prior.gradient(x)[1])
    torch.testing.assert_close(noisier.denoise(x, 0.05), prior.denoise(x, 0.05))
    fixed = energy("residual", data_noise_std=None)
    assert fixed.at_noise(torch.tensor([0.5, 0.5])) is fixed


def test_noise_beyond_that_of_the_training():
    noise = torch.tensor([0.005, 0.01, 0.05])
    found = energy("residual", data_noise_std=0.03).excess_noise(noise), energy("residual").excess_noise(noise)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 0.04]))
    torch.testing.assert_close(found[1], (noise.square() - 0.007**2).clamp_min(0).sqrt())
    assert torch.equal(energy("residual", data_noise_std=None).excess_noise(noise), noise)


def test_data_without_noise_still_have_a_prior():
    x, prior = image(), energy("residual", data_noise_std=0.01)
    silent, least = (prior.at_noise(torch.full((2,), noise, dtype=torch.float64)) for noise in (0.0, 5e-4))
    assert (silent.energy(x) > 0).all() and torch.equal(silent.energy(x), least.energy(x))


def test_at_the_temperature_the_energy_is_that_of_the_training():
    """exp(-E/T) is the prior that was learned with the noise η₀, whatever the noise of the data."""
    noise, x = torch.tensor([0.002, 0.03], dtype=torch.float64), image()
    prior = energy("residual", data_noise_std=0.01)
    other = prior.at_noise(noise)
    torch.testing.assert_close(other.energy(x) / other.temperature(noise), prior.energy(x) / 0.01**2)
    drawn = prior.in_posterior(noise)  # of noise above η₀ the posterior itself: T = η²
    torch.testing.assert_close(drawn.energy(x) / drawn.temperature(noise), prior.energy(x) / 0.01**2)
    torch.testing.assert_close(drawn.temperature(noise), torch.stack([other.temperature(noise)[0], noise[1] ** 2]))
    fixed = energy("residual", data_noise_std=None)
    torch.testing.assert_close(fixed.temperature(noise), noise.square())


def test_views_are_shifted_mirrored_and_rephased_images():
    x, one, two = image(), energy("residual", views=1), energy("residual", views=2)
    other = 1j * x.roll((1, 1), (-2, -1)).flip(-1)
    torch.testing.assert_close(two.energy(x), (one.energy(x) + one.energy(other)) / 2)
    back = (-1j * one.gradient(other)).flip(-1).roll((-1, -1), (-2, -1))
    torch.testing.assert_close(two.gradient(x), (one.gradient(x) + back) / 2)
    moved = (x - two.denoise(x, 0.05)) / 0.05**2 * two.factor()
    torch.testing.assert_close(moved.to(x.dtype), two.gradient(x, 0.05))


def test_an_energy_is_the_mean_over_four_views_unless_it_is_the_published_one():
    assert [len(energy(name).views) for name in ("residual", "one-level", "published")] == [4, 4, 1]
    x, mean, one = image(), energy("residual"), energy("residual", views=1)
    torch.testing.assert_close(mean.one_view().energy(x), one.energy(x))
    assert len(mean.views) == 4 and mean.one_view().log_scale is mean.log_scale


def test_the_scale_begins_at_that_of_exact_denoising():
    """E/η₀² is then the negative log-density of the images with noise σ₀, whose score is (D − x)/σ₀²."""
    prior, x = energy("residual", data_noise_std=0.01, noise_range=(0.02, 0.3)), image()
    torch.testing.assert_close(-prior.gradient(x) / 0.01**2, prior.score(x, 0.02))
    for settings in ({"data_noise_std": None}, {"conditional": False}, {"initial_scale": 0.3}):
        assert energy("residual", **settings).log_scale.exp().item() == pytest.approx(0.3)


def test_all_views_are_different_and_each_comes_back():
    x = image()
    views = [view.of(x) for view in energy("residual", views=8).views]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(views, 2))
    for view, one in zip(energy("residual", views=8).views, views, strict=True):
        torch.testing.assert_close(view.adjoint(one), x)


def test_solvers_bring_the_energy_to_the_noise_of_the_problem():
    """A step of no length shows the energy that the solver sees at its start."""
    problem, prior = (
        make_problem(simulate_acquisition(shape=(32, 32), coils=4)),
        energy("residual").float(),
    )
    solver = make_solver("mm-cg", max_iterations=1, levels=1, lowest_level=0.008, initial_curvature=1e9)

    def first_energy(units, noise):
        scaled = InverseProblem(problem.operator, units * problem.data, units * noise * problem.noise_std)
        return solver(scaled, prior).history["energy"][0]

    torch.testing.assert_close(first_energy(1.0, 2.0), 2 ** (7 / 6) * first_energy(1.0, 1.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(first_energy(50.0, 1.0), first_energy(1.0, 1.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_everything_stays_on_the_device_of_the_image(form):
    """With tensors that have a device and no values, as a machine without CUDA can have them."""
    with FakeTensorMode():
        with torch.device("cuda"):
            prior = make_prior("deepen", weights="none", **FORMS[form])
        x = torch.zeros(2, 9, 12, dtype=torch.complex64, device="cuda")
        noisy = prior.at_noise(torch.full((2,), 0.01, device="cuda"))
        found = [*prior.energy_and_gradient(x), *noisy.energy_and_gradient(x), prior.energy(x)]
    assert {one.device.type for one in found} == {"cuda"}


def test_levels_beyond_the_trained_ones_count_as_the_nearest():
    prior, x = (
        make_prior("deepen", weights="none", widths=[4], blocks=1),
        complex_noise((2, 9, 12), 0.5, torch.Generator().manual_seed(0)),
    )
    for create_graph in (False, True):
        for beyond, nearest in ((1.0, 0.2), (1e-3, 0.005)):
            found, expected = (prior.denoise(x, level, create_graph=create_graph) for level in (beyond, nearest))
            assert torch.equal(found, expected)
