"""Measure the peak memory of one training update, by the length of the chain or unrolled iteration.

Likelihood updates of `deepen` beside end-to-end updates of `elder`, which unrolls K gradient steps of the same network
(residual U-Net of 32 and 64 channels, no warm start), batch 1, 8 coils, 96×96, in float32 on the CPU with one thread.
Each is measured in its own process, over what the process holds once the problem is made; Linux with glibc only.

    OMP_NUM_THREADS=1 python -m benchmarks.training_memory
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from mriinv import (
    InverseProblem,
    ProblemSource,
    complex_noise,
    make_prior,
    make_problem,
    make_trainer,
    simulate_acquisition,
    unroll,
)

NOISE_STD = 0.007
Setup = Callable[[], Callable[[], object]]


def peak_memory(setup: Setup) -> float:
    """Return by how many MiB the memory of a new process grows, at most, while it runs what `setup` returns."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(setup, sender))
    process.start()
    sender.close()
    growth: float = receiver.recv()
    process.join()
    return growth


def _measure(setup: Setup, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    run = setup()
    ctypes.CDLL(None).malloc_trim(0)  # or what the setup has freed would serve the run
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of now
    before = _resident_peak()
    run()
    sender.send(_resident_peak() - before)


def _resident_peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class OneScan(ProblemSource):
    """The same image every time, measured anew by the same operator."""

    def __init__(self, size: int) -> None:
        problem = make_problem(simulate_acquisition(shape=(size, size), coils=8)).normalised()
        self.operator, self.image = problem.operator, problem.sense()

    def images(self, count: int, generator: torch.Generator) -> Tensor:
        return self.image.expand(count, -1, -1)

    def problem(self, images: Tensor, generator: torch.Generator) -> InverseProblem:
        data = self.operator(images)
        noise = complex_noise(data.shape, NOISE_STD, generator, data.dtype)
        return InverseProblem(self.operator, data + noise, NOISE_STD, torch.ones(len(images)))


def deepen(size: int, length: int) -> Callable[[], object]:
    torch.manual_seed(0)
    prior, source = make_prior("deepen", weights="none", views=1).train().requires_grad_(True), OneScan(size)
    trainer = make_trainer(
        "maximum-likelihood",
        warm_start=0,
        likelihood_of="network",
        dsm_weight=0,
        batch=1,
        chain_steps=length,
        chain_precision="float32",
    )
    generator = torch.Generator().manual_seed(0)
    return lambda: trainer.loss(prior, source, 0, generator).value.backward()


def elder(size: int, length: int, checkpoint: bool) -> Callable[[], object]:
    torch.manual_seed(0)
    prior = make_prior("elder", weights="none", iterations=length).train().requires_grad_(True)
    source, generator = OneScan(size), torch.Generator().manual_seed(0)
    images = source.images(1, generator)
    problem = source.problem(images, generator)

    def update() -> None:
        with mock.patch("mriinv_elder.prior.unroll", partial(unroll, checkpoint=checkpoint)):
            (prior.reconstruct(problem).image - images).abs().square().mean().backward()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--chains", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--iterations", type=int, nargs="+", default=[10, 30], help="of the unrolled energy")
    given = parser.parse_args()
    print("| one update | steps | peak MiB |\n|---|---|---|")
    rows = [("DEEPEN, likelihood of the network, one view", partial(deepen, given.size), given.chains)]
    for checkpoint in (False, True):
        kind = "each step recomputed, as it ships" if checkpoint else "whole graph"
        rows.append((f"ELDER, unrolled, {kind}", partial(elder, given.size, checkpoint=checkpoint), given.iterations))
    for label, setup, lengths in rows:
        for length in lengths:
            print(f"| {label} | {length} | {peak_memory(partial(setup, length)):.0f} |", flush=True)


if __name__ == "__main__":
    main()
