"""The figures of the paper from a benchmark; see `mriinv.report.paper_figures` for what they show."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mriinv.benchmark.cells import Record, make_case, prior_of, read_images
from mriinv.benchmark.plan import slug
from mriinv.benchmark.session import Benchmark, Wanted
from mriinv.errors import MriinvError, SettingsError
from mriinv.files import write_csv
from mriinv.landscape import case_landscape
from mriinv.report.paper_figures import Comparison, Posterior, comparison_figure, figure5
from mriinv.report.paper_figures import figure2 as draw_landscapes


class _View(NamedTuple):
    """What is seen of a slice under a mask: reference and support ``(y, x)``, the mask of k-space."""

    reference: Tensor
    support: Tensor | None
    mask: Tensor


def wanted(benchmark: Benchmark, number: int) -> list[Wanted]:
    """Return the evaluations behind a figure; those of figure 2 only say which trainings it needs."""
    plan, shown = benchmark.plan, benchmark.shown
    if getattr(plan, f"figure{number}", None) is None:
        raise SettingsError(f"the plan has no figure{number}")
    if number == 4 and plan.figure4 is not None:
        methods = benchmark.trained_for_each("figure4", plan.figure4.methods)
        return [shown(label, tested, trained) for trained, tested in plan.figure4.pairs for label in methods]
    if number == 5 and plan.figure5 is not None:
        return [
            shown(label, mask) for mask in plan.figure5.masks for label in (plan.figure5.map, *plan.figure5.samplers)
        ]
    chosen = getattr(plan, f"figure{number}")
    return [shown(label, mask) for mask in chosen.masks for label in benchmark.chosen(chosen.methods)]


def draw(benchmark: Benchmark, number: int) -> tuple[list[Path], list[Record]]:
    """Train and compute what a figure needs, and write it; return the paths, and a record for each evaluation."""
    if number == 2:
        return _landscapes(benchmark), []
    found = wanted(benchmark, number)
    records = benchmark.evaluate(found, keep=True)
    views: dict[str, _View] = {}
    images: dict[Wanted, dict[str, Tensor]] = {}
    for one, record in zip(found, records, strict=True):
        if one.mask not in views:
            views[one.mask] = _view(benchmark, one)
        if record["error"]:
            benchmark.say(f"figure {number}: {one.method}, {one.mask}: {record['error']}")
        else:
            images[one] = read_images(record["file"], views[one.mask].reference)
    path = benchmark.out / f"figure{number}.png"
    if number == 5:
        return [_posteriors(benchmark, path, views, images)], records
    settings: list[Comparison] = []
    for key in dict.fromkeys((one.trained_for if number == 4 else None, one.mask) for one in found):
        trained, mask = key
        some = [one for one in found if one.mask == mask and (number != 4 or one.trained_for == trained)]
        view = views[mask]
        label = f"trained for {trained}, tested on {mask}" if number == 4 else mask
        shown = {one.method: images[one]["image"] if one in images else _nothing(view) for one in some}
        settings.append(Comparison(_lettered(len(settings), label), view.mask, view.reference, shown, view.support))
    return [comparison_figure(path, settings, _zoom(benchmark, settings[0].reference))], records


def _landscapes(benchmark: Benchmark) -> list[Path]:
    chosen, found = benchmark.plan.figure2, wanted(benchmark, 2)
    assert chosen is not None
    benchmark.train(found)
    rows, paths = [], []
    for mask in chosen.masks:
        cells = [benchmark.case_cell(one.method, mask) for one in found if one.mask == mask]
        case = make_case(cells[0], benchmark.plan.test, benchmark.torch_device).against_truth()
        reference, energies = case.reference[0] / case.problem.scale, []
        for cell in cells:
            prior = prior_of(cell)
            if prior is None:
                raise SettingsError(f"figure2.methods: '{cell.method}' has no prior, so no energy")
            ranges = {"gaussian": chosen.gaussian, "structural": chosen.structural, "points": chosen.points}
            prior = prior.to(benchmark.torch_device)
            energy = case_landscape(prior, case, seed=benchmark.plan.seed, data=False, **ranges)
            energies.append((cell.method, energy))
            rows.append([cell.method, mask, *(f"{value:.6g}" for value in energy.minimiser)])
        path = benchmark.out / f"figure2-{slug(mask)}.png"
        first = energies[0][1]
        paths.append(draw_landscapes(path, reference, first.noise, first.structure, energies))
    write_csv(benchmark.out / "figure2.csv", [["method", "mask", "alpha_z", "alpha_s"], *rows])
    return [*paths, benchmark.out / "figure2.csv"]


def _posteriors(
    benchmark: Benchmark, path: Path, views: dict[str, _View], images: dict[Wanted, dict[str, Tensor]]
) -> Path:
    chosen = benchmark.plan.figure5
    assert chosen is not None
    blocks: list[Posterior] = []
    for mask in chosen.masks:
        estimates = {}
        for label in chosen.samplers:
            found = images.get(benchmark.shown(label, mask), {})
            if "std" not in found:
                raise MriinvError(f"figure 5: no samples of '{label}', {mask}")
            estimates[label.removesuffix(" MMSE")] = found["image"], found["std"].abs()
        point = images.get(benchmark.shown(chosen.map, mask))
        if point is None:
            raise MriinvError(f"figure 5: no image of '{chosen.map}', {mask}")
        view, label = views[mask], _lettered(len(blocks), mask)
        blocks.append(Posterior(label, view.reference, point["image"], chosen.map, estimates, view.support))
    return figure5(path, blocks)


def _view(benchmark: Benchmark, one: Wanted) -> _View:
    cell = benchmark.case_cell(one.method, one.mask, one.trained_for)
    case = make_case(cell, benchmark.plan.test, benchmark.torch_device)
    _, reference, support = case.cropped(case.reference)
    sampled = (case.problem.data.abs().sum(1) > 0)[0].cpu()
    return _View(reference[0].cpu(), None if support is None else support[0].cpu(), sampled)


def _nothing(view: _View) -> Tensor:
    """Return the empty image that stands for a failure."""
    return torch.full_like(view.reference, float("nan"))


def _lettered(number: int, label: str) -> str:
    return f"({chr(ord('a') + number)}) {label}"


def _zoom(benchmark: Benchmark, image: Tensor) -> tuple[slice, slice]:
    top, bottom, left, right = benchmark.plan.zoom
    rows, columns = image.shape
    return slice(int(top * rows), int(bottom * rows)), slice(int(left * columns), int(right * columns))
