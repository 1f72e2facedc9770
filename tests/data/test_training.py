"""Training problems: scale, noise, freshness and reproducibility."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mriinv.core.operator import Operator
from mriinv.data.heads import HeadSlices, HeadSource, ProceduralHeads
from mriinv.data.masks import MaskKind, draw_mask, make_mask
from mriinv.data.training import SimulatedProblems
from mriinv.errors import MriinvError
from mriinv.numerics.fft import fft2c, ifft2c
from support import PATIENCE

SHAPE = (48, 40)


class Sense(Operator):
    """The SENSE operator in two lines: the real one is a plug-in."""

    name = "test-sense"

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        self.maps, self.mask = maps, mask

    def forward(self, image: Tensor) -> Tensor:
        return self.mask[:, None] * fft2c(self.maps * image[:, None])

    def adjoint(self, data: Tensor) -> Tensor:
        return (self.maps.conj() * ifft2c(self.mask[:, None] * data)).sum(1)


class CountingHeads(HeadSource):
    """Constant slices; counts how many were rendered."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
        self.count += 1
        return constant(1, shape, count)


def constant(value: float, shape: tuple[int, int], count: int) -> HeadSlices:
    return HeadSlices(torch.full((count, *shape), value, dtype=torch.complex64), 1.0, 5.0, "axial", "none")


def source(heads: HeadSource | None = None, **settings: Any) -> SimulatedProblems:
    defaults: dict[str, Any] = {
        "shape": SHAPE,
        "coils": 4,
        "pool": 4,
        "masks": (MaskKind("random-1d", 3.0), MaskKind("poisson-2d", 4.0, acs=20)),
    }
    return SimulatedProblems(heads or ProceduralHeads(), make_operator=Sense, **(defaults | settings))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_are_crops_at_the_scale_of_the_slice() -> None:
    images = source().images(8, generator())
    assert images.shape == (8, *SHAPE) and images.dtype == torch.complex64
    assert torch.isfinite(images.abs()).all()
    assert 0.3 < images.abs().flatten(1).quantile(0.99, dim=1).median() < 2
    assert ((images.abs() > 0.1).float().mean((1, 2)) > 0.15).all()  # crops of air are rejected


def test_noise_floor_and_random_scale() -> None:
    constant = source(CountingHeads(), noise_floor=(0.1, 0.1)).images(64, generator())
    deviation = constant - constant.mean((1, 2), keepdim=True)
    assert 0.097 < float(torch.view_as_real(deviation).std()) < 0.103
    factors = constant.mean((1, 2))
    assert 0.65 < factors.abs().min() < 0.8 and 1.2 < factors.abs().max() < 1.35
    assert factors.angle().std() > 1


def test_problem_is_a_noisy_measurement_with_scale_one() -> None:
    problems, g = source(noise_std=0.02), generator()
    images = problems.images(6, g)
    problem = problems.problem(images, g)
    assert torch.equal(problem.noise_std, torch.full((6,), 0.02))
    assert problem.scale is not None and torch.equal(problem.scale, torch.ones(6))
    assert isinstance(problem.operator, Sense)
    mask = problem.operator.mask
    assert mask.shape == (6, *SHAPE) and mask.dtype == torch.bool
    rates = mask.float().mean((1, 2))
    assert ((rates - 1 / 3).abs().minimum((rates - 1 / 4).abs()) < 0.02).all()
    sampled = mask[:, None].expand_as(problem.data)
    assert (problem.data[~sampled] == 0).all()
    noise = torch.view_as_real((problem.data - problem.operator(images))[sampled])
    assert 0.97 < float(noise.std()) / 0.02 < 1.03


def test_a_training_may_see_one_mask_of_each_kind() -> None:
    problems, draws = source(masks_per_kind=1), generator()
    images = problems.images(4, draws)
    seen = {tuple(mask.flatten().tolist()) for _ in range(5) for mask in problems.problem(images, draws).operator.mask}
    assert len(seen) == 2  # kinds
    assert tuple(draw_mask(MaskKind("random-1d", 3.0), SHAPE, seed=0)[0].expand(SHAPE).flatten().tolist()) in seen


def test_maps_and_masks_vary_within_a_batch() -> None:
    problems, g = source(), generator()
    operator = problems.problem(torch.ones(8, *SHAPE, dtype=torch.complex64), g).operator
    assert isinstance(operator, Sense)
    torch.testing.assert_close(operator.maps.abs().square().sum(1), torch.ones(8, *SHAPE))
    for tensor in (operator.maps, operator.mask):
        assert len({tuple(one.flatten().tolist()) for one in tensor}) > 4
    discs = operator.mask[(operator.mask != operator.mask[:, :1]).flatten(1).any(1)]
    assert len(discs) and discs[:, 14:34, 10:30].all()  # wider than the mask's default


