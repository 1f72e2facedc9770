"""Reconstruct fully sampled scans under retrospective masks; print a Markdown table of every method's PSNR and SSIM.

    python benchmarks/real_scans.py scan.npz:poisson-2d:4 other.h5:random-1d:4 [--recipe cg-sense --recipe deepen-map]

Each case is ``file:mask:acceleration``; the middle slice is used. Metrics: magnitudes on the support of the coil maps,
data range the maximum of the reference, which is the coil-combined fully sampled image. Nothing is tuned on the case.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mriinv import Reconstruction, make_prior, make_problem, make_solver, open_scan
from mriinv.data.masks import draw_mask
from mriinv.metrics import evaluate
from mriinv.registry import registry


def build(recipe: str, device: str) -> Reconstruction:
    """Return the reconstruction that a recipe names."""
    entry = registry().recipe(recipe)
    solver = make_solver(entry.solver.name, **entry.solver.settings)
    if entry.prior is None:
        return Reconstruction(None, solver, device)
    return Reconstruction(make_prior(entry.prior.name, **entry.prior.settings), solver, device)


def rows(case: str, methods: dict[str, Reconstruction]) -> list[str]:
    """Return one table row per method for ``file:mask:acceleration``."""
    path, mask_name, acceleration = case.rsplit(":", 2)
    with open_scan(path) as scan:
        full = scan.read(len(scan) // 2)
    y, x = full.kspace.shape[-2:]
    acquired = full.undersampled(draw_mask(mask_name, (y, x), full.extent, float(acceleration)))
    table = []
    for name, reconstruct in {"zero-filled": None, **methods}.items():
        device = "cpu" if reconstruct is None else reconstruct.device
        problem = make_problem(acquired.to(device))
        reference = problem.operator.fully_sampled_image(full.to(device).kspace)
        assert reference is not None  # the SENSE operator always has one
        started = time.perf_counter()
        solution = None if reconstruct is None else reconstruct(problem)
        seconds = time.perf_counter() - started
        image = problem.back_projection() if solution is None else solution.image
        metrics = evaluate(image, reference, problem.operator.support)
        work = "" if solution is None else f"{int(solution.iterations)} iterations, {seconds:.1f} s"
        if solution is not None and not solution.converged.all():
            work += ", not converged"
        label = f"{Path(path).parent.name}/{Path(path).name} {mask_name} {float(acceleration):g}×"
        table.append(f"| {label} | {name} | {metrics.psnr:.2f} | {metrics.ssim:.4f} | {work} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="FILE:MASK:ACCELERATION")
    parser.add_argument("--recipe", action="append", help="default: cg-sense and deepen-map")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    methods = {name: build(name, options.device) for name in options.recipe or ["cg-sense", "deepen-map"]}
    print("| scan and mask | method | PSNR (dB) | SSIM | work |\n|---|---|---|---|---|")
    for case in options.cases:
        print("\n".join(rows(case, methods)), flush=True)


if __name__ == "__main__":
    main()
