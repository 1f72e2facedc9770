from __future__ import annotations

from pathlib import Path
from typing import Any

import deepinv
import pytest
import torch
from torch import nn

from mriinv import (
    InverseProblem,
    SettingsError,
    complex_noise,
    denoising_score_matching,
    from_channels,
    make_mask,
    make_prior,
    make_problem,
    make_solver,
    simulate_acquisition,
    to_channels,
    to_deepinv_physics,
)
from mriinv.metrics import psnr
from mriinv.testing.priors import check_capabilities, check_proximal
from mriinv.weights import save_weights
from support import succeed

SHAPE = (32, 32)
ACQUISITION = simulate_acquisition(shape=SHAPE, coils=4, slices=2, coil_maps=True)
TINY = {"network": "cnn", "widths": (8,), "layers": 3}


@pytest.fixture
def problem() -> InverseProblem:
    return make_problem(ACQUISITION.undersampled(make_mask("poisson-2d", SHAPE, 3.0))).normalised()


def noisy(std: float = 0.1) -> torch.Tensor:
    reference = ACQUISITION.reference
    assert reference is not None
    return reference + complex_noise(reference.shape, std, torch.Generator().manual_seed(0))


# Denoisers


def test_the_default_removes_noise_and_is_deepinvs_tv() -> None:
    prior = make_prior("deepinv-denoiser")
    check_capabilities(prior, noisy())
    images = noisy()
    found = prior.denoise(images, 0.1)
    assert (psnr(found, ACQUISITION.reference) > psnr(images, ACQUISITION.reference) + 1).all()
    parts = torch.cat([images.real, images.imag])[:, None]
    expected = deepinv.models.TVDenoiser()(parts, 0.1)[:, 0]
    torch.testing.assert_close(found, torch.complex(*expected.chunk(2)))


@pytest.mark.parametrize(
    ("model", "options", "channels"),
    [
        ("DnCNN", {"depth": 3, "nf": 4}, 2),
        ("DnCNN", {"depth": 3, "nf": 4, "in_channels": 1}, 1),
        ("DRUNet", {"nc": [4, 4, 4, 4], "nb": 1}, 2),
        ("UNet", {"scales": 2, "batch_norm": False}, 2),
        ("MedianFilter", {"kernel_size": 3}, 1),
        ("TGVDenoiser", {"n_it_max": 5}, 1),
    ],
)
def test_denoisers_by_name(model: str, options: dict[str, Any], channels: int) -> None:
    prior = make_prior("deepinv-denoiser", weights="none", model=model, options=options)
    assert prior.channels == channels
    check_capabilities(prior, noisy())


