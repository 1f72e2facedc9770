"""Streams of training problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mriinv.core.following import TRAINING_NOISE
from mriinv.core.operator import Operator
from mriinv.core.problem import InverseProblem
from mriinv.core.trainer import ProblemSource
from mriinv.core.types import CoilMaps, CoilMapsSlice, Image, ImageSlice, Mask, MaskSlice
from mriinv.data.coils import simulate_coil_maps
from mriinv.data.heads import ImageSource
from mriinv.data.masks import MaskKind, draw_mask
from mriinv.data.texture import uniform
from mriinv.data.workers import SliceWindow
from mriinv.errors import require
from mriinv.numerics.noise import complex_noise

_SLICE = (96, 256)  # range of the larger side of a rendered slice: pixels of about 0.85 to 2.5 mm
_SQUARENESS = 0.75  # smallest ratio of the sides
_FIRST_SLICES = 32  # slices to draw from at the first call
_MAP_SETS = 32
_SCALE = (0.7, 1.3)  # random factor on images, so that a prior tolerates an imperfect scale


MASKS = (MaskKind("poisson-2d", 4.0), MaskKind("poisson-2d", 6.0), MaskKind("random-1d", 3.0))


class SimulatedProblems(ProblemSource):
    """Random crops of simulated heads, seen by simulated coils through random masks.

    Slices come from a window over an endless sequence, which moves on with the calls of `images`. What a call returns
    depends on the generator and on the number of calls before it, which `state_dict` carries; not on `workers`.

    Parameters
    ----------
    heads : source of slices
    shape : size (y, x) of the crops
    coils : number of receivers
    masks : each problem draws one of a random kind
    masks_per_kind : different masks of a kind; with 1 a training sees one mask of each, that of the seed
    noise_std : standard deviation of the measurement noise per real component
    noise_floor : lowest and highest standard deviation of white noise that belongs to the image (real ones have it)
    pool : number of slices in the window
    fresh : new slices per call of `images`
    make_operator : builds A from maps ``(batch, coil, y, x)`` and masks ``(batch, y, x)``
    seed : determines the sequence of slices, the coil maps and the masks
    workers : processes that render slices ahead, until `close`; with 0 a call waits for its slices. A script that has
        workers needs the guard ``if __name__ == "__main__":``

    Raises
    ------
    InputError : an empty list of masks, a mask that cannot be drawn, or a number out of range
    """

    def __init__(
        self,
        heads: ImageSource,
        *,
        shape: tuple[int, int] = (96, 96),
        coils: int = 8,
        masks: Sequence[MaskKind] = MASKS,
        masks_per_kind: int = 64,
        noise_std: float = TRAINING_NOISE,
        noise_floor: tuple[float, float] = (0.0, 0.02),
        pool: int = 256,
        fresh: float = 0.5,
        make_operator: Callable[[CoilMaps, Mask], Operator],
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        require(
            "SimulatedProblems",
            ("shape", tuple(shape), len(shape) == 2 and min(shape) >= 16, "two sizes (y, x) from 16 on"),
            ("coils", coils, coils >= 1, "at least 1"),
            ("masks", list(masks), len(masks) > 0, "at least one kind"),
            ("masks_per_kind", masks_per_kind, masks_per_kind >= 1, "at least 1"),
            ("noise_std", noise_std, noise_std >= 0, "at least 0"),
            ("noise_floor", noise_floor, 0 <= noise_floor[0] <= noise_floor[1], "lowest and highest from 0 on"),
            ("pool", pool, pool >= 1, "at least 1"),
            ("fresh", fresh, 0 <= fresh <= pool, f"from 0 to the pool of {pool}"),
            ("workers", workers, workers >= 0, "at least 0"),
        )
        self._shape, self._coils = (shape[0], shape[1]), coils
        self._kinds, self._masks_per_kind = tuple(masks), masks_per_kind
        self._noise_std, self._noise_floor = noise_std, noise_floor
        self._make_operator = make_operator
        self._pool, self._fresh, self._seed, self._calls = pool, fresh, seed, 0
        self._maps: dict[int, CoilMapsSlice] = {}
        self._masks: dict[tuple[MaskKind, int], MaskSlice] = {}
        for kind in self._kinds:  # what cannot be drawn is refused now, not after a warm start
            self._mask(kind, 0)
        self._slices = SliceWindow(_Slices(heads, self._shape, seed), workers)

    def images(self, count: int, generator: torch.Generator) -> Image:
        """Return random crops; see `ProblemSource.images`.

        A crop keeps the scale of its slice, times a random factor between 0.7 and 1.3; its global phase is random.
        """
        host = _on_host(generator)
        newest = min(_FIRST_SLICES, self._pool) + int(self._calls * self._fresh)
        oldest = max(0, newest - self._pool)
        self._calls += 1
        self._slices.move(oldest, newest)
        batch = []
        for _ in range(count):
            index = int(torch.randint(oldest, newest, (1,), generator=host))
            factor = torch.polar(torch.tensor(uniform(*_SCALE, host)), torch.tensor(uniform(-3.1416, 3.1416, host)))
            crop = factor * _random_crop(self._slices[index], self._shape, host)
            batch.append(crop + complex_noise(self._shape, uniform(*self._noise_floor, host), host))
        return torch.stack(batch).to(generator.device)

    def problem(self, images: Image, generator: torch.Generator) -> InverseProblem:
        """Return a random SENSE problem per image; see `ProblemSource.problem`."""
        host = _on_host(generator)
        maps = torch.stack([self._random_maps(host) for _ in images]).to(images.device)
        mask = torch.stack([self._random_mask(host) for _ in images]).to(images.device)
        operator = self._make_operator(maps, mask)
        data = operator(images)
        noise = complex_noise(data.shape, self._noise_std, generator, data.dtype).to(images.device)
        scale = torch.ones(len(images), dtype=images.real.dtype, device=images.device)
        return InverseProblem(operator, data + mask[:, None] * noise, self._noise_std, scale)

    def state_dict(self) -> dict[str, Tensor]:
        """Return how far the window has moved."""
        return {"calls": torch.tensor(self._calls)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self._calls = int(state["calls"])

    def close(self) -> None:
        """End the workers."""
        self._slices.close()

    def _random_maps(self, generator: torch.Generator) -> CoilMapsSlice:
        index = int(torch.randint(_MAP_SETS, (1,), generator=generator))
        if index not in self._maps:
            own = torch.Generator().manual_seed(_seed_of(self._seed, index))
            self._maps[index] = simulate_coil_maps(self._shape, self._coils, own)
        order = torch.randperm(self._coils, generator=generator)
        return _random_flip(self._maps[index][order], generator)

    def _random_mask(self, generator: torch.Generator) -> MaskSlice:
        kind = self._kinds[int(torch.randint(len(self._kinds), (1,), generator=generator))]
        return self._mask(kind, int(torch.randint(self._masks_per_kind, (1,), generator=generator)))

    def _mask(self, kind: MaskKind, index: int) -> MaskSlice:
        if (kind, index) not in self._masks:
            mask = draw_mask(kind, self._shape, seed=_seed_of(self._seed, index))
            self._masks[kind, index] = mask[0].expand(self._shape)
        return self._masks[kind, index]


@dataclass(frozen=True)
class _Slices:
    """The endless sequence of slices of one seed; the same number gives the same slice, in every process."""

    heads: ImageSource
    smallest: tuple[int, int]
    seed: int

    def __call__(self, index: int) -> ImageSlice:
        generator = torch.Generator().manual_seed(_seed_of(self.seed, index))
        larger = uniform(*_SLICE, generator)
        y, x = (max(round(larger * uniform(_SQUARENESS, 1, generator)), *self.smallest) for _ in range(2))
        return self.heads.image((y, x), generator)


def _on_host(generator: torch.Generator) -> torch.Generator:
    """Return `generator`, or for one on an accelerator a generator on the CPU seeded by it: rendering happens there."""
    if generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _seed_of(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**63


def _random_flip(array: Tensor, generator: torch.Generator) -> Tensor:
    axes = [axis for axis in (-2, -1) if uniform(0, 1, generator) < 0.5]
    return array.flip(axes)


def _random_crop(image: Tensor, shape: tuple[int, int], generator: torch.Generator) -> ImageSlice:
    """Return a flipped and transposed crop, most of the time one that is not nearly empty."""
    image = _random_flip(image, generator)
    if uniform(0, 1, generator) < 0.5:
        image = image.T
    for _ in range(8):
        y, x = (
            int(torch.randint(whole - part + 1, (1,), generator=generator))
            for whole, part in zip(image.shape, shape, strict=True)
        )
        crop = image[y : y + shape[0], x : x + shape[1]]
        if (crop.abs() > 0.1).float().mean() > 0.3:
            break
    return crop
