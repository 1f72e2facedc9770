"""One PNG per slice: what was there, what came out, and how far it is from the reference."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from mriinv.errors import InputError
from mriinv.files import atomic_path
from mriinv.metrics import evaluate
from mriinv.numerics.images import DISPLAY_PERCENTILE, display_limit, magnitude

ERROR_SCALE = 10  # errors and standard deviations are drawn times this
BACKGROUND, TEXT, FAINT = "#101014", "#f2f2f2", "#a8a8b0"  # dark: the air around the head fades into it
PANEL, GAP, LINE, CAPTION_LINE = 2.8, 0.08, 0.24, 0.17  # inches
LONGEST_NAME = 32  # characters that fit above a panel
CHARACTERS_PER_INCH = 15
DPI = 150


@dataclass(frozen=True)
class _Panel:
    title: str
    values: np.ndarray
    numbers: str = ""
    colours: str = "gray"


def reconstruction_figure(
    path: str | Path,
    zero_filled: Tensor | None,
    reconstruction: Tensor,
    reference: Tensor | None = None,
    *,
    std: Tensor | None = None,
    support: Tensor | None = None,
    name: str = "reconstruction",
    title: str = "",
    sampling: str = "",
) -> Path:
    """Draw magnitudes side by side in one grey window, and write them as PNG.

    The window runs from 0 to the 99.5th percentile of the reference, or of the reconstruction when there is none.
    With a reference follow the reference itself, the error of the magnitudes times `ERROR_SCALE` in the same window,
    and PSNR and SSIM, whose region and data range stand in the caption.

    Parameters
    ----------
    path : the PNG, written whole or not at all
    zero_filled, reconstruction, reference : complex or real ``(y, x)``, in the same units; no panel for None
    std : real ``(y, x)``, standard deviation over posterior samples, drawn times `ERROR_SCALE`
    support : bool ``(y, x)``, region of the metrics; None for the whole image
    name : what to call the reconstruction, such as ``deepen + mm-cg``
    title : a line above the panels, such as the file and the slice
    sampling : what was measured, such as ``poisson-2d, acceleration 4.00``, for the caption

    Raises
    ------
    InputError : the file cannot be written, or the shapes differ
    """
    given = [image for image in (zero_filled, reference, std) if image is not None]
    if reconstruction.ndim != 2 or any(image.shape != reconstruction.shape for image in given):
        shapes = [tuple(image.shape) for image in (reconstruction, *given)]
        raise InputError("figure", "images", f"shapes {shapes}", "one shape (y, x)")
    name = textwrap.shorten(name, LONGEST_NAME, placeholder="…")
    window = display_limit(reconstruction if reference is None else reference)
    shown = {name: reconstruction} if zero_filled is None else {"zero-filled": zero_filled, name: reconstruction}
    panels = [_Panel(label, magnitude(image)) for label, image in shown.items()]
    whose = name if reference is None else "the reference"
    caption = f"Magnitudes; every panel: window 0 to the {DISPLAY_PERCENTILE:g}th percentile of {whose}."
    if reference is not None:
        scored = [
            evaluate(image[None], reference[None], None if support is None else support[None])
            for image in shown.values()
        ]
        panels = [_Panel(p.title, p.values, str(m)) for p, m in zip(panels, scored, strict=True)]
        difference = np.abs(panels[-1].values - magnitude(reference))
        panels += [
            _Panel("reference", magnitude(reference)),
            _Panel(f"error × {ERROR_SCALE:g}", ERROR_SCALE * difference, f"of {name}", "inferno"),
        ]
        caption += f" PSNR and SSIM: {scored[0].region}, data range: {scored[0].data_range}."
    if sampling:
        caption += f" Sampling: {sampling}."
    if std is not None:
        panels.append(_Panel(f"standard deviation × {ERROR_SCALE:g}", ERROR_SCALE * magnitude(std), "", "inferno"))
    return save_figure(_draw(panels, window, caption, title), Path(path))


def _draw(panels: list[_Panel], window: float, caption: str, title: str) -> Figure:
    """Lay the panels out in inches, so that text and images keep their size whatever the matrix."""
    y, x = panels[0].values.shape
    aspect = min(max(y / x, 0.4), 2.5)
    width = len(panels) * (PANEL + GAP) + GAP
    lines = textwrap.wrap(caption, int(CHARACTERS_PER_INCH * width))
    below = len(lines) * CAPTION_LINE + 2 * GAP
    numbers = LINE if any(panel.numbers for panel in panels) else 0
    height = below + PANEL * aspect + GAP + numbers + LINE + (LINE + 2 * GAP if title else 0)
    upper = (height - 2 * GAP) / height
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=BACKGROUND)
    for column, panel in enumerate(panels):
        left = GAP + column * (PANEL + GAP)
        axes = figure.add_axes((left / width, below / height, PANEL / width, PANEL * aspect / height))
        axes.imshow(panel.values, cmap=panel.colours, vmin=0, vmax=window, interpolation="nearest")
        axes.set_axis_off()
        centre, base = (left + PANEL / 2) / width, below + PANEL * aspect + GAP
        _write(figure, centre, (base + numbers) / height, panel.title, 11, TEXT, ha="center")
        _write(figure, centre, base / height, panel.numbers, 9, FAINT, ha="center")
    if title:
        _write(figure, GAP / width, upper, title, 11, TEXT, va="top", weight="bold")
    _write(figure, GAP / width, GAP / height, "\n".join(lines), 8, FAINT, linespacing=1.3)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, size: float, colour: str, **style: Any) -> None:
    # file names may hold dollar signs, which are not mathematics
    figure.text(x, y, text, **{"va": "bottom", "fontsize": size, "color": colour, "parse_math": False, **style})


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="auto")
    return path
