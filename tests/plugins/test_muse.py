"""MuSE against closed forms, and against deepinv's gradient-step potential, which is the same energy."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mriinv import (
    CompatibilityError,
    ComponentSettings,
    ImageNetwork,
    Prior,
    ProblemSource,
    SettingsError,
    complex_noise,
    make_prior,
    make_solver,
    make_trainer,
)
from mriinv.testing.analytic import gaussian_problem
from mriinv.testing.priors import check_gradient


class Matrix(ImageNetwork):
    """A linear map of complex images."""

    def __init__(self, settings, matrix):
        super().__init__(settings)
        self.matrix = matrix

    def forward(self, image, log_level=None):
        return (image.flatten(1) @ self.matrix.T).view(image.shape)


def random_image(*shape, seed=0):
    return complex_noise(shape, 1.0, torch.Generator().manual_seed(seed), torch.complex128)


def test_linear_network_gives_the_quadratic_energy():
    prior, image = make_prior("muse", weights="none", weight=0.5), random_image(3, 3, 4)
    removed = random_image(12, 12, seed=1)
    prior.network = Matrix(prior.settings, removed)
    flat = image.flatten(1)
    energy, gradient = prior.energy_and_gradient(image, create_graph=True)
    normal = removed.mH @ removed
    torch.testing.assert_close(energy, 0.25 * (flat @ removed.T).abs().square().sum(1))
    torch.testing.assert_close(gradient.flatten(1), 0.5 * flat @ normal.T)
    torch.testing.assert_close(prior.denoise(image, 0.1, create_graph=True).flatten(1), flat - flat @ normal.T)
    half = prior.at_noise(torch.tensor([0.0035, 0.007, 0.014], dtype=torch.float64))
    torch.testing.assert_close(half.energy(image), energy * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    noise = torch.tensor([0.0, 0.002, 0.014], dtype=torch.float64)
    follows = prior.at_noise(noise)
    assert (follows.energy(image) > 0).all()  # without noise too
    torch.testing.assert_close(follows.energy(image) / follows.temperature(noise), energy / 0.007**2)


@pytest.mark.parametrize(
    "settings", [{"activation": "softplus"}, {"activation": "relu"}, {"network": "unet", "widths": (4, 6)}]
)
def test_gradient_agrees_with_differences(settings):
    prior, image = make_prior("muse", weights="none", **settings).double(), 0.3 * random_image(2, 9, 7)
    check_gradient(prior, image)
    at_noise = prior.at_noise(torch.tensor([0.003, 0.02], dtype=torch.float64))
    for explicit, by_autograd in (
        (at_noise.energy_and_gradient(image), at_noise.energy_and_gradient(image, create_graph=True)),
        (prior.denoise(image, 0.1), prior.denoise(image, 0.1, create_graph=True)),
    ):
        torch.testing.assert_close(explicit, by_autograd, rtol=1e-10, atol=1e-12)


def test_same_energy_and_denoiser_as_deepinv():
    from deepinv.models import GSDRUNet

    from mriinv.interop.deepinv import from_channels, to_channels

    theirs = GSDRUNet(alpha=1.0, in_channels=2, out_channels=2, nc=(4, 4, 4, 4), nb=1, pretrained=None).eval()
    prior, image = make_prior("muse", weights="none", weight=1.0), (0.1 * random_image(2, 16, 16)).to(torch.complex64)
    scale, level = 0.1, 0.05

    class Removed(ImageNetwork):
        def forward(self, scaled, log_level=None):
            channels = to_channels(scale * scaled)
            return from_channels(channels - theirs.student_grad.forward(channels, level)) / scale

    prior.network = Removed(prior.settings)
    channels = to_channels(image)
    torch.testing.assert_close(
        prior.energy(image).float(), theirs.potential(channels, level).flatten(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        to_channels(prior.denoise(image, level, create_graph=True)),
        theirs(channels, level).detach(),
        rtol=1e-4,
        atol=1e-5,
    )


class Shrinkage(Prior):
    """D(x) = (1 − θ)x, the gradient step of ½θ‖x‖²."""

    name = "shrinkage"
    provides = frozenset({"denoiser"})
    Settings = ComponentSettings

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def denoise(self, image, noise_level, *, create_graph=False):
        return (1 - self.theta) * image


class Gaussians(ProblemSource):
    """White images of standard deviation 0.2 per real component."""

    def images(self, count, generator):
        return complex_noise((count, 16, 16), 0.2, generator, torch.complex128)

    def problem(self, images, generator):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("settings", "mean_square"),
    [({"levels": (0.1, 0.1)}, 0.1**2), ({"levels": (0, 0.3), "spacing": "uniform", "relative": False}, 0.3**2 / 3)],
)
def test_score_matching_finds_the_best_shrinkage_of_gaussian_images(settings, mean_square):
    """θ minimises E‖D(x + n) − x‖² at E n² / (E x² + E n²), moments over the drawn levels."""
    prior, trainer = Shrinkage(), make_trainer("denoising", batch=16, **settings)
    generator, path = torch.Generator().manual_seed(0), []
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    for step in range(250):
        optimizer.zero_grad()
        trainer.loss(prior, Gaussians(), step, generator).value.backward()
        optimizer.step()
        path.append(prior.theta.item())
    assert sum(path[-120:]) / 120 == pytest.approx(mean_square / (mean_square + 0.2**2), rel=0.04)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": (0.2, 0.1)}, "0 ≤ lowest ≤ highest"),
        ({"levels": (0.0, 0.1)}, "0 needs spacing uniform"),
        ({"levels": (0.0, 0.0), "spacing": "uniform", "relative": False}, "0 needs"),
    ],
)
def test_levels_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        make_trainer("denoising", **settings)


def test_a_denoiser_of_one_level_needs_to_be_told_which():
    trainer = make_trainer("denoising")
    with pytest.raises(SettingsError, match=r"set trainer\.levels"):
        trainer.loss(Shrinkage(), Gaussians(), 0, torch.Generator())


class QuadraticDenoiser(Prior):
    """E = ½w xᴴQx, D(x) = x − Qx."""

    name = "quadratic-denoiser"
    provides = frozenset({"energy", "gradient", "denoiser"})

    def __init__(self, matrix, weight):
        super().__init__()
        self.matrix, self.weight = matrix, weight

    def energy(self, image, noise_level=None):
        flat = image.flatten(1)
        return 0.5 * self.weight * (flat.conj() * (flat @ self.matrix.T)).real.sum(1)

    def denoise(self, image, noise_level, *, create_graph=False):
        return image - (image.flatten(1) @ self.matrix.T).view(image.shape)


def test_modified_cost_is_minimised_and_never_increases():
    problem, quadratic, _ = gaussian_problem(batch=2)
    problem = replace(problem, data=problem.data * torch.tensor([[1.0], [-2.0j]]))  # two different images
    matrix, weight = quadratic.matrix, 0.3
    solver = make_solver("muse-mm", tolerance=1e-14, max_iterations=2000, cg_iterations=50)
    solution = solver(problem, QuadraticDenoiser(matrix, weight))
    seen = problem.operator.matrix @ (torch.eye(len(matrix)) - matrix)  # A D
    exact = torch.linalg.solve(seen.mH @ seen + weight * matrix, seen.mH @ problem.data.T).T
    assert solution.converged.all()
    torch.testing.assert_close(solution.image.flatten(1), exact, rtol=1e-4, atol=1e-6)
    costs = solution.history["cost"]
    assert (costs.diff(dim=0) <= 0).all() and costs[0, 0] > costs[-1, 0]


def test_the_modified_cost_has_its_published_weight_whatever_the_noise():
    prior, noise = make_prior("muse", weights="none", widths=[4]), torch.tensor([0.001], dtype=torch.float64)
    assert make_solver("muse-mm").prior_at(prior, noise) is prior
    assert float(make_solver("mm-cg").prior_at(prior, noise).noise_factor) == pytest.approx(0.001 / 0.007)


def test_modified_mm_backtracks_where_its_matrix_is_no_majoriser():
    """With a = 0.05 the bare step is ten times too long in sampled directions: C̃ would rise without the safeguard."""
    problem, quadratic, _ = gaussian_problem()
    prior = QuadraticDenoiser(0.1 * quadratic.matrix, 0.3)
    solution = make_solver("muse-mm", data_curvature=0.05, curvature=0.02)(problem, prior)
    assert solution.history["growth"].max() > 1 and (solution.history["cost"].diff(dim=0) <= 0).all()


def test_modified_mm_refuses_a_prior_that_needs_a_level():
    problem, _, _ = gaussian_problem()
    with pytest.raises(CompatibilityError, match="'deepen' denoises at a stated level"):
        make_solver("muse-mm")(problem, make_prior("deepen"))


def test_levels_that_the_prior_does_not_have_are_refused():
    prior = make_prior("diffusion", weights="none", widths=(4, 4, 4, 4), noise_range=(0.01, 1.0))
    trainer = make_trainer("denoising", levels=(0.001, 0.5))
    with pytest.raises(SettingsError, match=r"trainer.levels: found 0.001 to 0.5; .* 'diffusion' are 0.01 to 1"):
        trainer.loss(prior, Gaussians(), 0, torch.Generator())
