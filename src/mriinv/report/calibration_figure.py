"""What a calibration came to: reliability, z-scores, and standard deviation beside error, by mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mriinv.report.figure import save_figure
from mriinv.uncertainty import Deviations, coverage, error_by_std, histogram

if TYPE_CHECKING:
    from mriinv.calibration_fit import Fit

WIDTH, HEIGHT, DPI = 4.2, 3.6, 110  # inches per panel, dots per inch
CURVE = tuple(level / 100 for level in range(5, 100, 5))
Z_EDGES = torch.linspace(-5, 5, 51)

Panel = Callable[[Axes, Sequence[Deviations], str, str, str], None]


def calibration_figure(path: str | Path, fit: Fit) -> Path:
    """Draw a row before and one after the calibration, a line per mask; masks that were not fitted on are dashed.

    Reliability: share of pixels inside their Gaussian interval over its level, and as dots inside the one that was
    fitted (κ). Normalised errors: their density, and
    that of Student's t, which Gaussian magnitudes give. Standard deviation and error: root mean squares in groups of
    pixels with similar standard deviation, in units of the 99th percentile of the reference.

    Parameters
    ----------
    path : the PNG, written whole or not at all
    fit : the calibration
    """
    figure = Figure(figsize=(3 * WIDTH, 2 * HEIGHT), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, 3)
    panels: tuple[Panel, ...] = (_reliability, _z_scores, _error_by_std)
    for row, name, errors in zip(grid, ("before", "after"), (fit.before, fit.after), strict=True):
        draws = next(iter(errors.values()))[0].draws
        student = torch.distributions.StudentT(draws - 1.0).log_prob(Z_EDGES).exp()
        density = "normal" if draws > 100 else f"Student, {draws} draws"
        row[0].plot([0, 1], [0, 1], "k:", linewidth=1)
        row[1].semilogy(Z_EDGES, student, "k:", linewidth=1, label=density)
        for number, (mask, slices) in enumerate(errors.items()):
            style = "-" if mask in fit.fitted else "--"
            label = mask if mask in fit.fitted else f"{mask} (test)"
            for axes, panel in zip(row, panels, strict=True):
                panel(axes, slices, label, style, f"C{number % 10}")
        row[2].axline((0, 0), slope=1, color="k", linestyle=":", linewidth=1)
        for axes, title, x, y in (
            (row[0], "reliability", "level of the interval", "share of pixels inside"),
            (row[1], "normalised errors", "z", "density"),
            (row[2], "standard deviation and error", "predicted rms error", "rms error"),
        ):
            axes.set_title(f"{name}: {title}", fontsize=9)
            axes.set_xlabel(x, fontsize=8)
            axes.set_ylabel(y, fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=6)
        row[1].set_ylim(1e-4, 2)
    for number, one in enumerate(fit.coverage()):
        if one.conformal:
            grid[1][0].plot(one.conformal.keys(), one.conformal.values(), "o", color=f"C{number % 10}", markersize=4)
    if fit.scale:
        grid[1][0].plot([], [], "ko", markersize=4, label="with κ")
        grid[1][0].legend(fontsize=6)
    return save_figure(figure, Path(path))


def _reliability(axes: Axes, slices: Sequence[Deviations], label: str, style: str, colour: str) -> None:
    axes.plot(CURVE, [coverage(slices, level) for level in CURVE], style, color=colour, linewidth=1, label=label)


def _z_scores(axes: Axes, slices: Sequence[Deviations], label: str, style: str, colour: str) -> None:
    axes.stairs(histogram(slices, Z_EDGES), Z_EDGES, linestyle=style, color=colour, linewidth=1, label=label)


def _error_by_std(axes: Axes, slices: Sequence[Deviations], label: str, style: str, colour: str) -> None:
    std, error = error_by_std(slices)
    axes.plot(std, error, style, color=colour, marker=".", linewidth=1, label=label)