def test_training_saving_and_loading(tmp_path: Path) -> None:
    settings = {"model": "DnCNN", "options": {"depth": 3, "nf": 8}}
    torch.manual_seed(0)
    prior = make_prior("deepinv-denoiser", weights="none", **settings).train().requires_grad_(True)
    optimiser = torch.optim.Adam(prior.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        levels = torch.full((2,), 0.1)
        loss = denoising_score_matching(prior, ACQUISITION.reference, levels, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    path = tmp_path / "denoiser.safetensors"
    save_weights(path, prior, {})
    again = make_prior("deepinv-denoiser", weights=str(path))
    assert torch.equal(again.denoise(noisy(), 0.1), prior.denoise(noisy(), 0.1))


def test_the_command_line_trains_a_denoiser(tmp_path: Path, without_gpu: None) -> None:
    arguments = ["train", "--prior", "deepinv-denoiser", "--out", str(tmp_path / "out")]
    for assignment in (
        "prior.model=DnCNN",
        "prior.options={depth: 3, nf: 4}",
        "trainer.steps=2",
        "data.shape=[32, 32]",
    ):
        arguments += ["--set", assignment]
    succeed(*arguments, "--set", "data.coils=2")
    weights = tmp_path / "out" / "weights.safetensors"
    assert make_prior("deepinv-denoiser", weights=str(weights)).settings.model == "DnCNN"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "DnCN"}, "DnCNN"),
        ({"model": "VarNet"}, "for use here"),
        ({"model": "Client", "options": {"endpoint": "https://example.org"}}, "for use here"),
        ({"model": "DnCNN", "options": {"pretrained": "download"}}, "nothing is downloaded or unpickled"),
        ({"model": "DnCNN", "options": {"pretrained": "weights.pth"}}, "nothing is downloaded or unpickled"),
        ({"model": "DnCNN", "options": {"deepth": 3}}, "no option 'deepth'; it has: .*depth"),
        ({"model": "DnCNN", "options": {"in_channels": 3}}, "1 or 2"),
        ({"model": "EquivariantDenoiser"}, "cannot be built"),
        ({"model": "SCUNet"}, "does not denoise images of 1 channel"),
    ],
)
def test_what_denoisers_refuse(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_prior("deepinv-denoiser", **settings)


@pytest.mark.parametrize(("model", "package"), [("WaveletDenoiser", "ptwt"), ("BM3D", "bm3d")])
def test_a_missing_package_is_named(model: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: object, *_: Any, **__: Any) -> None:
        raise ImportError(f"No module named '{package}'")

    monkeypatch.setattr(getattr(deepinv.models, model), "__init__", missing)
    with pytest.raises(SettingsError, match=f"{model} needs a package that is not installed.*{package}"):
        make_prior("deepinv-denoiser", model=model)


# Explicit priors


def test_priors_whose_proximal_map_is_only_an_inner_descent_are_refused() -> None:
    with pytest.raises(SettingsError, match="RDP has no proximal map of its own"):
        make_prior("deepinv-prior", model="RDP")


@pytest.mark.parametrize(
    ("model", "options"),
    [("TVPrior", {"n_it_max": 300}), ("L1Prior", {}), ("Tikhonov", {}), ("L12Prior", {"l2_axis": 1})],
)
def test_priors_by_name_have_a_proximal_map(model: str, options: dict[str, Any]) -> None:
    prior = make_prior("deepinv-prior", model=model, options=options, weight=0.1)
    check_proximal(prior, noisy().to(torch.complex128)[..., 8:20, 8:20], tolerance=1e-3)


def test_the_total_variation_of_deepinv_in_fista(problem: InverseProblem) -> None:
    prior = make_prior("deepinv-prior", weight=0.005, options={"n_it_max": 50})
    solution = make_solver("fista", max_iterations=40)(problem, prior)
    start, end = (problem.data_term(x) + prior.energy(x) for x in (problem.back_projection(), solution.image))
    assert (end < 0.9 * start).all()
    target = ACQUISITION.reference / make_problem(
        ACQUISITION.undersampled(make_mask("poisson-2d", SHAPE, 3.0))
    ).scale.view(-1, 1, 1)
    assert (psnr(solution.image, target) > psnr(problem.back_projection(), target) + 2).all()


def test_a_prior_without_function_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be built"):
        make_prior("deepinv-prior", model="PnP")
    with pytest.raises(SettingsError, match="no function g"):
        make_prior("deepinv-prior", model="Prior")


# Unrolled networks


@pytest.mark.parametrize("name", ["modl", "varnet"])
@pytest.mark.parametrize("network", ["cnn", "unet"])
def test_training_lowers_the_error(name: str, network: str, problem: InverseProblem) -> None:
    torch.manual_seed(0)
    settings = {**TINY, "network": network, "widths": (8,)}
    prior = make_prior(name, weights="none", **settings).train().requires_grad_(True)
    scale = make_problem(ACQUISITION.undersampled(make_mask("poisson-2d", SHAPE, 3.0))).scale
    target = ACQUISITION.reference / scale.view(-1, 1, 1)
    used = [p for key, p in prior.named_parameters() if "g_param" not in key and "lambda" not in key]
    optimiser = torch.optim.Adam(used, lr=3e-3)
    losses = []
    for _ in range(8):
        loss = (prior.reconstruct(problem).image - target).abs().square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in used)
        optimiser.step()
        losses.append(float(loss.detach()))
    before = (problem.back_projection() - target).abs().square().mean()
    assert name == "modl" or losses[0] < 0.7 * before  # untrained it is near the least-squares image
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", ["modl", "varnet"])
def test_without_network_they_are_what_their_equations_say(name: str, problem: InverseProblem) -> None:
    prior = make_prior(name, weights="none", **TINY)
    for module in prior.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    steps: list[int] = []
    solution = prior.reconstruct(problem, monitor=lambda step, _: steps.append(step))
    image = problem.back_projection()
    for _ in range(prior.steps):
        if name == "varnet":
            image = image - problem.data_gradient(image)
        else:
            rhs = problem.back_projection() + image / 20
            image = problem.operator.solve_normal(rhs, 1 / 20).solution
    torch.testing.assert_close(solution.image, image, atol=5e-3, rtol=0)  # its CG stops at 1e-4
    assert steps == [prior.steps] == [int(solution.iterations[0])]
    assert not solution.image.requires_grad


@pytest.mark.parametrize(("noise", "strength", "gain"), [(0.005, 0.5, 0.5), (0.01, 1.0, 1.0), (0.04, 8.0, 1.0)])
def test_modl_is_as_strong_as_the_noise_asks_for(
    problem: InverseProblem, noise: float, strength: float, gain: float
) -> None:
    """γ_k/s and s·g, s = max(η/η₀, ½(η/η₀)²), on g at most 1; with one copy of the network at two strengths."""
    prior = make_prior("modl", weights="none", iterations=2, data_noise_std=0.01, **TINY)
    other = make_prior("modl", weights="none", iterations=2, **TINY)
    other.load_state_dict(prior.state_dict())
    for step in other.model.params_algo["stepsize"]:
        step /= strength
    other.model.prior[0].denoiser.gain *= gain
    expected, usual = other.reconstruct(problem).image, prior.reconstruct(problem).image
    found = prior.at_noise(torch.tensor([noise])).reconstruct(problem).image
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)  # CG stops at 1e-4
    torch.testing.assert_close(prior.reconstruct(problem).image, usual)
    assert (found - usual).abs().max() > 0.02 or noise == 0.01


def test_modl_starts_where_it_is_told(problem: InverseProblem) -> None:
    prior = make_prior("modl", weights="none", iterations=1, **TINY)
    physics, data = to_deepinv_physics(problem.operator, problem.data), to_channels(problem.data)
    start = problem.sense()
    expected = prior.model(data, physics, init=(to_channels(start), to_channels(start)))
    found = prior.reconstruct(problem, initial=start).image
    torch.testing.assert_close(found, from_channels(expected))
    assert (found - prior.reconstruct(problem).image).abs().max() > 1e-4
    for noise in (0.002, 0.02):  # the strength divides data and operator, not where it starts
        other = prior.at_noise(torch.tensor([noise]))
        from_data = other.reconstruct(problem, initial=problem.back_projection()).image
        torch.testing.assert_close(other.reconstruct(problem).image, from_data)


def test_weights_survive_a_file(tmp_path: Path, problem: InverseProblem) -> None:
    for name in ("modl", "varnet"):
        prior = make_prior(name, weights="none", **TINY)
        path = tmp_path / f"{name}.safetensors"
        save_weights(path, prior, {})
        again = make_prior(name, weights=str(path))
        assert torch.equal(again.reconstruct(problem).image, prior.reconstruct(problem).image)
