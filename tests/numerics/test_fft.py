"""The Fourier convention against its defining sum."""

import math

import pytest
import torch

from mriinv.numerics.fft import centring_phases, fft2c, ifft2c

SHAPES = [(4, 6), (5, 7), (8, 5), (1, 6), (7, 1)]


def centred_dft(size: int) -> torch.Tensor:
    index = torch.arange(size, dtype=torch.float64) - size // 2
    angle = -2 * math.pi * index[:, None] * index / size
    return torch.polar(torch.full_like(angle, size**-0.5), angle)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_centred_orthonormal_sum(shape):
    image = torch.randn(2, *shape, dtype=torch.complex128)
    expected = centred_dft(shape[0]) @ image @ centred_dft(shape[1]).T
    torch.testing.assert_close(fft2c(image), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_is_exact_and_unitary(shape):
    image = torch.randn(3, *shape, dtype=torch.complex128)
    torch.testing.assert_close(ifft2c(fft2c(image)), image, rtol=0, atol=1e-13)
    torch.testing.assert_close(fft2c(image).norm(), image.norm())


def test_a_point_in_the_centre_has_a_flat_real_spectrum():
    image = torch.zeros(1, 5, 6, dtype=torch.complex128)
    image[0, 2, 3] = 1
    torch.testing.assert_close(fft2c(image), torch.full_like(image, 30**-0.5), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_phases_replace_the_shifts(shape):
    image = torch.randn(2, *shape, dtype=torch.complex128)
    q, p = centring_phases(shape, image.dtype)
    torch.testing.assert_close(p * torch.fft.fft2(q * image, norm="ortho"), fft2c(image), rtol=0, atol=1e-13)


def test_phases_are_exact_for_large_single_precision_sizes():
    single, double = centring_phases((512, 511), torch.complex64), centring_phases((512, 511), torch.complex128)
    for rounded, exact in zip(single, double, strict=True):
        assert rounded.dtype == torch.complex64
        assert (rounded.to(exact.dtype) - exact).abs().max() < 1e-7
