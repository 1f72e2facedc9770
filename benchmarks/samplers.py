"""Every registered sampler on posteriors whose law is known exactly; print a Markdown table.

    OMP_NUM_THREADS=1 python -m benchmarks.samplers

The cases, what is measured and what the columns mean: docs/samplers.md. Samplers of third parties appear with their
defaults. Writes benchmarks/results/samplers.md.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mriinv import Sampler, Target
from mriinv.testing.posteriors import (
    AnalyticPosterior,
    Measurement,
    applies,
    measure,
    posteriors,
    samplers,
    stationary_covariance,
)
from mriinv_langevin.chains import KineticChain, LangevinChain

RESULT = Path(__file__).parent / "results" / "samplers.md"
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {  # the defaults, unless listed
    "preconditioned-langevin": ({"thinning": 3}, {"thinning": 3, "metropolis": True, "burn_in": 60}),
    "dps": ({"samples": 256, "steps": 300},),
    "dds": ({"samples": 256},),
}
# conjugate gradients and autograd through many coils take their time
SMALLER = {"preconditioned-langevin": {"samples": 384, "chains": 16, "batch": 16}, "dds": {"samples": 64}}
COLUMNS = (
    "posterior",
    "sampler",
    "bias of the mean",
    "variance",
    "covariance error",
    "by chance",
    "of the step: variance, covariance",
    "weight error",
    "effective samples",
    "per second",
    "acceptance",
    "steps",
    "evaluations",
    "exact?",
)


def measurements(cases: tuple[AnalyticPosterior, ...]) -> Iterator[str]:
    """Give the lines of the table."""
    for posterior in cases:
        for name, sampler in samplers().items():
            if not applies(sampler, posterior):
                continue
            for variant in VARIANTS.get(name, ({},)):
                smaller = SMALLER.get(name, {}) if posterior.name == "SENSE" else {}
                found = measure(name, posterior, {**variant, **smaller})
                label = name + ", Metropolis" * bool(variant.get("metropolis"))
                yield row(label, found, predicted(sampler(**variant), posterior))


def row(label: str, found: Measurement, by_step: tuple[float, float] | None) -> str:
    """Return one line of the table."""
    weight = None if found.weight_error is None else f"{found.weight_error:.3f} ± {found.weight_expected:.3f}"
    cells = (
        found.posterior,
        label,
        f"{found.bias:.3f} ± {found.bias_error:.3f}",
        f"{found.variance:.3f} ± {found.variance_error:.3f}",
        f"{found.covariance_error:.2f}",
        f"{found.covariance_expected:.2f}",
        None if by_step is None else f"{by_step[0]:.3f}, {by_step[1]:.2f}",
        weight,
        f"{found.effective_samples:.0f}",
        f"{found.effective_samples / found.seconds:.0f}",
        None if found.acceptance is None else f"{found.acceptance:.2f}",
        str(found.steps),
        str(found.evaluations),
        "approximate" if found.approximate else "yes" if found.agrees else "no",
    )
    return "| " + " | ".join(cell or "-" for cell in cells) + " |"


def predicted(sampler: Any, posterior: AnalyticPosterior) -> tuple[float, float] | None:
    """Return variance and covariance error of the discretised chain itself, None where no closed form is known."""
    law = posterior.law()
    if not isinstance(sampler, Sampler) or len(law.weights) > 1:
        return None
    prior = sampler.prior_at(posterior.prior, torch.tensor([posterior.noise_std]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        start = posterior.problem.sense()
        chain = sampler.chain(Target(posterior.problem, prior, posterior.level or None), start, generator)
    if type(chain) is KineticChain:
        return 1.0, 0.0
    if type(chain) is not LangevinChain:
        return None
    hessian = posterior.noise_std**2 * torch.linalg.inv(law.covariance)
    step, noise = float(chain.step_size), float(chain.noise)
    exact, own = law.covariance, stationary_covariance(hessian, step, noise)
    variance = own.diagonal().real.sum() / exact.diagonal().real.sum()
    return float(variance), float(torch.linalg.matrix_norm(own - exact) / torch.linalg.matrix_norm(exact))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    print(*lines, sep="\n")
    for line in measurements(posteriors()):
        lines.append(line)
        print(line, flush=True)
    head = (
        "# Samplers on posteriors that are known exactly\n\n"
        "`OMP_NUM_THREADS=1 python -m benchmarks.samplers`; cases and columns: "
        "[docs/samplers.md](../../docs/samplers.md).\n"
        f"One {platform.machine()} core, {date.today()}; torch {torch.__version__.partition('+')[0]}. "
        "Seconds on a shared machine: read the ratios.\n\n"
    )
    RESULT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
