"""One training by several processes, which comes to the same as by one.

Every process draws all images, measurements and noise from the same generator, evaluates the prior on its share of the
images, and gathers what the others found. Loss and gradients are those of one process up to rounding, whatever the
trainer does with the prior; parameters, chains and random numbers are the same in all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from mriinv.core.delegate import Delegate
from mriinv.core.prior import Prior
from mriinv.core.problem import InverseProblem
from mriinv.core.trainer import ProblemSource
from mriinv.core.types import Image
from mriinv.errors import SettingsError


def shared(prior: Prior, fabric: Fabric) -> Prior:
    """Return `prior` for a trainer: as it is for one process, evaluated by all of them otherwise."""
    return prior if fabric.world_size == 1 else _SharedPrior(prior, fabric)


def average_gradients(prior: Prior, fabric: Fabric) -> None:
    """Replace the gradients of the parameters by their mean over the processes."""
    gradients = [p.grad for p in prior.parameters() if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    vector = nn.utils.parameters_to_vector(gradients)
    fabric.all_reduce(vector, reduce_op="mean")  # in place
    nn.utils.vector_to_parameters(vector, gradients)


def any_process(flag: bool, fabric: Fabric) -> bool:
    """Return whether `flag` is true in one process or more; clocks differ."""
    if fabric.world_size == 1:
        return flag
    count = torch.tensor(float(flag), device=fabric.device)
    fabric.all_reduce(count, reduce_op="sum")  # in place
    return bool(count)


class InFullPrecision(ProblemSource):
    """Takes images and measurements from a source that must not see that networks compute in mixed precision."""

    def __init__(self, source: ProblemSource) -> None:
        self._source = source

    def images(self, count: int, generator: torch.Generator) -> Image:
        with torch.autocast(generator.device.type, enabled=False):
            return self._source.images(count, generator)

    def problem(self, images: Image, generator: torch.Generator) -> InverseProblem:
        with torch.autocast(generator.device.type, enabled=False):
            return self._source.problem(images, generator)


class _Gather(torch.autograd.Function):
    """Concatenates the shares of all processes.

    All of them go on to compute the same loss, so that a gradient arrives complete; it is that of the own share, times
    the number of processes, since `average_gradients` divides by it.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor, fabric: Fabric) -> Tensor:
        ctx.fabric, ctx.size = fabric, len(share)
        shares = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(fabric.world_size)]
        distributed.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = ctx.fabric.global_rank * ctx.size
        return ctx.fabric.world_size * gradients[0][start : start + ctx.size], None


class _SharedPrior(Delegate):
    """Evaluates a prior on the share of this process; results have no graph to the images.

    Learned reconstructions are computed of all images in every process: no faster, and no different.
    """

    def __init__(self, prior: Prior, fabric: Fabric) -> None:
        super().__init__(prior)
        self._fabric = fabric

    def one_view(self) -> _SharedPrior:
        return _SharedPrior(self.prior.one_view(), self._fabric)

    def evaluate(self, method: Callable[..., Any], image: Image, noise_level: Any, **options: Any) -> Any:
        count = self._fabric.world_size
        size, left = divmod(len(image), count)
        if left:
            raise SettingsError(f"{len(image)} images cannot be shared evenly by {count} devices: set trainer.batch")
        own = slice(self._fabric.global_rank * size, (self._fabric.global_rank + 1) * size)
        one_per_image = isinstance(noise_level, Tensor) and noise_level.ndim > 0
        found = method(image[own], noise_level[own] if one_per_image else noise_level, **options)
        if isinstance(found, tuple):
            return tuple(_Gather.apply(part, self._fabric) for part in found)
        return _Gather.apply(found, self._fabric)
