"""The curves of a training, from its log."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mriinv.errors import InputError
from mriinv.report.figure import save_figure

WIDTH, HEIGHT, COLUMNS, DPI = 5.2, 3.4, 2, 110  # inches per panel, panels side by side, dots per inch
LONGEST_CURVE_WITH_DOTS = 60
Curve = tuple[list[int], list[float]]


@dataclass(frozen=True)
class _Panel:
    """A diagram of the columns that have one of `names`, or begin with one that ends with a slash."""

    title: str
    names: tuple[str, ...]
    scale: str = "linear"

    def chosen(self, curves: dict[str, Curve]) -> dict[str, Curve]:
        groups = tuple(name for name in self.names if name.endswith("/"))
        return {name: curve for name, curve in curves.items() if name in self.names or name.startswith(groups)}


PANELS = (
    _Panel("loss", ("loss", "dsm"), "symlog"),
    _Panel("energy gap E(true) − E(fake), per pixel, over T", ("gap",)),
    _Panel("gradient norm of the weights, rms of ∇C along the chain", ("gradient_norm", "chain_gradient"), "log"),
    _Panel("largest curvature of the energy at fake images", ("curvature",)),
    _Panel("validation: PSNR (dB) of the converged image", ("score", "psnr/")),
    _Panel("PSNR (dB) lost since the best iterate", ("psnr_lost/",)),
    _Panel("truth gap C(reference)/C(MAP) − 1", ("truth_gap/",)),
)


def training_figure(path: str | Path, log: str | Path) -> Path:
    """Draw the columns of a ``log.csv`` over the updates, the best validation marked.

    Parameters
    ----------
    path : the PNG, written whole or not at all
    log : the CSV file of a training; diagrams of which it has no column are left out

    Raises
    ------
    InputError : the log is missing, has no rows, or holds something else than numbers
    """
    curves = _curves(Path(log))
    panels = [(panel, found) for panel in PANELS if (found := panel.chosen(curves))]
    if not panels:
        raise InputError(log, "columns", ", ".join(curves) or "none", "the loss of a training")
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(COLUMNS * WIDTH, rows * HEIGHT), dpi=DPI, layout="constrained")
    axes: Axes | None = None
    for number, (panel, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number, sharex=axes)
        _draw(axes, panel, found)
        if number > len(panels) - COLUMNS:
            axes.set_xlabel("updates", fontsize=8)
    return save_figure(figure, Path(path))


def _curves(log: Path) -> dict[str, Curve]:
    """Return steps and values of every column; rows without a value of it, or with one that is not finite, are not."""
    curves: dict[str, Curve] = {}
    try:
        with open(log, newline="") as stream:
            for row in csv.DictReader(stream):
                for name, text in row.items():
                    if text and math.isfinite(value := float(text)):
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(int(row["step"]))
                        values.append(value)
    except OSError as error:
        raise InputError(log, "", error.strerror or "a file that cannot be read", "the log of a training") from None
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(log, "", f"a damaged row ({error})", "the log of a training") from None
    return curves


def _draw(axes: Axes, panel: _Panel, curves: dict[str, Curve]) -> None:
    for name, (steps, values) in curves.items():
        mean = name == "score"
        marker = "." if len(steps) <= LONGEST_CURVE_WITH_DOTS else ""
        label = "mean" if mean else name.split("/", 1)[-1]
        (line,) = axes.plot(steps, values, marker=marker, linewidth=2 if mean else 1, label=label)
        if mean:
            best = max(range(len(values)), key=values.__getitem__)
            label = f"best: {values[best]:.2f} dB after {steps[best]}"
            axes.plot(steps[best], values[best], "*", markersize=12, color=line.get_color(), label=label)
    if panel.scale == "symlog":
        axes.set_yscale("symlog", linthresh=0.1)
    else:
        axes.set_yscale(panel.scale)
    axes.set_title(panel.title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
