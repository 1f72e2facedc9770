"""Conjugate gradients against dense solves."""

import pytest
import torch

from mriinv import complex_noise, inner_product
from mriinv.numerics.cg import conjugate_gradient
from support import Identity


def systems(batch: int, size: int, dtype: torch.dtype, condition: float = 50.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(batch, size, size, dtype=dtype, generator=generator)).Q
    values = torch.logspace(0, torch.log10(torch.tensor(condition)), size).to(dtype)
    return basis @ (values[:, None] * basis.mH)


def apply(matrices: torch.Tensor):
    return lambda x: (matrices @ x.flatten(1)[..., None]).view_as(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("batch", [1, 3])
def test_agrees_with_the_dense_solve(batch, dtype):
    matrices = systems(batch, 12, dtype)
    rhs = torch.randn(batch, 3, 4, dtype=dtype)
    result = conjugate_gradient(apply(matrices), rhs, tolerance=1e-12, max_iterations=60)
    expected = torch.linalg.solve(matrices, rhs.flatten(1)).view_as(rhs)
    torch.testing.assert_close(result.solution, expected, rtol=0, atol=1e-10)
    assert (result.relative_residual <= 1e-12).all()


def test_residual_is_the_true_one():
    matrices, rhs = systems(2, 12, torch.complex128), torch.randn(2, 12, dtype=torch.complex128)
    result = conjugate_gradient(apply(matrices), rhs, tolerance=0, max_iterations=5)
    true = (rhs - apply(matrices)(result.solution)).norm(dim=1) / rhs.norm(dim=1)
    torch.testing.assert_close(result.relative_residual, true)
    assert result.iterations.tolist() == [5, 5]


def test_each_image_stops_on_its_own_and_keeps_its_value():
    matrices = torch.cat((torch.eye(20, dtype=torch.complex128)[None], systems(1, 20, torch.complex128)))
    rhs = torch.randn(2, 20, dtype=torch.complex128)
    result = conjugate_gradient(apply(matrices), rhs, tolerance=1e-8)
    alone = conjugate_gradient(apply(matrices[1:]), rhs[1:], tolerance=1e-8)
    assert result.iterations[0] == 1 < result.iterations[1] == alone.iterations[0]
    torch.testing.assert_close(result.solution[0], rhs[0])
    torch.testing.assert_close(result.solution[1:], alone.solution)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_stops_at_the_first_iterate_within_tolerance(tolerance):
    matrices, rhs = systems(1, 30, torch.complex128, 1e3), torch.randn(1, 30, dtype=torch.complex128)
    result = conjugate_gradient(apply(matrices), rhs, tolerance=tolerance, max_iterations=200)
    fewer = conjugate_gradient(apply(matrices), rhs, tolerance=0, max_iterations=int(result.iterations) - 1)
    assert result.relative_residual <= tolerance < fewer.relative_residual


def test_initial_guess_is_used_and_left_alone():
    matrices, rhs = systems(2, 12, torch.complex128), torch.randn(2, 12, dtype=torch.complex128)
    exact = torch.linalg.solve(matrices, rhs)
    initial = exact.clone()
    result = conjugate_gradient(apply(matrices), rhs, initial=initial, tolerance=1e-8)
    assert result.iterations.tolist() == [0, 0]
    assert result.solution.data_ptr() != initial.data_ptr()
    near = exact + 1e-3
    warm = conjugate_gradient(apply(matrices), rhs, initial=near, tolerance=1e-10)
    torch.testing.assert_close(near, exact + 1e-3, rtol=0, atol=0)
    torch.testing.assert_close(warm.solution, exact, rtol=0, atol=1e-8)
    assert (warm.iterations > 0).all()


def test_conjugates_that_are_not_resolved():
    matrices, rhs = systems(2, 12, torch.complex128), torch.randn(2, 12, dtype=torch.complex128)
    exact = torch.linalg.solve(matrices, rhs.conj())
    for initial in (None, rhs.conj()):
        found = conjugate_gradient(
            lambda x: (matrices.mH.mT @ x.conj()[..., None])[..., 0].conj(),
            rhs.conj(),
            initial=initial,
            tolerance=1e-10,
        )
        torch.testing.assert_close(found.solution, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(inner_product(rhs.conj(), rhs.conj()), inner_product(rhs, rhs))


def test_a_zero_right_hand_side_gives_zero():
    rhs = torch.zeros(2, 12, dtype=torch.complex128)
    rhs[1] = 1
    for initial in (None, torch.ones_like(rhs)):
        result = conjugate_gradient(apply(systems(2, 12, rhs.dtype)), rhs, initial=initial, max_iterations=200)
        assert not result.solution[0].any()
        assert torch.isfinite(result.solution.abs()).all()
        assert result.relative_residual[0] == 0
        assert result.iterations[0] == 0 < result.iterations[1]


def test_a_tolerance_beyond_the_precision_ends_in_the_solution():
    """Squares of residuals leave the range of single precision on the way to 1e-30."""
    matrices, rhs = systems(2, 12, torch.complex64), complex_noise((2, 12), 1.0, torch.Generator().manual_seed(5))
    result = conjugate_gradient(apply(matrices), rhs, tolerance=1e-30, max_iterations=3000)
    expected = torch.linalg.solve(matrices, rhs[..., None])[..., 0]
    torch.testing.assert_close(result.solution, expected, rtol=1e-4, atol=1e-5)
    assert (result.iterations < 3000).all()


def test_a_graph_is_refused_rather_than_cut():
    rhs = torch.randn(1, 12, dtype=torch.complex128, requires_grad=True)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        conjugate_gradient(apply(systems(1, 12, rhs.dtype)), rhs)


def test_an_operator_may_return_the_image_itself():
    rhs = complex_noise((2, 3, 4), 1.0, torch.Generator().manual_seed(0), torch.complex128)
    kept = rhs.clone()
    found = Identity().solve_normal(rhs, torch.tensor([1.0, 3.0]), initial=rhs)
    torch.testing.assert_close(found.solution, kept / torch.tensor([2.0, 4.0]).view(-1, 1, 1))
    assert torch.equal(rhs, kept)


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e20, 1e30])
def test_units_whose_squares_leave_the_range_change_nothing(unit):
    matrices, rhs = systems(2, 12, torch.complex64), complex_noise((2, 12), 1.0, torch.Generator().manual_seed(0))
    plain = conjugate_gradient(apply(matrices), rhs)
    for initial in (None, plain.solution / 2):
        start = None if initial is None else initial * unit
        scaled = conjugate_gradient(apply(matrices), rhs * unit, initial=start)
        torch.testing.assert_close(scaled.solution / unit, plain.solution, rtol=1e-4, atol=1e-5)
        assert (scaled.relative_residual[-1] <= 1e-5).all()
