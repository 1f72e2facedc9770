"""Every method on the evaluation cases, as it comes and tuned on each case with its reference, beside BART.

    OMP_NUM_THREADS=1 python -m benchmarks.methods DATA [--scan bart_full8] [--only DEEPEN] [--energy "DSM only=FILE"]

Writes benchmarks/results/methods.csv (a row per slice and method) and methods.md (means over slices, PSNR at a glance
first); with --only, the other rows stay as they are. --energy adds DEEPEN with other weights. Tuned means the
best of a hill climb over λ in factors of 1.6 by PSNR on the case itself: what a method could reach, not what a user
gets. BART (``bart pics``) gets the same data, coil maps and scale, and climbs from the best λ of its counterpart; its
seconds are those of the whole call. DEEPEN runs to convergence with the weights that ship; nothing of it is tuned.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.cases import MASKS, EvaluationCase, evaluation_cases, real_scan
from deepinv.models import TVDenoiser
from torch import Tensor

from mriinv import InverseProblem, Reconstruction, make_prior, make_problem, make_solver
from mriinv.files import atomic_path
from mriinv.metrics import evaluate
from mriinv.validation import Case

RESULTS = Path(__file__).parent / "results"
RATIO, TRIALS, BART_TRIALS = 1.6, 9, 5
TUNED = ", tuned"
BART = {  # lines need these many iterations; -u is the penalty of ADMM at which it is quickest
    "BART -l2": (["-l2", "-i", "100", "-r", "{}"], "CG-SENSE"),
    "BART -R T": (["-m", "-u", "0.01", "-i", "200", "-R", "T:3:0:{}"], "TV"),
    "BART -R W": (["-i", "200", "-R", "W:3:0:{}"], "l1-wavelet"),
}


@dataclass(frozen=True)
class Row:
    """What one method did on one slice; `weight` is λ at image scale 1."""

    scan: str
    mask: str
    slice: str
    method: str
    psnr: float
    ssim: float
    seconds: float
    iterations: int | None
    weight: float | None
    gradients: int | None = None


@dataclass(frozen=True)
class Outcome:
    """An image and what it took; `gradients` are those of the energy."""

    image: Tensor
    iterations: int | None = None
    gradients: int | None = None


Run = Callable[[Case, float | None], Outcome]


def cg_sense(case: Case, weight: float | None) -> Outcome:
    settings = {} if weight is None else {"regularisation": weight}
    solution = Reconstruction(None, make_solver("cg-sense", **settings), "cpu")(case.problem)
    return Outcome(solution.image, int(solution.iterations))


def sparse(prior: str, robust: bool = False) -> Run:
    def run(case: Case, weight: float | None) -> Outcome:
        problem = case.problem.robust() if robust else case.problem
        solution = Reconstruction(make_prior(prior, weight=weight), "fista", "cpu")(problem)
        return Outcome(solution.image, int(solution.iterations))

    return run


def zero_filled(case: Case, weight: float | None) -> Outcome:
    return Outcome(Reconstruction(None, "zero-filled", "cpu")(case.problem).image, 0)


def deepen(weights: str | None = None, **settings: Any) -> Run:
    def run(case: Case, weight: float | None) -> Outcome:
        prior, solver = make_prior("deepen", weights=weights), make_solver("mm-cg", **settings)
        solution = Reconstruction(prior, solver, "cpu")(case.problem)
        return Outcome(solution.image, int(solution.iterations), int(solution.history["gradients"][-1, 0]))

    return run


def bart(options: list[str]) -> Run:
    def run(case: Case, weight: float | None) -> Outcome:
        return Outcome(pics(case.problem, [option.format(weight) for option in options]))

    return run


def pics(problem: InverseProblem, options: list[str]) -> Tensor:
    """Reconstruct with ``bart pics`` at reference scale 1; return the image in the units of `problem`."""
    maps = problem.operator.exported_maps()["coil_maps"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, array in {"kspace": problem.normalised().data, "maps": maps}.items():
            values = array[0].movedim(0, -1)[:, :, None].numpy()
            (folder / f"{file}.hdr").write_text("# Dimensions\n" + " ".join(map(str, values.shape)) + "\n")
            values.ravel(order="F").tofile(folder / f"{file}.cfl")
        command = ["bart", "pics", "-S", "-w", "1", *options, "kspace", "maps", "image"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        image = np.fromfile(folder / "image.cfl", np.complex64).reshape(maps.shape[-2:], order="F")
    return torch.from_numpy(np.ascontiguousarray(image))[None] * problem.scale.view(-1, 1, 1)


ROBUST = "l1-wavelet, robust"  # with the data term of mm-cg
OURS: dict[str, Run] = {"CG-SENSE": cg_sense, "TV": sparse("tv"), "l1-wavelet": sparse("l1-wavelet")}
OURS[ROBUST] = sparse("l1-wavelet", robust=True)
START = {"CG-SENSE": 0.006, "TV": 0.0015, "l1-wavelet": 0.0025, ROBUST: 0.001}  # where the search for λ begins


def measure(one: EvaluationCase, method: str, run: Run, weight: float | None) -> Row:
    case = one.case
    started = time.perf_counter()
    found = run(case, weight)
    seconds = time.perf_counter() - started
    support = case.problem.operator.support
    assert support is not None
    metrics = evaluate(found.image * support, case.reference, support)
    numbers = (metrics.psnr, metrics.ssim, seconds, found.iterations, weight, found.gradients)
    return Row(one.scan, one.mask, case.name, method, *numbers)


def tuned(one: EvaluationCase, method: str, run: Run, start: float, most: int = TRIALS) -> Row:
    """Climb from `start` in factors of `RATIO` until both neighbours of the best λ have been tried."""
    trials: dict[int, Row] = {}
    wanted = [0, 1, -1]
    while wanted and len(trials) < most:
        trials[wanted[0]] = measure(one, method, run, start * RATIO ** wanted[0])
        best = max(trials, key=lambda step: trials[step].psnr)
        wanted = [step for step in (0, best + 1, best - 1) if step not in trials]
    return trials[best]


def compare(one: EvaluationCase, untuned: Mapping[str, Run], only: Sequence[str]) -> list[Row]:
    """Return the rows of every method on one slice, or of those in `only`, without BART's."""

    def chosen(methods: Mapping[str, Run]) -> dict[str, Run]:
        return {name: run for name, run in methods.items() if not only or name in only}

    rows = [measure(one, name, run, None) for name, run in chosen(untuned).items()]
    best: dict[str, Row] = {}
    for method, run in chosen(OURS).items():
        default = measure(one, method, run, None)
        best[method] = tuned(one, method + TUNED, run, START[method])
        rows += [default, max(best[method], replace(default, method=best[method].method), key=lambda row: row.psnr)]
    if not only and shutil.which("bart") is not None:
        for method, (options, counterpart) in BART.items():
            start = best[counterpart].weight
            assert start is not None
            rows.append(tuned(one, method + TUNED, bart(options), start, BART_TRIALS))
    return rows


