from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from skimage.transform import radon

from mriinv import (
    CompatibilityError,
    InputError,
    SettingsError,
    complex_noise,
    make_mask,
    make_operator,
    make_problem,
    reference_scale,
    simulate_acquisition,
)
from mriinv.data.results import read_result
from mriinv.testing.operators import check_adjoint, check_gram, check_norm_bound
from support import invoke, succeed, write_hdf5

pytestmark = pytest.mark.usefixtures("working_folder", "without_gpu")
SHAPE = (40, 32)
NAMED: list[tuple[str, dict[str, Any]]] = [
    ("blur", {}),
    ("inpainting", {"fraction": 0.4}),
    ("tomography", {"angles": 7}),
    ("deepinv", {}),
    ("deepinv", {"physics": "Downsampling", "options": {"filter": "gaussian", "factor": 2}}),
    ("deepinv", {"physics": "CompressedSensing", "options": {"m": 100}}),
    ("deepinv", {"physics": "MRI"}),
]
ACQUISITION = simulate_acquisition(shape=SHAPE, coils=4, slices=2)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return complex_noise(shape, 1.0, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "settings"), NAMED)
def test_adjoint_gram_and_norm(name: str, settings: dict[str, Any]) -> None:
    operator = make_operator(name, ACQUISITION, **settings)
    image = noise(2, *SHAPE)
    data = torch.randn_like(operator.forward(image))
    check_adjoint(operator, image, data)
    check_gram(operator, image)
    check_norm_bound(operator, noise(1, *SHAPE))
    turned = operator.forward(1j * image)
    torch.testing.assert_close(turned, 1j * operator.forward(image), atol=1e-4, rtol=1e-4)
    moved = operator.to("cpu")
    assert moved is not operator
    torch.testing.assert_close(moved.forward(image), operator.forward(image))


def test_blur_multiplies_the_spectrum_by_a_gaussian() -> None:
    operator = make_operator("blur", ACQUISITION, width=1.2)
    image = noise(1, *SHAPE)
    found = torch.fft.fft2(operator.forward(image)) / torch.fft.fft2(image)
    y, x = (torch.fft.fftfreq(size) for size in SHAPE)
    expected = torch.exp(-2 * (torch.pi * 1.2) ** 2 * (y[:, None] ** 2 + x**2))
    torch.testing.assert_close(found[0, 0].real, expected, atol=0.02, rtol=0)
    assert found.imag.abs().max() < 1e-3


def test_projections_are_those_of_scikit_image() -> None:
    size = 49
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    image = torch.exp(-8 * ((y - 0.2) ** 2 + (x + 0.1) ** 2))
    acquisition = simulate_acquisition(shape=(size, size), coils=1)
    data = make_operator("tomography", acquisition, angles=6).forward(image[None].to(torch.complex64)).real[0, 0]
    peer = torch.from_numpy(radon(image.numpy(), [30.0 * k for k in range(6)], circle=False)).to(data)
    data, peer = data / data.norm(), peer / peer.norm()
    assert data.shape == peer.shape
    assert (data - peer).norm() < 0.15  # half a pixel between the two centres
    torch.testing.assert_close(data.sum(0), peer.sum(0), rtol=0.01, atol=0)


def test_inpainting_keeps_the_fraction_its_seed_says() -> None:
    ones = torch.ones(1, *SHAPE, dtype=torch.complex64)
    first, other = (make_operator("inpainting", ACQUISITION, fraction=0.3, mask_seed=s)(ones) for s in (0, 1))
    assert abs(float(first.real.mean()) - 0.3) < 0.05
    assert not torch.equal(first, other)
    assert set(first.real.unique().tolist()) == {0, 1}


def test_data_are_the_reference_with_noise_relative_to_its_scale() -> None:
    bright = replace(ACQUISITION, reference=1000 * ACQUISITION.reference)
    problem = make_problem(bright, "deepinv", noise_std=0.02, seed=5)
    added = problem.data[:, 0] - bright.reference
    scale = reference_scale(bright.reference)
    torch.testing.assert_close(problem.noise_std, 0.02 * scale)
    torch.testing.assert_close(added.real.flatten(1).std(1), 0.02 * scale, rtol=0.1, atol=0)
    torch.testing.assert_close(problem.scale, scale, rtol=0.1, atol=0)
    assert torch.equal(problem.data, make_problem(bright, "deepinv", noise_std=0.02, seed=5).data)
    assert not torch.equal(problem.data, make_problem(bright, "deepinv", noise_std=0.02, seed=6).data)


