"""The log-prior of a diffusion model against Gaussian densities, and the command that prints it."""

import json
import math

import numpy as np
import pytest
import torch

from mriinv import CompatibilityError, InputError, complex_noise, make_prior
from mriinv.data.result_writer import ResultWriter
from mriinv.log_prior import log_prior, read_images
from mriinv.testing.analytic import GaussianDenoiser, QuadraticPrior
from mriinv.weights import save_weights
from support import invoke, succeed

LOWEST = 0.01


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def density(image, covariance, lowest=LOWEST):
    """Return log N(x; 0, C + σ²I) over real and imaginary parts."""
    total = covariance + lowest**2 * torch.eye(len(covariance))
    flat = image.flatten(1)
    square = (flat.conj() * torch.linalg.solve(total, flat.T).T).real.sum(1)
    return -0.5 * square - torch.linalg.slogdet(2 * math.pi * total)[1]  # half of it for each part


def correlated(pixels=12):
    factor = complex_noise((pixels, pixels), 0.3, generator(1), torch.complex128)
    covariance = factor @ factor.mH / pixels + 0.05 * torch.eye(pixels)
    return covariance, torch.linalg.cholesky(covariance)


def test_white_images_have_their_exact_density():
    """Trace and terminal density are exact for them, at a highest level where N(0, σ_T²) is 0.01 off per image."""
    covariance = 0.25 * torch.eye(3, dtype=torch.complex128)
    image = complex_noise((2, 1, 3), 0.5, generator(), torch.complex128)
    prior = GaussianDenoiser(covariance, noise_range=(LOWEST, 9.845))
    found = log_prior(prior, image, generator=generator())
    torch.testing.assert_close(found.nats, density(image, covariance), atol=1e-3, rtol=0)
    assert found.dimension == 6 and (found.standard_error < 1e-10).all()
    assert ((found.nats - density(image, covariance)).abs() < found.integration_error).all()
    assert 3 * math.log1p(0.25 / 9.845**2) > 5e-3
    torch.testing.assert_close(found.bits_per_dimension, -found.nats / (6 * math.log(2)))


def test_correlated_images_within_the_standard_error_of_the_probes():
    covariance, root = correlated()
    image = (complex_noise((3, 12), 1.0, generator(2), torch.complex128) @ root.T).view(3, 3, 4)
    prior = GaussianDenoiser(covariance, noise_range=(LOWEST, 100.0))
    found = log_prior(prior, image, probes=60, steps=40, generator=generator())
    exact = density(image, covariance)
    assert ((found.nats - exact).abs() < 4 * found.standard_error + 1e-3).all()
    # ∫(I − ∂D/∂x)du, whose off-diagonal entries are the spread of Rademacher probes
    modes, basis = torch.linalg.eigh(covariance)
    integral = basis @ torch.diag(0.5 * ((modes + 1e4) / (modes + LOWEST**2)).log()).to(basis.dtype) @ basis.mH
    spread = (4 * (integral - torch.diag(integral.diagonal())).abs().square().sum()).sqrt()
    torch.testing.assert_close(found.standard_error, (spread / 60**0.5).expand(3), rtol=0.2, atol=0)
    assert (found.standard_error < 0.5).all()


def test_more_steps_leave_a_smaller_error_and_say_so():
    covariance, root = correlated()
    image = (complex_noise((1, 12), 1.0, generator(2), torch.complex128) @ root.T).view(1, 3, 4)
    prior = GaussianDenoiser(covariance, noise_range=(LOWEST, 100.0))
    rough, fine, exact = (log_prior(prior, image, probes=2, steps=n, generator=generator()) for n in (12, 24, 200))
    assert rough.integration_error > 4 * fine.integration_error > 0
    for value in (rough, fine):
        assert (value.nats - exact.nats).abs() < value.integration_error


