"""Time the gradient of the energy against autograd, with memory and error; print a Markdown table.

½‖F(x/σ)‖² and its gradient, σ = 0.02, of a simulated head, on the CPU with one thread: autograd through the network in
contiguous (NCHW) and in channels-last memory, the explicit backward of `mriinv`, and both under autocast to bfloat16;
with --compile also what `torch.compile` makes of the explicit one. U-Net 32-64-128 has the weights that ship, the
others random ones; `published` is the paper's five layers, |·| left out.

Speed is the CPU time of autograd NCHW over that of the variant: medians of interleaved runs, each right after an
untimed one. Memory is the peak of one gradient in a new process over weights and image, relative to autograd NCHW.
Error is ‖g − g₆₄‖/‖g₆₄‖ of the first image against the gradient in float64.

    OMP_NUM_THREADS=1 python -m benchmarks.energy_gradient
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.training_memory import peak_memory
from torch import Tensor

from mriinv import (
    FeatureNetwork,
    PublishedNetwork,
    complex_noise,
    make_prior,
    make_problem,
    simulate_acquisition,
)

LEVEL = 0.02
Both = tuple[Tensor, Tensor]
Run = Callable[[], Both]
WIDTHS = {"U-Net 32-64-128": (32, 64, 128), "U-Net 32-64": (32, 64), "published": (64,)}
BASE = "autograd NCHW"
VARIANTS = {  # explicit, channels-last, bfloat16
    BASE: (False, False, False),
    "autograd channels-last": (False, True, False),
    "autograd bf16": (False, True, True),
    "explicit": (True, True, False),
    "explicit bf16": (True, True, True),
}
COMPILED = {"compiled explicit": (True, True, False), "compiled explicit bf16": (True, True, True)}


class Contiguous(FeatureNetwork):
    """The network as it would be without a thought about memory formats."""

    def _input(self, u: Tensor, log_level: Tensor) -> Tensor:
        return super()._input(u, log_level).contiguous()


class ContiguousPublished(PublishedNetwork):
    """The published network, likewise."""

    def _input(self, image: Tensor) -> Tensor:
        return super()._input(image).contiguous()


def network(name: str, channels_last: bool) -> FeatureNetwork | PublishedNetwork:
    torch.manual_seed(0)
    if name == "published":
        published = PublishedNetwork if channels_last else ContiguousPublished
        return published(64, "relu", "sum", (1, 1)).requires_grad_(False)
    made = (FeatureNetwork if channels_last else Contiguous)(WIDTHS[name], 2, 2, True, "silu")
    if name == "U-Net 32-64-128":
        made.load_state_dict(make_prior("deepen").get_submodule("network").state_dict())
    return made.requires_grad_(False)


def head(size: tuple[int, int], batch: int) -> Tensor:
    sense = make_problem(simulate_acquisition(shape=size, coils=8)).normalised().sense()
    noise = complex_noise((batch, *size), LEVEL, torch.Generator().manual_seed(0))
    return sense + noise


def runs(name: str, variant: str, image: Tensor) -> Run:
    """Return what computes value and gradient of `image`."""
    explicit, channels_last, low = (VARIANTS | COMPILED)[variant]
    net = network(name, channels_last).to(image.real.dtype)
    level = torch.full((len(image),), LEVEL, dtype=image.real.dtype)

    def by_hand() -> Both:
        return net.potential_and_gradient(image, level)

    def by_autograd() -> Both:
        leaf = image.detach().requires_grad_()
        value = net.potential(leaf, level)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    compute = by_hand if explicit else by_autograd
    if variant in COMPILED:
        compute = torch.compile(compute)

    def run() -> Both:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return compute()

    return run


def prepared(name: str, variant: str, size: tuple[int, int], batch: int) -> Run:
    """Return the run, after one of a small image: code that is loaded or generated at the first call does not count."""
    runs(name, variant, head((32, 32), batch))()
    return runs(name, variant, head(size, batch))


def rows(name: str, size: tuple[int, int], batch: int, variants: list[str], repetitions: int) -> list[str]:
    image = head(size, batch)
    exact = runs(name, BASE, image[:1].to(torch.complex128))()[1]
    computed = {variant: runs(name, variant, image) for variant in variants}
    errors = {v: float((run()[1][:1] - exact).norm() / exact.norm()) for v, run in computed.items()}
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(repetitions):
        for variant, run in computed.items():
            run()
            start = time.thread_time()
            run()
            times[variant].append(time.thread_time() - start)
    seconds = {variant: statistics.median(values) for variant, values in times.items()}
    peaks = {v: peak_memory(partial(prepared, name, v, size, batch)) for v in variants if v not in COMPILED}
    case = f"{name} | {size[0]}×{size[1]} | {batch}"
    return [
        f"| {case} | {variant} | {seconds[BASE] / seconds[variant]:.2f} | "
        f"{f'{peaks[variant] / peaks[BASE]:.2f}' if variant in peaks else '-'} | {errors[variant]:.0e} |"
        for variant in variants
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--sizes", nargs="+", default=["230x180", "256x256", "320x320"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repetitions", type=int, default=9, help="of batch 1; fewer of larger ones (at least 3)")
    parser.add_argument("--compile", action="store_true", help="needs a compiler")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | matrix | batch | gradient | speed | memory | error |\n|---|---|---|---|---|---|---|")
    for name in given.networks:
        for size in given.sizes:
            height, width = (int(side) for side in size.split("x"))
            for batch in given.batches:
                repetitions = max(3, given.repetitions // batch)
                variants = [*VARIANTS, *(COMPILED if given.compile else [])]
                print("\n".join(rows(name, (height, width), batch, variants, repetitions)), flush=True)


if __name__ == "__main__":
    main()
