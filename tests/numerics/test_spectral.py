"""Power iteration against the dense eigenvalues."""

import pytest
import torch

from mriinv.numerics.spectral import largest_eigenvalue


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_agrees_with_dense_eigenvalues_from_below(dtype):
    root = torch.randn(3, 10, 10, dtype=dtype, generator=torch.Generator().manual_seed(0))
    matrices = root @ root.mH
    start = torch.randn(3, 2, 5, dtype=dtype)

    def apply(x):
        return (matrices @ x.flatten(1)[..., None]).view_as(x)

    expected = torch.linalg.eigvalsh(matrices)[:, -1]
    found = largest_eigenvalue(apply, start, iterations=5000, tolerance=1e-14)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
    rough = largest_eigenvalue(apply, start, iterations=2)
    assert (rough < expected).all()


def test_of_the_zero_map_is_zero():
    assert largest_eigenvalue(torch.zeros_like, torch.ones(2, 3)).tolist() == [0, 0]