def stored(path: Path) -> list[Row]:
    """Return the rows of an earlier call."""
    types: dict[str, Callable[[str], Any]] = {"psnr": float, "ssim": float, "seconds": float, "weight": float}
    types |= {"iterations": int, "gradients": int}

    def typed(row: dict[str, str]) -> dict[str, Any]:
        return {name: types.get(name, str)(value) if value else None for name, value in row.items()}

    with path.open(newline="") as file:
        return [Row(**typed(row)) for row in csv.DictReader(file)]


def merged(rows: list[Row], found: list[Row]) -> list[Row]:
    """Return `rows` with those that were `found` again in their place; new ones come last among those of their case."""

    def case(row: Row) -> tuple[str, str, str]:
        return row.scan, row.mask, row.slice

    again = {(*case(row), row.method): row for row in found}
    kept = [again.pop((*case(row), row.method), row) for row in rows]
    order = list(dict.fromkeys(map(case, [*rows, *found])))
    return sorted([*kept, *again.values()], key=lambda row: order.index(case(row)))


def overview(rows: list[Row]) -> str:
    """Return the Markdown table of mean PSNR, a column per mask; "a / b": with the defaults, and tuned on the case."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault((row.scan, row.method), {}).setdefault(row.mask, []).append(row.psnr)
    lines = [f"| scan | method | {' | '.join(MASKS)} |", "|" + "---|" * (2 + len(MASKS))]
    for scan, method in values:
        if (scan, method.removesuffix(TUNED)) in values and method.endswith(TUNED):
            continue
        both = [found for name in (method, method + TUNED) if (found := values.get((scan, name)))]
        cells = [" / ".join(f"{statistics.mean(found[mask]):.2f}" for found in both if mask in found) for mask in MASKS]
        lines.append(f"| {scan} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> str:
    """Return the Markdown table of means over slices."""
    head = ("scan", "mask", "method", "PSNR (dB)", "worst", "SSIM", "λ", "s", "iterations", "gradients")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for scan, mask, method in dict.fromkeys((row.scan, row.mask, row.method) for row in rows):
        group = [row for row in rows if (row.scan, row.mask, row.method) == (scan, mask, method)]
        values = [row.psnr for row in group]
        spread = f" ± {statistics.stdev(values):.2f}" if len(group) > 1 else ""
        weights = [row.weight for row in group if row.weight is not None]
        weight = f"{statistics.geometric_mean(weights):.2g}" if weights else ""
        counts = [[n for row in group if (n := getattr(row, name)) is not None] for name in ("iterations", "gradients")]
        cells = [
            f"{statistics.mean(values):.2f}{spread}",
            f"{min(values):.2f}",
            f"{statistics.mean(row.ssim for row in group):.4f}",
            weight,
            f"{statistics.mean(row.seconds for row in group):.2f}",
            *(f"{statistics.mean(count):.0f}" if count else "" for count in counts),
        ]
        lines.append(f"| {scan} | {mask} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def proximal_map_speed(data_folder: Path) -> str:
    """Time one TV proximal map against deepinv's, both within 1e-4 of their limits, on a real-valued image.

    deepinv's boundaries are not periodic, so that each is compared with its own limit.
    """
    full = real_scan(data_folder, "bart_full8")
    clean = make_problem(full).back_projection().abs()
    image = clean + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def ours(tolerance: float) -> Tensor:
        prior = make_prior("tv", weight=0.02, tolerance=tolerance, max_iterations=10000)
        return prior.proximal(image.to(torch.complex64), 1.0).real

    def theirs(criterion: float) -> Tensor:
        return TVDenoiser(n_it_max=10000, crit=criterion)(image[:, None], ths=0.02)[:, 0]

    seconds, errors = [], []
    for run, loose, tight in ((ours, 1e-3, 1e-5), (theirs, 5e-5, 1e-7)):
        limit = run(tight)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            found = run(loose)
            times.append(time.perf_counter() - started)
        seconds.append(statistics.median(times))
        errors.append(float((found - limit).norm() / limit.norm()))
    return (
        f"TV proximal map: mriinv {seconds[0]:.2f} s (error {errors[0]:.0e}), deepinv TVDenoiser {seconds[1]:.2f} s "
        f"({errors[1]:.0e}), {seconds[1] / seconds[0]:.1f}×\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bart_full8, chiew_sense16 and siat200")
    parser.add_argument("--scan", action="append", default=[], help="default: all")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="not all, none of BART's; repeatable"
    )
    parser.add_argument("--energy", action="append", default=[], metavar="NAME=FILE", help="DEEPEN with other weights")
    parser.add_argument("--out", type=Path, default=RESULTS / "methods", help="name of the results without ending")
    options = parser.parse_args()
    torch.set_num_threads(1)
    untuned = {
        "zero-filled": zero_filled,
        "DEEPEN": deepen(),
        "DEEPEN, squares": deepen(robust=False),
        "DEEPEN, MM-CG as published": deepen(robust=False, memory=0, curvature_decay=1.0),
    }
    for name, _, file in (energy.partition("=") for energy in options.energy):
        untuned[f"DEEPEN, {name}"] = deepen(file)
    path = options.out.with_suffix(".csv")
    rows = stored(path) if (options.only or options.scan) and path.exists() else []
    for one in evaluation_cases(options.data, tuple(options.scan)):
        rows = merged(rows, compare(one, untuned, options.only))
        print(one.case.name, one.mask, sep=", ", flush=True)
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, vars(rows[0]))
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)
    text = f"{overview(rows)}\n{table(rows)}\n{proximal_map_speed(options.data)}"
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
