"""Samplers compared: steps and network evaluations per sample, parameters, seconds, PSNR of the mean, coverage.

    OMP_NUM_THREADS=1 python -m benchmarks.posterior DATA [--scan bart_full8] [--mask "2D 6×"] [--only NAME]
        [--device cuda] [--out FOLDER]

Every row draws from the same posterior problems in one process, one after another, with the weights that ship. DPS and
DDS run twice: with the diffusion model that ships, and with the denoiser of the energy, so that samplers can be told
from networks, the former with the weight of the data that their recipes have; their data term is squared, that of the
Markov chains robust. Seconds are those per sample, times 100;
burn-in is in them, so that few samples seem slow. Coverage is the share of pixels of the support within the 90 %
interval of the magnitude (`mriinv.uncertainty`); calibrated, within the interval of the calibration that ships, for
the settings that it was fitted for; its scale was fitted on bart_full8 and chiew_sense16 under Poisson 4× and 8× masks
and lines, so that siat200 and 6× test it. Evaluations are those of the network, each view of an energy by itself.
Writes posterior.csv and posterior.md to --out, benchmarks/results unless told otherwise; rows that did not run stay.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.cases import EvaluationCase, evaluation_cases
from torch import Tensor

from mriinv import Prior, Samples, Solver, make_prior, make_solver
from mriinv.calibration import calibration_path, read_calibration
from mriinv.core.delegate import Watched
from mriinv.files import atomic_path, make_folder
from mriinv.metrics import psnr
from mriinv.registry import registry
from mriinv.uncertainty import correlation, coverage, deviations

RESULTS = Path(__file__).parent / "results"
MASKS = ("2D 4×", "2D 6×")
SHORT = {"samples": 16, "long_run": 0}
MCMC = {"samples": 40, "long_run": 0}  # enough steps for split-R̂
LONG = SHORT | {"samples": 100}


class Method(NamedTuple):
    """What draws the samples of a row."""

    prior: str
    solver: str
    settings: Mapping[str, Any]
    weights: str | None = None  # those that are the default


METHODS = {
    "DEEPEN, preconditioned Langevin": Method("deepen", "preconditioned-langevin", SHORT),
    "DEEPEN, the same, 100 samples": Method("deepen", "preconditioned-langevin", LONG),
    "DEEPEN, the same with Metropolis": Method("deepen", "preconditioned-langevin", MCMC | {"metropolis": True}),
    "DEEPEN, Langevin (eq. 16)": Method("deepen", "langevin", MCMC),
    "DEEPEN, MALA": Method("deepen", "mala", MCMC),
    "small DEEPEN, preconditioned Langevin": Method("deepen", "preconditioned-langevin", SHORT, "deepen-small"),
    "small DEEPEN, the same, 100 samples": Method("deepen", "preconditioned-langevin", LONG, "deepen-small"),
    "DEEPEN, DDS": Method("deepen", "dds", {"samples": 16, "batch": 8}),
    "DEEPEN, DPS": Method("deepen", "dps", {"samples": 4}),
    "diffusion, DDS": Method(
        "diffusion", "dds", registry().recipe("dds").solver.settings | {"samples": 16, "batch": 8}
    ),
    "diffusion, DPS": Method("diffusion", "dps", registry().recipe("dps").solver.settings | {"samples": 4}),
}


@dataclass(frozen=True)
class Row:
    """One sampler under one mask: means over the slices of a scan."""

    scan: str
    mask: str
    method: str
    parameters: int
    samples: int
    steps: float
    evaluations: float
    seconds_per_100: float
    psnr: float
    coverage: float
    calibrated: float | None
    correlation: float
    acceptance: float | None
    split_rhat: float | None


def calibrated_coverage(case: EvaluationCase, prior: Prior, solver: Solver, samples: Samples) -> float | None:
    """Return the share of pixels within the 90 % interval of the calibration that ships; None where none applies."""
    weights = prior.loaded_weights
    if weights is None or not calibration_path(weights.path).exists():
        return None
    calibration, sampling = read_calibration(calibration_path(weights.path)), case.case.sampling
    settings = (part.settings.model_dump(mode="json") for part in (prior, solver))
    if solver.name != calibration.solver or calibration.mismatch(weights.sha256, "sense", *settings):
        return None
    if not calibration.applies(sampling) or calibration.temperature != solver.settings.temperature:
        return None
    magnitude, support = samples.draws.flatten(0, 1).abs().mean(0), case.case.problem.operator.support
    inside = (magnitude - case.case.reference.abs()).abs() <= calibration.half_width(samples, 0.9, sampling)
    return float((inside if support is None else inside[support]).double().mean())


def measure(case: EvaluationCase, method: str) -> Row:
    """Draw samples, and compare them with the reference."""
    how = METHODS[method]
    prior = make_prior(how.prior, weights=how.weights).to(case.case.problem.data.device)
    solver = make_solver(how.solver, **how.settings)
    evaluations, views = 0, getattr(prior.settings, "views", 1)

    def count(images: Tensor) -> None:
        nonlocal evaluations
        evaluations += views * len(images)

    started = time.perf_counter()
    samples = solver(case.case.problem, Watched(prior, count))
    seconds = time.perf_counter() - started
    assert isinstance(samples, Samples)
    draws, support = len(samples.draws.flatten(0, 1)), case.case.problem.operator.support
    found = deviations(samples, case.case.reference, support)
    numbers = samples.numbers()
    return Row(
        case.scan,
        case.mask,
        method,
        sum(p.numel() for p in prior.parameters()),
        draws,
        float(samples.iterations[0]) * samples.draws.shape[0] / draws,
        evaluations / draws,
        100 * seconds / draws,
        float(psnr(samples.image, case.case.reference, support)),
        coverage([found], 0.9),
        calibrated_coverage(case, prior, solver, samples),
        correlation([found]),
        numbers.get("acceptance"),
        numbers.get("split_rhat"),
    )


def mean(rows: list[Row]) -> dict[str, Any]:
    """Return the rows of several slices as one."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    return {name: fmean(values) if isinstance(values[0], float) else values[0] for name, values in columns.items()}


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of an earlier run; none without a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{field.name: row.get(field.name, "") for field in fields(Row)} for row in csv.DictReader(file)]


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as markdown."""

    def number(value: str, form: str) -> str:
        return format(float(value), form) if value else ""

    lines = [
        "| scan | mask | method | parameters | steps | evaluations | s per 100 | PSNR of the mean | coverage at 90 % "
        "| calibrated | correlation | split-R̂ |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["scan"], row["mask"], row["method"], f"{int(row['parameters']):,}"]
        forms = ("steps", ".0f"), ("evaluations", ".0f"), ("seconds_per_100", ".0f"), ("psnr", ".2f")
        cells += [number(row[name], form) for name, form in forms]
        cells += [number(row["coverage"], ".3f"), number(row["calibrated"], ".3f")]
        cells += [number(row["correlation"], ".2f"), number(row["split_rhat"], ".2f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the evaluation data")
    parser.add_argument("--scan", action="append", help="bart_full8, chiew_sense16 or siat200 (repeatable)")
    parser.add_argument("--mask", action="append", help=f"repeatable; default: {', '.join(MASKS)}")
    parser.add_argument("--only", action="append", choices=list(METHODS), help="methods to run (repeatable)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables")
    arguments = parser.parse_args()
    make_folder(arguments.out)
    path = arguments.out / "posterior.csv"
    rows = {(row["scan"], row["mask"], row["method"]): row for row in read(path)}
    names = [field.name for field in fields(Row)]
    scans = tuple(arguments.scan or ("bart_full8", "chiew_sense16"))
    cases = evaluation_cases(arguments.data, scans, arguments.device)
    for (scan, mask), slices in groupby(cases, lambda case: (case.scan, case.mask)):
        if mask not in (arguments.mask or MASKS):
            continue
        group = list(slices)
        for method in arguments.only or METHODS:
            row = mean([measure(case, method) for case in group])
            rows[scan, mask, method] = {n: "" if row[n] is None else str(row[n]) for n in names}
            print(table([rows[scan, mask, method]]).splitlines()[-1], flush=True)
            ordered = sorted(rows.values(), key=lambda r: (r["scan"], r["mask"], list(METHODS).index(r["method"])))
            with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(ordered)
            (arguments.out / "posterior.md").write_text(table(ordered) + "\n")


if __name__ == "__main__":
    main()