def test_reproducible_and_different_between_seeds() -> None:
    first, again, other = (source().images(3, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    images = torch.ones(3, *SHAPE, dtype=torch.complex64)
    data = [source().problem(images, generator(seed)).data for seed in (0, 0, 1)]
    assert torch.equal(data[0], data[1]) and not torch.equal(data[0], data[2])


@pytest.mark.parametrize(("fresh", "seen"), [(0.5, 14), (0.0, 4), (2.0, 44)])
def test_the_pool_moves_on_by_so_many_slices_per_call(fresh: float, seen: int) -> None:
    heads = CountingHeads()
    problems, g = source(heads, fresh=fresh), generator()
    for _ in range(21):
        problems.images(16, g)
    assert 0.75 * seen <= heads.count <= seen  # 4 in the pool at first; a few leave it before they were drawn
    assert len(problems._slices) <= 4


def test_a_resumed_stream_continues() -> None:
    problems, g = source(), generator()
    problems.images(2, g)
    state, random = problems.state_dict(), g.get_state()
    expected = problems.images(2, g)
    resumed = source()
    resumed.load_state_dict(state)
    g.set_state(random)
    assert torch.equal(resumed.images(2, g), expected)


def test_one_thread_renders_whatever_the_number_of_threads() -> None:
    class Threads(HeadSource):
        def draw(self, shape: tuple[int, int], count: int, generator: torch.Generator) -> HeadSlices:
            return constant(torch.get_num_threads(), shape, count)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images = source(Threads(), noise_floor=(0.0, 0.0)).images(2, generator())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert images.abs().min() >= 0.7 and images.abs().max() <= 1.3


def test_workers_change_nothing_and_end_with_the_source() -> None:
    settings: dict[str, Any] = {"fresh": 1.0, "pool": 3}
    alone, g = source(**settings), generator()
    expected = [alone.images(3, g) for _ in range(4)]
    g = generator()
    with closing(source(**settings, workers=2)) as together:
        batches = [together.images(3, g) for _ in range(2)]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    resumed = source(**settings)
    resumed.load_state_dict(together.state_dict())
    batches += [resumed.images(3, g) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(batches, expected, strict=True))


class Unpickled(CountingHeads):
    """Heads that become something else on their way to a worker, which cannot import this file."""

    def __init__(self, become: Callable[..., Any], *arguments: Any) -> None:
        self.become = (become, arguments)

    def __reduce__(self) -> Any:
        return self.become


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (Unpickled(os._exit, 3), "ended"),
        (Unpickled(partial(SimpleNamespace, image=partial(make_mask, "nonsense"))), "nonsense"),
    ],
)
def test_what_ends_a_worker_is_told(heads: HeadSource, message: str) -> None:
    with closing(source(heads, workers=1)) as problems, pytest.raises(MriinvError, match=message):
        problems.images(1, generator())
    assert not multiprocessing.active_children()


ORPHANS = """
import multiprocessing, os, signal, torch
from mriinv.data.heads import ProceduralHeads
from mriinv.data.masks import make_mask
from mriinv.data.training import SimulatedProblems
if __name__ == "__main__":
    problems = SimulatedProblems(ProceduralHeads(), make_operator=None, workers=1)
    problems.images(1, torch.Generator())
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS, encoding="utf-8")
    # the worker holds the other end of the pipe: that ends when the worker does
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL and int(done.stdout) > 0


def test_crops_of_the_largest_slices_and_not_square() -> None:
    images = source(CountingHeads(), shape=(250, 30)).images(3, generator())
    assert images.shape == (3, 250, 30)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"shape": (4, 40)}, "shape"),
        ({"coils": 0}, "coils"),
        ({"masks": ()}, "masks"),
        ({"masks_per_kind": 0}, "masks_per_kind"),
        ({"masks": (MaskKind("random-1d", 2.0), MaskKind("random-1d", 4.0, 40))}, "acs"),
        ({"masks": (MaskKind("random-1d", 2.0), MaskKind("random-2d", 4.0))}, "random-2d"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"noise_floor": (0.2, 0.1)}, "noise_floor"),
        ({"pool": 0}, "pool"),
        ({"fresh": 5.0}, "fresh"),
        ({"workers": -1}, "workers"),
    ],
)
def test_errors(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(MriinvError, match=field):
        source(**settings)


def test_maps_and_masks_are_those_of_the_seed():
    images = torch.ones(3, *SHAPE, dtype=torch.complex64)
    one, same, other = (source(seed=seed).problem(images, generator()).operator for seed in (0, 0, 1))
    for name in ("maps", "mask"):
        first, again, different = (getattr(operator, name) for operator in (one, same, other))
        assert torch.equal(first, again) and not torch.equal(first, different)


def test_images_are_those_of_the_seed():
    first, again, other = (source(seed=seed).images(2, generator()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.1)


def test_problems_have_more_than_one_set_of_coils():
    """Whatever their order and flip."""
    maps = source().problem(torch.ones(8, *SHAPE, dtype=torch.complex64), generator()).operator.maps
    strengths = maps.abs().square().sum((2, 3)).sort(dim=1).values
    assert len({tuple(one.tolist()) for one in strengths.round(decimals=1)}) > 4
