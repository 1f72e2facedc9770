"""Curvature of an energy from its gradients."""

import pytest
import torch

from mriinv import complex_noise, largest_curvature, make_prior


def test_is_the_largest_eigenvalue_of_a_quadratic_energy():
    generator = torch.Generator().manual_seed(0)
    root = complex_noise((12, 12), 1.0, generator, torch.complex128)
    matrix = root @ root.mH
    image = complex_noise((2, 3, 4), 1.0, generator, torch.complex128)
    found, _ = largest_curvature(lambda x: (x.flatten(1) @ matrix.T).view_as(x), image, generator, iterations=300)
    expected = torch.linalg.eigvalsh(matrix)[-1].expand(2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_an_empty_image_has_the_curvature_of_its_surroundings():
    """In single precision too, where a tiny step would be lost in rounding."""
    prior, generator = make_prior("deepen"), torch.Generator().manual_seed(0)
    image = torch.zeros(1, 24, 20, dtype=torch.complex64)
    found, _ = largest_curvature(lambda x: prior.gradient(x, 0.02), image, generator)
    precise = prior.double()
    exact, _ = largest_curvature(lambda x: precise.gradient(x, 0.02), image.to(torch.complex128), generator)
    assert exact > 1e-2
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0)


def test_images_do_not_depend_on_what_else_is_in_the_batch():
    weights = torch.linspace(0.1, 3.0, 30).view(1, 6, 5)
    image = torch.ones(4, 6, 5, dtype=torch.complex64)
    curvature, _ = largest_curvature(lambda x: weights * x, image, torch.Generator().manual_seed(0), iterations=2)
    assert (curvature == curvature[0]).all()


def test_the_probe_has_the_stated_length():
    """g(x) = ‖x‖²x has the curvature ‖δv‖² around zero, with ‖δv‖ = 0.01·0.05 per pixel rms."""
    image = torch.zeros(1, 6, 5, dtype=torch.complex128)
    found, _ = largest_curvature(
        lambda x: x.abs().square().sum((1, 2), keepdim=True) * x, image, torch.Generator().manual_seed(0)
    )
    assert found.item() == pytest.approx((0.01 * 0.05) ** 2 * 30)
