"""Time AᴴA, CG-SENSE and ESPIRiT against deepinv and sigpy; print a Markdown table.

One thread, single precision, 320×320, 12 coils, on the CPU. Each row's variants run interleaved, and the median of
the repetitions is given in milliseconds with its ratio to ours. Conventions agree: each peer's result is compared with
ours before anything is timed, but for ESPIRiT, whose maps the tests compare.

    OMP_NUM_THREADS=1 python benchmarks/sense_vs_peers.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import deepinv
import numpy as np
import sigpy
import sigpy.mri as sigpy_mri
import torch
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor

from mriinv_sense.espirit import espirit
from mriinv_sense.operator import SenseOperator

SIZE, COILS, ITERATIONS, SHIFT = 320, 12, 30, 0.01
Variants = dict[str, Callable[[], object]]


def coil_maps() -> Tensor:
    """Return smooth maps ``(1, coil, y, x)`` with unit sum of squares."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    angles = 2 * torch.pi * torch.arange(COILS) / COILS
    maps = torch.stack(
        [
            torch.polar(torch.exp(-((y - 1.3 * torch.sin(a)) ** 2 + (x - 1.3 * torch.cos(a)) ** 2) / 1.5), a + y * x)
            for a in angles
        ]
    )
    return (maps / maps.abs().square().sum(0).sqrt())[None]


def masks() -> dict[str, Tensor]:
    """Return a variable-density mask of points and one of lines, both four times accelerated with a full centre."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    density = 0.6 * torch.exp(-3 * (y**2 + x**2)) + 0.1
    points = (torch.rand(SIZE, SIZE, generator=generator) < density) | ((y.abs() < 0.075) & (x.abs() < 0.075))
    lines = (torch.rand(SIZE, generator=generator) < 0.18) | (x[0].abs() < 0.08)
    return {"points": points[None], "lines": lines[None, None]}


def channels(image: Tensor) -> Tensor:
    return torch.view_as_real(image).movedim(-1, 1).contiguous()


def gram_variants(operator: SenseOperator, image: Tensor) -> Variants:
    physics, linop = peers(operator)
    pairs, arrays = channels(image), [one.numpy() for one in image]
    return {
        "mriinv": lambda: operator.gram(image),
        "deepinv": lambda: physics.A_adjoint_A(pairs),
        "sigpy": lambda: [linop.N(one) for one in arrays],
    }


def peers(operator: SenseOperator) -> tuple[deepinv.physics.MultiCoilMRI, sigpy.linop.Linop]:
    mask = operator.mask.expand(1, SIZE, SIZE)
    physics = deepinv.physics.MultiCoilMRI(mask=mask.float(), coil_maps=operator.coil_maps)
    return physics, sigpy_mri.linop.Sense(operator.coil_maps[0].numpy(), weights=mask[0].numpy().astype(np.float32))


def cg_variants(operator: SenseOperator, image: Tensor) -> Variants:
    """CG-SENSE from k-space to image, the same number of iterations for everyone."""
    data = operator(image)
    physics, _ = peers(operator)
    pairs = channels(data)
    kspace, maps = data[0].numpy(), operator.coil_maps[0].numpy()
    weights = operator.mask[0].expand(SIZE, SIZE).numpy().astype(np.float32)

    def ours() -> Tensor:
        rhs = operator.adjoint(data)
        return operator.solve_normal(rhs, SHIFT, tolerance=0, max_iterations=ITERATIONS).solution

    def deepinv_cg() -> Tensor:
        def normal(x: Tensor) -> Tensor:
            return physics.A_adjoint_A(x) + SHIFT * x

        return conjugate_gradient(normal, physics.A_adjoint(pairs), max_iter=ITERATIONS, tol=0)

    def sigpy_cg() -> np.ndarray:
        return sigpy_mri.app.SenseRecon(
            kspace, maps, lamda=SHIFT, weights=weights, max_iter=ITERATIONS, tol=0, show_pbar=False
        ).run()

    return {"mriinv": ours, "deepinv": deepinv_cg, "sigpy": sigpy_cg}


def espirit_variants(operator: SenseOperator, image: Tensor) -> Variants:
    kspace = SenseOperator(operator.coil_maps, torch.ones(1, 1, SIZE, dtype=torch.bool))(image)[0]
    middle = slice(SIZE // 2 - 12, SIZE // 2 + 12)
    array = kspace.numpy()
    return {
        "mriinv": lambda: espirit(kspace[:, middle, middle], (SIZE, SIZE), 6, 0.02, 0.9),
        "sigpy": lambda: sigpy_mri.app.EspiritCalib(array, 24, crop=0.9, show_pbar=False).run(),
    }


def as_image(result: object) -> Tensor:
    if isinstance(result, Tensor):
        return result if result.is_complex() else torch.view_as_complex(result.movedim(1, -1).contiguous())
    return torch.from_numpy(np.asarray(result)).reshape(-1, SIZE, SIZE)


def check(variants: Variants, limit: float) -> None:
    """Refuse to compare the speed of results that differ."""
    results = {name: as_image(run()) for name, run in variants.items()}
    for name, found in results.items():
        error = float((found - results["mriinv"]).norm() / results["mriinv"].norm())
        if error > limit:
            raise AssertionError(f"{name} differs from mriinv by {error:.1e}")


def row(label: str, variants: Variants, repetitions: int) -> str:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [
        f"{medians[name]:.1f} ({medians[name] / medians['mriinv']:.1f}×)" if name in medians else "-"
        for name in ("mriinv", "deepinv", "sigpy")
    ]
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15, help="of AᴴA; a third of it for CG (at least 3)")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, SIZE, SIZE, dtype=torch.complex64, generator=generator)
    maps, few = coil_maps(), max(3, repetitions // 3)
    print(f"Median ms (ratio to ours), {SIZE}×{SIZE}, {COILS} coils, complex64, one thread\n")
    print("| | mriinv | deepinv | sigpy |\n|---|---|---|---|")
    with torch.no_grad():
        for kind, mask in masks().items():
            operator = SenseOperator(maps, mask)
            for batch in (1, 8):
                variants = gram_variants(operator, images[:batch])
                check(variants, 1e-5)
                print(row(f"AᴴA, {kind}, batch {batch}", variants, repetitions if batch == 1 else few), flush=True)
            variants = cg_variants(operator, images[:1])
            check(variants, 1e-3)
            print(row(f"CG-SENSE, {kind}, {ITERATIONS} iterations", variants, few), flush=True)
        operator = SenseOperator(maps, masks()["points"])
        print(row("ESPIRiT, 24×24, kernel 6", espirit_variants(operator, images[:1]), 3))


if __name__ == "__main__":
    main()
