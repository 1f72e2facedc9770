"""MM-CG as published, with an L that adapts, and accelerated, to the same minimum of the same cost.

    OMP_NUM_THREADS=1 python -m benchmarks.map_solvers DATA

All start from SENSE, as the paper does, and minimise the cost of the noise level at which a default run ends, with the
weights that ship and without continuation. As published, L is one number, here the smallest on a ladder of 1.6 from
half of the measured curvature that bounds every step; it adapts where it may fall by 0.9 after each. Counted are all
gradients of the energy, those that measure the first L too, until the cost is within 1e-6 of the lowest that any finds.
Writes benchmarks/results/map_solvers.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.cases import REAL_SCANS, evaluation_cases

from mriinv import Prior, Solution, make_prior, make_solver
from mriinv.validation import Case

RESULT = Path(__file__).parent / "results" / "map_solvers.md"
WITHIN = 1e-6
SOLVERS: dict[str, dict[str, Any]] = {
    "as published": {"memory": 0, "curvature_decay": 1.0},
    "adaptive L": {"memory": 0},
    "accelerated": {},
}
SLOWER = [name for name in SOLVERS if name != "accelerated"]


class Run(NamedTuple):
    """What one solver needed: all of its gradients, and whether those reached the lowest cost; seconds of them."""

    gradients: int
    arrived: bool
    seconds: float
    above: float

    @property
    def prefix(self) -> str:
        """What says that more gradients are needed than were spent."""
        return "" if self.arrived else "> "


def minimise(case: Case, prior: Prior, level: float, settings: Mapping[str, Any]) -> tuple[Solution, float]:
    options = {"levels": 1, "lowest_level": level, "tolerance": 1e-9, "max_iterations": 1000}
    started = time.perf_counter()
    return make_solver("mm-cg", **options, **settings)(case.problem, prior), time.perf_counter() - started


def compare(solution: Solution, seconds: float, lowest: float) -> Run:
    """Return what was needed to come within `WITHIN` of the lowest cost."""
    costs, counts = solution.history["cost"][:, 0], solution.history["gradients"][:, 0]
    arrived = costs <= lowest * (1 + WITHIN)
    needed = counts[arrived][0] if arrived.any() else counts[-1]
    share = seconds * float(needed / counts[-1])
    return Run(int(needed), bool(arrived.any()), share, float(costs[-1]) / lowest - 1)


def row(label: str, case: Case, prior: Prior) -> str:
    """Return the line of the table for one case."""
    level = float(make_solver("mm-cg")(case.problem, prior).history["noise_level"][-1, 0])
    found = {name: minimise(case, prior, level, settings) for name, settings in SOLVERS.items()}
    lowest = min(float(solution.history["cost"].min()) for solution, _ in found.values())
    runs = {name: compare(solution, seconds, lowest) for name, (solution, seconds) in found.items()}
    cells = [f"{run.prefix}{run.gradients} | {run.seconds:.1f} | {run.above:.0e}" for run in runs.values()]
    accelerated = runs["accelerated"]
    for name in SLOWER:
        ratio = f"{runs[name].prefix}{runs[name].gradients / accelerated.gradients:.1f}×"
        cells.append(ratio if accelerated.arrived else "-")
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bart_full8 and chiew_sense16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior = make_prior("deepen")
    heads = [f"{name}: gradients | s | cost above" for name in SOLVERS] + [f"fewer than {name}" for name in SLOWER]
    lines = [f"| scan, mask | {' | '.join(heads)} |", "|" + "---|" * (1 + 3 * len(SOLVERS) + len(SLOWER))]
    for one in evaluation_cases(options.data, tuple(REAL_SCANS)):
        lines.append(row(f"{one.scan} {one.mask}", one.case, prior))
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