def test_levels_choose_the_density():
    covariance = 0.25 * torch.eye(2, dtype=torch.complex128)
    image = complex_noise((1, 1, 2), 0.5, generator(), torch.complex128)
    found = log_prior(GaussianDenoiser(covariance), image, levels=(0.3, 10.0), generator=generator())
    torch.testing.assert_close(found.nats, density(image, covariance, 0.3), atol=1e-3, rtol=0)


def test_wrong_priors_and_arguments():
    image = complex_noise((1, 2, 2), 0.5, generator(), torch.complex128)
    white = GaussianDenoiser(torch.eye(4, dtype=torch.complex128))
    with pytest.raises(CompatibilityError, match=r"log p\(x\) = −E\(x\) \+ an unknown constant"):
        log_prior(make_prior("deepen", weights="none"), image, generator=generator())
    with pytest.raises(CompatibilityError, match=r"−E\(x\)"):
        log_prior(QuadraticPrior(), image, generator=generator())

    class Plain(GaussianDenoiser):
        provides = frozenset({"denoiser"})

    with pytest.raises(CompatibilityError, match="has none"):
        log_prior(Plain(torch.eye(4, dtype=torch.complex128)), image, generator=generator())
    with pytest.raises(CompatibilityError, match="still recovers 80% of them"):
        log_prior(white, image, levels=(0.1, 0.5), generator=generator())
    for wrong in (
        {"probes": 1},
        {"steps": 5},
        {"levels": (0.0, 1.0)},
        {"levels": (2.0, 1.0)},
        {"levels": (0.001, 5.0)},
    ):
        with pytest.raises(InputError, match="log_prior: "):
            log_prior(white, image, generator=generator(), **wrong)
    with pytest.raises(InputError, match="finite"):
        log_prior(white, image * torch.nan, generator=generator())


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\x93NUMPY\x01\x00\x04\x00((((", np.ones(3).tobytes()], ids=range(4)
)
def test_damaged_arrays(tmp_path, content):
    path = tmp_path / "image.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no readable file"):
        read_images(path)


def test_other_arrays(tmp_path):
    path = tmp_path / "image.npy"
    for array in (np.ones((4, 4)), np.ones(4, complex), np.ones((0, 4), complex), np.array([None])):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(InputError, match=r"complex images|no readable file"):
            read_images(path)


def test_command(tmp_path):
    """The number of the library, for a result file and an array that hold the same image in other units."""
    prior = make_prior("diffusion", weights="none", widths=[4, 4, 4, 4], blocks=1, noise_range=[0.1, 20.0])
    save_weights(tmp_path / "w.safetensors", prior, {})
    image = complex_noise((2, 8, 8), 1.0, generator())
    np.save(tmp_path / "image.npy", 3 * image.numpy())
    with ResultWriter(tmp_path / "result.h5", [4, 7], {}, {}) as writer:
        for index, one in zip((4, 7), image, strict=True):
            writer.add(index, one, mask=torch.ones(8, 8, dtype=torch.bool))
    options = ("--weights", tmp_path / "w.safetensors", "--probes", 2, "--steps", 4, "--device", "cpu")
    rows = json.loads(succeed("log-prior", tmp_path / "result.h5", *options, "--json"))
    assert [row["slice"] for row in rows] == [4, 7]
    assert rows[0]["nats"] != rows[1]["nats"]
    scaled = image[:1] / image[0].abs().flatten().kthvalue(63).values  # 99 % of 64 pixels
    expected = log_prior(prior, scaled, probes=2, steps=4, generator=generator())
    assert rows[0]["nats"] == pytest.approx(float(expected.nats), rel=1e-5)
    assert rows[0]["bits_per_dimension"] == pytest.approx(float(expected.bits_per_dimension), rel=1e-5)
    shown = succeed("log-prior", tmp_path / "image.npy", *options, "--slice", 0)
    assert f"log p = {float(expected.nats):.1f} nats" in shown
    refused = invoke("log-prior", tmp_path / "result.h5", *options, "--slice", 0)
    assert refused.exit_code == 1 and "found 4, 7; expected slice 0 among them" in refused.output
