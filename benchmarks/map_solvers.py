"""MM-CG as published and accelerated, to the same minimum of the same cost.

    OMP_NUM_THREADS=1 python -m benchmarks.map_solvers DATA

Both start from SENSE, as the paper does, and minimise the cost of the noise level at which a default run ends, with the
weights that ship and without continuation. Counted are all gradients of the energy until the cost is within 1e-6 of the
lowest that either finds. Writes benchmarks/results/map_solvers.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from benchmarks.cases import REAL_SCANS, evaluation_cases

from mriinv import Prior, Solution, make_prior, make_solver
from mriinv.validation import Case

RESULT = Path(__file__).parent / "results" / "map_solvers.md"
WITHIN = 1e-6
MEMORY = {"published": 0, "accelerated": 10}


def minimise(case: Case, prior: Prior, level: float, memory: int) -> tuple[Solution, float]:
    settings = {"levels": 1, "lowest_level": level, "tolerance": 1e-9, "max_iterations": 250, "memory": memory}
    started = time.perf_counter()
    return make_solver("mm-cg", **settings)(case.problem, prior), time.perf_counter() - started


def row(label: str, case: Case, prior: Prior) -> str:
    """Return the line of the table for one case."""
    level = float(make_solver("mm-cg")(case.problem, prior).history["noise_level"][-1, 0])
    runs = {name: minimise(case, prior, level, memory) for name, memory in MEMORY.items()}
    costs = {name: solution.history["cost"][:, 0] for name, (solution, _) in runs.items()}
    lowest = min(float(cost.min()) for cost in costs.values())
    cells, gradients = [], []
    for name, (solution, seconds) in runs.items():
        arrived = costs[name] <= lowest * (1 + WITHIN)
        counts = solution.history["gradients"][:, 0]
        gradients.append(int(counts[arrived][0]) if arrived.any() else None)
        share = seconds if gradients[-1] is None else seconds * gradients[-1] / float(counts[-1])
        number = f"> {int(counts[-1])}" if gradients[-1] is None else str(gradients[-1])
        cells.append(f"{number} | {share:.1f} | {float(costs[name][-1]) / lowest - 1:.0e}")
    published, accelerated = gradients
    most = float(runs["published"][0].history["gradients"][-1, 0]) if published is None else published
    ratio = f"{'> ' if published is None else ''}{most / accelerated:.1f}×" if accelerated else "-"
    return f"| {label} | {' | '.join(cells)} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bart_full8 and chiew_sense16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior = make_prior("deepen")
    lines = [
        "| scan, mask | published: gradients | s | cost above | accelerated: gradients | s | cost above | fewer |",
        "|" + "---|" * 8,
    ]
    for one in evaluation_cases(options.data, tuple(REAL_SCANS)):
        lines.append(row(f"{one.scan} {one.mask}", one.case, prior))
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
