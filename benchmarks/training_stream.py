"""Measure how long a training waits for its images, by the number of workers; print a Markdown table.

Denoising score matching of the `deepen` prior, batches of 4 × 96², on procedural heads, on the CPU with one thread. The
first updates, which fill the window of slices and start the workers, are left out.

    OMP_NUM_THREADS=1 python benchmarks/training_stream.py --workers 0 1 2 --fresh 0.5 1
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing

import torch
from torch import Tensor

from mriinv import make_prior, make_trainer
from mriinv.data.heads import ProceduralHeads
from mriinv.data.training import SimulatedProblems
from mriinv.registry import registry

BATCH, SHAPE, WARM_UP = 4, (96, 96), 40


class Timed(SimulatedProblems):
    """A stream that adds up how long its images take."""

    waited = 0.0

    def images(self, count: int, generator: torch.Generator) -> Tensor:
        started = time.perf_counter()
        try:
            return super().images(count, generator)
        finally:
            self.waited += time.perf_counter() - started


def measure(workers: int, fresh: float, updates: int) -> tuple[float, float]:
    """Return updates per second and the share of the time that they wait for images."""
    torch.manual_seed(0)
    prior = make_prior("deepen", weights="none").train().requires_grad_(True)
    trainer = make_trainer("maximum-likelihood", steps=10_000, warm_start=10_000, batch=BATCH)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    sense = registry().load("operator", "sense")
    stream = Timed(ProceduralHeads(), shape=SHAPE, fresh=fresh, make_operator=sense, workers=workers)
    with closing(stream) as source:
        for step in range(WARM_UP + updates):
            if step == WARM_UP:
                started, source.waited = time.perf_counter(), 0.0
            optimizer.zero_grad()
            trainer.loss(prior, source, step, generator).value.backward()
            optimizer.step()
        seconds = time.perf_counter() - started
    return updates / seconds, source.waited / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fresh", type=float, nargs="+", default=[0.5, 1.0], help="new slices per update")
    parser.add_argument("--updates", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| New slices per update | Workers | Updates/s | Waiting |\n|---|---|---|---|")
    for fresh in given.fresh:
        for workers in given.workers:
            rate, share = measure(workers, fresh, given.updates)
            print(f"| {fresh:g} | {workers} | {rate:.2f} | {100 * share:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
