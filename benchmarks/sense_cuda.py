"""Time AᴴA, CG-SENSE and an energy gradient on the CPU and on CUDA; print a Markdown table.

320×320, 12 coils, single precision; medians of 20 repetitions after a warm-up, milliseconds per call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from mriinv import complex_noise, make_mask, make_prior
from mriinv_sense.operator import SenseOperator

SHAPE, COILS = (320, 320), 12


def median_ms(work: Callable[[], object], device: torch.device, repetitions: int = 20) -> float:
    """Return the median time of a call, synchronised with the device."""
    times = []
    for repetition in range(repetitions + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repetition >= 3:
            times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = complex_noise((1, COILS, *SHAPE), 1.0, generator)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = make_mask("poisson-2d", SHAPE, 4.0, 24, 0)
    devices = [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]
    print("| operation | batch | " + " | ".join(str(d) for d in devices) + " |\n|---|---|" + "---|" * len(devices))
    for batch in (1, 8):
        image = complex_noise((batch, *SHAPE), 1.0, generator)
        cells: dict[str, list[str]] = {}
        for device in devices:
            operator, x = SenseOperator(maps.to(device), mask.to(device)), image.to(device)
            prior = make_prior("deepen", weights="none", views=1).to(device)
            work: dict[str, Callable[[], object]] = {
                "AᴴA": partial(operator.gram, x),
                "CG-SENSE, 30 iterations": partial(operator.solve_normal, x, 0.01, tolerance=0.0, max_iterations=30),
                "∇E, one view": partial(prior.gradient, x),
            }
            for name, call in work.items():
                cells.setdefault(name, []).append(f"{median_ms(call, device):.2f}")
        for name, values in cells.items():
            print(f"| {name} | {batch} | " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
