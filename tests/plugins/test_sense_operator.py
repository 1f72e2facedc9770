"""The SENSE operator against its definition, dense algebra and sigpy; `test_interop_deepinv` has deepinv's."""

import threading

import numpy as np
import pytest
import torch

from mriinv import InputError, InverseProblem, make_solver
from mriinv.core.operator import Operator
from mriinv.numerics.fft import fft2c
from mriinv.testing.operators import check_adjoint, check_gram, check_norm_bound
from mriinv_sense.operator import SenseOperator
from support import random, unit_maps

SHAPES = [(8, 6), (5, 7), (6, 9), (7, 4), (1, 5)]
MASKS = ["points", "columns", "line", "rows", "full"]


def make_mask(kind, y, x, batch=1):
    points = torch.rand(batch, y, x, generator=torch.Generator().manual_seed(y * x + batch)) < 0.5
    points[:, y // 2, x // 2] = True
    line, rows = points[:, y // 2, None, :], points[:, :, x // 2, None]
    return {
        "points": points,
        "columns": line.expand(-1, y, -1).clone(),
        "line": line.clone(),
        "rows": rows.expand(-1, -1, x).clone(),
        "full": torch.ones(batch, 1, x, dtype=torch.bool),
    }[kind]


def make(kind="points", y=5, x=6, coils=3, mask_batch=1, map_batch=1, dtype=torch.complex128):
    return SenseOperator(unit_maps(map_batch, coils, y, x, dtype=dtype), make_mask(kind, y, x, mask_batch))


def dense(operator, y, x):
    basis = torch.eye(y * x, dtype=torch.complex128).view(-1, y, x)
    return torch.stack([operator(one[None]).flatten() for one in basis], 1)


class WrongAdjoint(SenseOperator):
    """Forgets to conjugate the coil maps."""

    def adjoint(self, data):
        return SenseOperator(self.coil_maps.conj().resolve_conj(), self.mask).adjoint(data)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", MASKS)
def test_forward_is_its_definition(kind, shape):
    operator, image = make(kind, *shape), random(2, *shape)
    expected = operator.mask[:, None] * fft2c(operator.coil_maps * image[:, None])
    torch.testing.assert_close(operator(image), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", MASKS)
def test_adjoint_gram_and_norm(kind, shape, batch):
    operator, image = make(kind, *shape), random(batch, *shape)
    check_adjoint(operator, image, random(batch, 3, *shape))
    check_gram(operator, image)
    check_norm_bound(operator, image)


@pytest.mark.parametrize(("mask_batch", "map_batch"), [(3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("kind", MASKS)
def test_per_image_masks_and_maps(kind, mask_batch, map_batch):
    operator, image = make(kind, mask_batch=mask_batch, map_batch=map_batch), random(3, 5, 6)
    check_adjoint(operator, image, random(3, 3, 5, 6))
    check_gram(operator, image)
    maps, masks = operator.coil_maps.expand(3, -1, -1, -1), operator.mask.expand(3, -1, -1)
    for index in range(3):
        alone = SenseOperator(maps[index, None], masks[index, None])
        torch.testing.assert_close(operator(image)[index], alone(image[index, None])[0])
        torch.testing.assert_close(operator.gram(image)[index], alone.gram(image[index, None])[0])


@pytest.mark.parametrize("kind", MASKS)
def test_single_precision_agrees_with_double(kind):
    operator, image = make(kind, 24, 21), random(2, 24, 21)
    single = SenseOperator(operator.coil_maps.to(torch.complex64), operator.mask)
    for method in ("forward", "gram"):
        found = getattr(single, method)(image.to(torch.complex64))
        assert found.dtype == torch.complex64
        torch.testing.assert_close(found.to(torch.complex128), getattr(operator, method)(image), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("kind", "robust"), [*((kind, False) for kind in MASKS), ("line", True)])
def test_the_batched_work_of_other_devices_agrees(monkeypatch, kind, robust):
    operator, image, data = make(kind, mask_batch=3, map_batch=3), random(3, 5, 6), random(3, 3, 5, 6)
    if robust:
        operator, root = operator.robust(data, torch.full((3,), 0.5, dtype=torch.float64))
        assert (root < 1).any()
    shifts, start = torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64), random(3, 5, 6, seed=1)

    def results(device="cpu"):
        used, x = operator.to(device), image.to(device)
        solved = used.solve_normal(x, shifts.to(device), initial=start.to(device), tolerance=1e-12)
        return [part.cpu() for part in (used(x), used.adjoint(data.to(device)), used.gram(x), solved.solution)]

    expected = results()
    monkeypatch.setattr(SenseOperator, "_coilwise", staticmethod(lambda _: False))
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        torch.testing.assert_close(results(device), expected, rtol=0, atol=1e-11)


def test_is_linear():
    operator, a, b = make(), random(1, 5, 6), random(1, 5, 6, seed=1)
    torch.testing.assert_close(operator(a + 2j * b), operator(a) + 2j * operator(b))
    torch.testing.assert_close(operator.gram(a + 2j * b), operator.gram(a) + 2j * operator.gram(b))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # forward mode imports it
@pytest.mark.parametrize("kind", MASKS)
def test_is_differentiable(kind):
    operator = make(kind, 3, 4, coils=2)
    image, data = random(2, 3, 4).requires_grad_(), random(2, 2, 3, 4).requires_grad_()
    for function, at in ((operator.forward, image), (operator.gram, image), (operator.adjoint, data)):
        assert torch.autograd.gradcheck(function, at, check_forward_ad=True)
    cotangent = random(2, 2, 3, 4, seed=9)
    (found,) = torch.autograd.grad(operator(image), image, cotangent)
    torch.testing.assert_close(found, operator.adjoint(cotangent))


def test_a_wrong_adjoint_fails_the_checks():
    right = make()
    wrong = WrongAdjoint(right.coil_maps, right.mask)
    with pytest.raises(AssertionError, match="not adjoint"):
        check_adjoint(wrong, random(1, 5, 6), random(1, 3, 5, 6))
    with pytest.raises(AssertionError, match="gram is not"):
        check_gram(wrong, random(1, 5, 6))
    wrong.norm_bound = 0.1
    with pytest.raises(AssertionError, match="exceeds norm_bound"):
        check_norm_bound(wrong, random(1, 5, 6))
    with pytest.raises(AssertionError, match=r"forward returned .* expected"):
        check_adjoint(right, random(1, 5, 6), random(1, 3, 5, 6, dtype=torch.complex64))


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_norm_bound_of_maps_that_are_not_normalised(scale):
    maps = unit_maps(1, 3, 6, 5)
    maps[..., 2, 2] *= scale
    operator = SenseOperator(maps, make_mask("full", 6, 5))
    assert operator.norm_bound == pytest.approx(max(scale, 1.0))
    check_norm_bound(operator, random(1, 6, 5))
    assert SenseOperator(scale * unit_maps(1, 3, 6, 5), operator.mask).norm_bound == pytest.approx(scale)


def test_unit_maps_in_single_precision_have_norm_bound_one():
    assert make(dtype=torch.complex64, y=40, x=40, coils=12).norm_bound == 1.0


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shift", [0.3, torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64)], ids=["one", "each"])
def test_solve_normal_agrees_with_the_dense_solve(kind, shift):
    operator, rhs = make(kind, 5, 6, mask_batch=3), random(3, 5, 6)
    result = operator.solve_normal(rhs, shift, tolerance=1e-12, max_iterations=100)
    generic = Operator.solve_normal(operator, rhs, shift, tolerance=1e-12, max_iterations=100)
    shifts = torch.as_tensor(shift, dtype=torch.float64).expand(3)
    for index in range(3):
        matrix = dense(SenseOperator(operator.coil_maps, operator.mask[index, None]), 5, 6)
        normal = matrix.mH @ matrix + shifts[index] * torch.eye(30, dtype=torch.float64)
        expected = torch.linalg.solve(normal, rhs[index].flatten()).view(5, 6)
        torch.testing.assert_close(result.solution[index], expected, rtol=0, atol=1e-10)
    assert torch.equal(result.iterations, generic.iterations)
    torch.testing.assert_close(result.solution, generic.solution, rtol=0, atol=1e-11)


def test_solve_normal_stops_per_image_and_starts_from_the_initial_guess():
    operator, rhs = make("points", 8, 6), random(2, 8, 6)
    shift = torch.tensor([100.0, 0.01], dtype=torch.float64)
    result = operator.solve_normal(rhs, shift, tolerance=1e-8)
    assert 0 < result.iterations[0] < result.iterations[1]
    assert (result.relative_residual <= 1e-8).all()
    initial = result.solution.clone()
    initial[1] += 0.1
    again = operator.solve_normal(rhs, shift, initial=initial, tolerance=1.01e-8)
    assert again.iterations[0] == 0 < again.iterations[1]
    torch.testing.assert_close(initial[1], result.solution[1] + 0.1, rtol=0, atol=0)
    assert operator.solve_normal(rhs, shift, max_iterations=2, tolerance=0).iterations.tolist() == [2, 2]


def test_results_share_no_memory_between_calls_or_threads():
    first, second = make("points", 64, 64, coils=4), make("line", 64, 64, coils=4)
    images = random(8, 64, 64)
    kept = first.gram(images)
    copy = kept.clone()
    second.gram(images)
    first.gram(images + 1)
    assert torch.equal(kept, copy)
    expected = {id(op): [op.gram(one[None]) for one in images] for op in (first, second)}
    found = {}

    def work(op):
        found[id(op), threading.get_ident()] = [op.gram(one[None]) for one in images for _ in range(4)][::4]

    threads = [threading.Thread(target=work, args=(op,)) for op in (first, first, second, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (which, _), results in found.items():
        assert all(torch.equal(a, b) for a, b in zip(results, expected[which], strict=True))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_agrees_with_sigpy(kind, shape):
    mri = pytest.importorskip("sigpy.mri")
    operator, image = make(kind, *shape), random(1, *shape)
    weights = operator.mask[0].expand(shape).numpy().astype(float)
    peer = mri.linop.Sense(operator.coil_maps[0].numpy(), weights=weights)
    np.testing.assert_allclose(peer(image[0].numpy()), operator(image)[0], atol=1e-13)
    np.testing.assert_allclose(peer.N(image[0].numpy()), operator.gram(image)[0], atol=1e-13)


def test_moving_makes_a_new_operator_and_keeps_everything():
    operator = make(mask_batch=2)
    operator.notes = ("remark",)
    moved = operator.to("cpu")
    assert moved is not operator
    assert (moved.notes, moved.norm_bound) == (operator.notes, operator.norm_bound)
    assert torch.equal(moved.gram(random(2, 5, 6)), operator.gram(random(2, 5, 6)))


def test_nothing_is_made_up_where_no_coil_sees() -> None:
    maps = torch.ones(1, 2, 6, 6, dtype=torch.complex64) / 2**0.5
    maps[..., :2, :] = 0
    operator = SenseOperator(maps, torch.ones(1, 6, 6, dtype=torch.bool))
    assert torch.equal(operator.support[0], torch.arange(6)[:, None].expand(6, 6) >= 2)
    problem = InverseProblem(operator, operator(torch.ones(1, 6, 6, dtype=torch.complex64)))
    start = torch.ones(1, 6, 6, dtype=torch.complex64)
    solution = make_solver("cg-sense", max_iterations=1)(problem, initial=start)
    assert (solution.image[:, :2] == 0).all() and (solution.image[:, 2:] != 0).all()


def test_weak_maps_beside_strong_ones_keep_their_image():
    maps = torch.ones(2, 1, 4, 4, dtype=torch.complex128) * torch.tensor([1.0, 0.01]).view(2, 1, 1, 1)
    operator = SenseOperator(maps, torch.ones(1, 1, 4, dtype=torch.bool))
    image = random(2, 4, 4)
    torch.testing.assert_close(operator.fully_sampled_image(operator.forward(image)), image)


def test_maps_that_are_zero_in_one_image_are_refused():
    maps = torch.ones(2, 3, 4, 4, dtype=torch.complex128)
    maps[1] = 0
    with pytest.raises(InputError, match="an image whose maps are zero everywhere"):
        SenseOperator(maps, torch.ones(1, 1, 4, dtype=torch.bool))