def test_the_image_of_a_scan_without_reference_is_that_of_its_coils() -> None:
    scan = replace(ACQUISITION, reference=None)
    problem = make_problem(scan, "deepinv", noise_std=0.0)
    expected = make_operator("sense", scan).fully_sampled_image(scan.kspace)
    torch.testing.assert_close(problem.data[:, 0], expected)
    with pytest.raises(InputError, match="undersampled data"):
        make_problem(scan.undersampled(make_mask("poisson-2d", SHAPE, 3.0)), "blur")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deepinv", {"physics": "Bluer"}, "has, for use here: .*Blur"),
        ("deepinv", {"physics": "Haze"}, "for use here"),
        (
            "deepinv",
            {"physics": "Inpainting", "options": {"fraction": 0.5}},
            "has no option 'fraction'; it has: .*mask",
        ),
        ("deepinv", {"physics": "Inpainting", "options": {"mask": "all"}}, "cannot be built"),
        ("tomography", {"angles": 0}, "angles"),
        ("inpainting", {"fraction": 1.5}, "fraction"),
    ],
)
def test_wrong_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_operator(name, ACQUISITION, **settings)


def test_a_gaussian_wider_than_the_image() -> None:
    with pytest.raises(CompatibilityError, match="does not fit"):
        make_operator("blur", ACQUISITION, width=20)


# On the command line


@pytest.fixture
def scan(working_folder: Path) -> Path:
    """A fully sampled k-space file of two slices without reference."""
    kspace = simulate_acquisition(shape=(48, 48), coils=4, slices=2).kspace
    return write_hdf5(working_folder / "scan.h5", kspace=kspace.numpy())


@pytest.mark.parametrize(
    ("operator", "method", "gain"),
    [
        (["blur"], ["--prior", "tv", "--solver", "fista", "--set", "solver.max_iterations=50"], 3.0),
        (["blur"], ["--prior", "deepen", "--solver", "mm-cg", "--set", "solver.max_iterations=30"], 3.0),
        pytest.param(
            ["tomography", "--set", "operator.angles=40"],
            [
                *("--prior", "deepinv-denoiser", "--set", "prior.options={n_it_max: 30}"),
                *("--solver", "ista", "--set", "solver.max_iterations=30", "--set", "solver.noise_level=0.003"),
            ],
            5.0,
            marks=pytest.mark.slow,  # deepinv's TV takes half a second and more for each iteration
        ),
        pytest.param(
            ["inpainting"],
            ["--prior", "deepinv-prior", "--set", "prior.options={n_it_max: 30}", "--solver", "fista"],
            5.0,
            marks=pytest.mark.slow,  # the same
        ),
        (
            ["tomography", "--set", "operator.angles=40"],
            ["--prior", "deepen", "--solver", "mm-cg", "--set", "solver.max_iterations=12"],
            5.0,
        ),
    ],
    ids=["blur-tv", "blur-deepen", "tomography-denoiser", "inpainting-prior", "tomography-deepen"],
)
def test_by_name(scan: Path, operator: list[str], method: list[str], gain: float) -> None:
    text = succeed("run", scan, "--slices", "1", "--operator", *operator, *method)
    stored = read_result(Path("result/scan.h5"))
    psnr, before = float(stored.metrics["psnr"][0]), evaluate_before(stored)
    assert psnr > before + gain, (psnr, before)
    assert "no mask of k-space applies" in text
    assert Path("result/scan.png").is_file()


def evaluate_before(stored: Any) -> float:
    """PSNR of the adjoint image, by its best multiple, since an adjoint has a scale of its own."""
    adjoint, reference = stored.arrays["adjoint"][0].abs(), stored.arrays["reference"][0].abs()
    adjoint = adjoint * (adjoint * reference).sum() / adjoint.square().sum()
    error = (adjoint - reference).square().mean()
    return float(10 * torch.log10(reference.max() ** 2 / error))


def test_the_simulated_scan_needs_no_mask_and_takes_none() -> None:
    succeed("run", "--operator", "blur", "--solver", "zero-filled")
    stored = read_result(Path("result/simulated.h5"))
    assert stored.settings["mask"] is None
    expected = simulate_acquisition(seed=0).reference
    torch.testing.assert_close(stored.arrays["reference"], expected)
    operator = make_operator("blur", simulate_acquisition(seed=0))
    difference = stored.image - operator.gram(expected)
    assert 0 < difference.abs().square().mean().sqrt() < 0.01 * 2**0.5
    refused = invoke("run", "--operator", "blur", "--solver", "zero-filled", "--mask", "random-1d")
    assert refused.exit_code != 0
    assert "which no mask undersamples" in refused.output
    refused = invoke("run", "--operator", "blur", "--solver", "zero-filled", "--dry-run", "--mask", "random-1d")
    assert "which no mask undersamples" in refused.output


def test_a_mask_for_a_file_and_an_undersampled_file_are_refused(scan: Path) -> None:
    refused = invoke("run", scan, "--operator", "blur", "--solver", "zero-filled", "--mask", "poisson-2d")
    assert "which no mask undersamples" in refused.output
    with h5py.File(scan, "a") as file:
        kspace = file["kspace"][()]
        kspace[..., 1::2] = 0
        file["kspace"][...] = kspace
    result = invoke("run", scan, "--operator", "blur", "--solver", "zero-filled")
    assert result.exit_code != 0
    assert "undersampled data (acceleration 2.00)" in result.output
