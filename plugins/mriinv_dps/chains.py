"""Independent draws of a diffusion sampler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mriinv import InverseProblem, Monitor, MriinvError, Samples

REPORT_EVERY = 10
Report = Callable[[int, Tensor], None]


def gather(
    draw: Callable[[Tensor, Report], Tensor],
    problem: InverseProblem,
    initial: Tensor | None,
    *,
    samples: int,
    batch: int,
    steps: int,
    monitor: Monitor | None,
) -> Samples:
    """Call `draw` until there are `samples` draws of each image of `problem`.

    Chains of one image share its maps and data and run `batch` at a time; several images are a batch already.

    Parameters
    ----------
    draw : from starting images, around which the noise of the highest level is centred, to as many samples; after
        each of its `steps` it reports how images and data disagree
    initial : starting image; SENSE when None, since a model trained to a moderate level has not forgotten the image
    """
    start = problem.sense() if initial is None else initial
    together = min(batch, samples) if problem.batch == 1 else 1
    draws: list[Tensor] = []

    def report(step: int, mismatch: Tensor) -> None:
        if step % REPORT_EVERY == 0 or step == steps:
            size = float(mismatch.abs().square().mean().sqrt())
            if not size < float("inf"):
                raise MriinvError(f"the diffusion diverged after {step} steps; give the data less weight")
            if monitor is not None:
                monitor(len(draws) // together * steps + step, {"mismatch_rms": size})

    while len(draws) < samples:
        count = min(together, samples - len(draws))
        draws += draw(start.repeat(count, 1, 1), report).view(count, *start.shape)
    stack = torch.stack(draws).unsqueeze(1)
    done = torch.full((problem.batch,), steps, device=stack.device)
    return Samples(stack.mean((0, 1)), torch.ones_like(done, dtype=torch.bool), done, draws=stack)
