"""Training problems: scale, noise, freshness and reproducibility."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mriinv.core.operator import Operator
from mriinv.data.heads import HeadSource, ProceduralHeads
from mriinv.data.training import SimulatedProblems
from mriinv.errors import InputError
from mriinv.numerics.fft import fft2c, ifft2c

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

    def image(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        self.count += 1
        return torch.ones(shape, dtype=torch.complex64)


def source(heads: HeadSource | None = None, **settings: Any) -> SimulatedProblems:
    defaults: dict[str, Any] = {
        "shape": SHAPE,
        "coils": 4,
        "pool": 4,
        "masks": (("random-1d", 3.0), ("poisson-2d", 4.0)),
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


def test_maps_and_masks_vary_within_a_batch() -> None:
    problems, g = source(), generator()
    operator = problems.problem(torch.ones(8, *SHAPE, dtype=torch.complex64), g).operator
    assert isinstance(operator, Sense)
    torch.testing.assert_close(operator.maps.abs().square().sum(1), torch.ones(8, *SHAPE))
    for tensor in (operator.maps, operator.mask):
        assert len({tuple(one.flatten().tolist()) for one in tensor}) > 4


def test_reproducible_and_different_between_seeds() -> None:
    first, again, other = (source().images(3, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    images = torch.ones(3, *SHAPE, dtype=torch.complex64)
    data = [source().problem(images, generator(seed)).data for seed in (0, 0, 1)]
    assert torch.equal(data[0], data[1]) and not torch.equal(data[0], data[2])


def test_the_pool_moves_on_by_one_slice_every_second_call() -> None:
    heads = CountingHeads()
    problems, g = source(heads), generator()
    for _ in range(20):
        problems.images(8, g)
    assert 11 <= heads.count <= 14  # 4 in the pool at first, then one more every second call
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


def test_crops_of_the_largest_slices_and_not_square() -> None:
    images = source(CountingHeads(), shape=(250, 30)).images(3, generator())
    assert images.shape == (3, 250, 30)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"shape": (4, 40)}, "shape"),
        ({"coils": 0}, "coils"),
        ({"masks": ()}, "masks"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"noise_floor": (0.2, 0.1)}, "noise_floor"),
        ({"pool": 0}, "pool"),
    ],
)
def test_errors(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        source(**settings)
