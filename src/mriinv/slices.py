"""One slice, from its acquisition to the result file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mriinv.compose import Reconstruction, make_problem, make_solver, with_reference
from mriinv.core.problem import InverseProblem, Samples, Solution
from mriinv.core.sampler import Sampler
from mriinv.core.solver import Monitor
from mriinv.core.types import Image, Support
from mriinv.data.acquisition import Acquisition
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.result_writer import QUANTILES, ResultWriter
from mriinv.data.results import read_result
from mriinv.errors import InputError
from mriinv.metrics import Metrics, evaluate
from mriinv.numerics.images import centre_crop
from mriinv.setup import Run, measures_images
from mriinv.validation import foreign_units

ZERO_FILLED, ADJOINT, SUPPORT = "zero_filled", "adjoint", "support"  # datasets of a result beside those of the operator
INTERVAL = 0.9  # level of the calibrated interval around the mean magnitude
SOLVED = ("iterations", "converged", "seconds", "acceleration")  # of a report, stored with the result
MAP_SOLVER = "mm-cg"  # what a posterior that was sampled is compared with


@dataclass(frozen=True)
class ReconstructedSlice:
    """What came of one slice, before the crop.

    Attributes
    ----------
    acquired : what the reconstruction saw
    mask : what was sampled, bool (y, x): on the grid of the file, whatever the crop made of its k-space; where a mask
        undersampled the cropped k-space, on the grid of that
    reference : what it is compared with; None where there is nothing
    map_image : of a posterior that was sampled, what `MAP_SOLVER` makes of the same problem; None for others
    acceleration : acquired locations over those that the reconstruction saw
    seconds : of calibration and reconstruction
    """

    index: int
    acquired: Acquisition
    mask: Tensor
    problem: InverseProblem
    solution: Solution
    reference: Image | None
    map_image: Image | None
    acceleration: float
    seconds: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class SliceReport:
    """What one slice came to; `sampling` are the numbers of `Samples.numbers`, empty for a point estimate."""

    index: int
    iterations: int
    converged: bool
    seconds: float
    acceleration: float
    metrics: Metrics | None = None
    zero_filled: Metrics | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


def reconstruct_slice(run: Run, acquisition: Acquisition, index: int, monitor: Monitor | None) -> ReconstructedSlice:
    """Prepare and undersample a slice, calibrate the operator on what is left, and solve."""
    config, reconstruct = run.config, run.reconstruction
    full = prepare_acquisition(acquisition.to(reconstruct.device), config.preparation)
    own_reference, images_measured = full.reference is not None, measures_images(config)
    if images_measured:
        full = with_reference(full)
    acquired = full if config.mask is None else full.undersampled(config.mask.mask_for(full))
    # zero padding was never acquired: against it nothing is accelerated
    acceleration = acquired.acceleration / (full.acceleration if full.gapless else 1)
    seed, started = config.seed + index, time.perf_counter()
    problem = make_problem(acquired, config.operator.name, seed=seed, **config.operator.settings)
    solution = reconstruct(problem, seed=seed, monitor=monitor)
    seconds = time.perf_counter() - started
    comparable = full.reference is not None or config.mask is not None
    reference = problem.operator.reference_image(full) if comparable else None
    remarks = [*acquired.remarks, *solution.notes]
    if reference is not None and not own_reference and not full.fully_sampled:
        remarks.append(
            f"the reference is itself zero-padded: {100 / full.acceleration:.0f} % of its k-space was acquired"
        )
    if own_reference and (ratio := foreign_units(problem.operator, full)) is not None:
        remarks.append(
            f"the reference is {ratio:.3g} times as bright as what its k-space shows: PSNR, SSIM and NMSE mean nothing"
        )
    sampled = acquisition if config.mask is None else acquired
    return ReconstructedSlice(
        index,
        acquired,
        sampled.mask[0].expand(sampled.kspace.shape[-2:]),
        problem,
        solution,
        reference,
        _map_image(reconstruct, problem, seed),
        1.0 if images_measured else acceleration,
        seconds,
        tuple(remarks),
    )


def _map_image(reconstruct: Reconstruction, problem: InverseProblem, seed: int) -> Image | None:
    prior, sampler = reconstruct.prior, reconstruct.solver
    if not isinstance(sampler, Sampler) or prior is None or "energy" not in prior.provides:
        return None
    return reconstruct.changed(make_solver(MAP_SOLVER, robust=sampler.settings.robust))(problem, seed=seed).image


def store_slice(run: Run, done: ReconstructedSlice, writer: ResultWriter) -> tuple[SliceReport, tuple[str, ...]]:
    """Write a slice, cropped to what was asked for; return what it came to and all remarks on it."""
    crop = run.config.preparation.crop
    problem, solution, acquired = done.problem, done.solution, done.acquired
    image, adjoint = centre_crop(solution.image, crop), centre_crop(problem.zero_filled(), crop)
    reference, support = centre_crop(done.reference, crop), centre_crop(problem.operator.support, crop)
    images_measured = measures_images(run.config)
    samples = solution if isinstance(solution, Samples) else None
    metrics, unmeasured = _measured(image, reference, support)
    before = None if images_measured else _measured(adjoint, reference, support)[0]  # else it has no units of an image
    spread, uncertain = ({}, None) if samples is None else _spread(run, samples, acquired)
    report = SliceReport(
        done.index,
        int(solution.iterations[0]),
        bool(solution.converged[0]),
        done.seconds,
        done.acceleration,
        metrics,
        before,
        {} if samples is None else samples.numbers(),
    )
    maps = {**problem.operator.exported_maps(), "map": done.map_image, **spread}
    remarks = (*done.remarks, *filter(None, (unmeasured, uncertain)))
    noise = problem.noise_std
    writer.add(
        done.index,
        image[0],
        mask=done.mask,
        maps={
            **{name: centre_crop(value, crop)[0] for name, value in maps.items() if value is not None},
            ADJOINT if images_measured else ZERO_FILLED: adjoint[0],
            **({} if support is None else {SUPPORT: support[0]}),
        },
        history={
            **{name: value[:, 0] for name, value in solution.history.items()},
            **{name: value[..., 0] for name, value in (samples.traces.items() if samples else ())},
        },
        reference=None if reference is None else reference[0],
        metrics=metrics,
        samples=None if samples is None else centre_crop(samples.draws, crop)[:, :, 0],
        solution={
            **{name: getattr(report, name) for name in SOLVED},
            "scale": float(problem.scale[0]),
            "noise_std": float("nan") if noise is None else float(noise[0]),
            **report.sampling,
        },
        remarks=remarks,
        geometry=acquired.geometry,
        header=acquired.header,
    )
    return report, remarks


def _measured(image: Image, reference: Image | None, support: Support | None) -> tuple[Metrics | None, str | None]:
    """Return the metrics of an image; or why there are none: an empty slice at the end of a volume is worth keeping."""
    if reference is None:
        return None, None
    try:
        return evaluate(image, reference, support), None
    except InputError as error:
        return None, f"without metrics: {error}"


def stored_reports(path: Path, indices: Sequence[int]) -> list[tuple[SliceReport, list[str]]]:
    """Return what `store_slice` did, for slices of a result; of the zero-filled image it has no metrics."""
    result = read_result(path, only=indices, arrays=())
    reports = []
    for row, index in enumerate(result.slices):
        stored = (result.solution, result.metrics)
        solved, scores = ({name: float(values[row]) for name, values in part.items()} for part in stored)
        measured = scores and not math.isnan(scores["psnr"])
        report = SliceReport(
            index,
            int(solved["iterations"]),
            bool(solved["converged"]),
            solved["seconds"],
            solved["acceleration"],
            Metrics(**scores, region=result.region, data_range=result.data_range) if measured else None,
            sampling={n: v for n, v in solved.items() if n not in {*SOLVED, "scale", "noise_std"}},
        )
        reports.append((report, result.remarks.get(index, [])))
    return reports


def _spread(run: Run, samples: Samples, acquired: Acquisition) -> tuple[dict[str, Tensor], str | None]:
    """Return what samples say of the image, each ``(batch, …, y, x)``; and why there is no calibrated interval."""
    found = {
        "std": samples.std,
        "mean_magnitude": samples.mean_magnitude,
        "magnitude_std": samples.magnitude_std,
        "quantiles": samples.quantiles(QUANTILES).movedim(0, 1),
    }
    calibration, sampling = run.calibration, acquired.sampling
    if calibration is None:
        return found, None
    if samples.count < 2:
        return found, "no half_width_90: one sample has no standard deviation"
    if not calibration.applies(sampling):
        return found, f"no half_width_90: nothing was calibrated for sampling of this kind ({sampling})"
    return {**found, "half_width_90": calibration.half_width(samples, INTERVAL, sampling)}, None
