"""The figures of the paper from arrays: energies (2), reconstructions (3 and 4), posterior samples (5).

Images are complex or real ``(y, x)``, those of one block in the same units; magnitudes are drawn in one grey window,
from 0 to the 99.5th percentile of the reference of the block. Errors are differences of magnitudes, as in the metrics.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor

from mriinv.errors import InputError
from mriinv.landscape import Landscape
from mriinv.metrics import psnr
from mriinv.numerics.images import display_limit, magnitude
from mriinv.report.figure import ERROR_SCALE, save_figure

DPI = 110
FONT = 9
PANEL, LABEL, TITLE = 2.1, 0.3, 0.42  # inches: width of a panel, height of a block's label and of two lines of title
LONGEST_NAME = 26  # characters that fit above a panel
ERROR_COLOURS, UNCERTAINTY_COLOURS = "inferno", "viridis"
CONTOURS = 16

Zoom = tuple[slice, slice]


class Comparison(NamedTuple):
    """One acquisition setting, the same slice reconstructed by several methods.

    Attributes
    ----------
    label : such as ``(a) four-fold, 2D mask``
    mask : bool ``(y, x)``, or ``(1, x)`` for lines
    reference : the original
    images : reconstructions by the name of the method
    support : bool ``(y, x)``, region of the PSNR; None for the whole image
    """

    label: str
    mask: Tensor
    reference: Tensor
    images: Mapping[str, Tensor]
    support: Tensor | None = None


class Posterior(NamedTuple):
    """One acquisition setting, its posterior sampled by two methods.

    Attributes
    ----------
    label : such as ``(a) four-fold, 2D mask``
    reference : the original
    map_image, map_method : MAP estimate, and of what
    estimates : by the name of the method, the MMSE estimate and the standard deviation over the samples
    support : bool ``(y, x)``, region of the PSNR; None for the whole image
    """

    label: str
    reference: Tensor
    map_image: Tensor
    map_method: str
    estimates: Mapping[str, tuple[Tensor, Tensor]]
    support: Tensor | None = None


def figure2(
    path: str | Path,
    reference: Tensor,
    noise: Tensor,
    structure: Tensor,
    rows: Sequence[tuple[str, Landscape]],
) -> Path:
    """Draw original, SENSE and perturbations, and per energy its contours, the image at the minimum and its error.

    SENSE is the original plus `structure`. The perturbations have windows of their own. Contours are closer near the
    minimum, equidistant for a quadratic energy; a red cross marks the minimiser.

    Raises
    ------
    InputError : shapes that differ, a file that cannot be written
    """
    _same_shapes(reference, noise, structure, *(found.image for _, found in rows))
    aspect, limit = _aspect(reference), display_limit(reference)
    height = (1 + len(rows)) * (PANEL * aspect + TITLE) + LABEL
    figure = _figure(4 * PANEL + LABEL, height)
    grid = figure.add_gridspec(1 + len(rows), 4)
    top = [figure.add_subplot(grid[0, column]) for column in range(4)]
    _show(top[0], magnitude(reference), limit, "original")
    _show(top[1], magnitude(reference + structure), limit, "SENSE")
    _show(top[2], magnitude(noise), display_limit(noise), "Gaussian noise z")
    _show(top[3], magnitude(structure), display_limit(structure), "structural perturbation s")
    for row, (label, found) in enumerate(rows, start=1):
        left, middle, right = (figure.add_subplot(grid[row, columns]) for columns in (slice(2), 2, 3))
        _contours(left, found, _short(label))
        left.set_box_aspect(aspect / 2)
        alpha_z, alpha_s = found.minimiser
        _show(middle, magnitude(found.image), limit)
        at_minimum = f"image at the minimum\n$α_s$ = {_number(alpha_s)}, $α_z$ = {_number(alpha_z)}"
        middle.set_title(at_minimum, fontsize=FONT, parse_math=True)
        _show_error(right, found.image, reference, limit)
    return save_figure(figure, Path(path))


def comparison_figure(path: str | Path, settings: Sequence[Comparison], zoom: Zoom) -> Path:
    """Draw per setting the images, an enlarged detail and the errors; a column per method (paper, Fig. 3 and 4).

    The first column holds the original, its detail, where the detail is framed, and the mask.

    Parameters
    ----------
    settings : one block each, from the top; with the same number of methods
    zoom : rows and columns of the detail

    Raises
    ------
    InputError : shapes that differ within a setting, a mask that is not 2-D, a detail outside the image, no method or
        numbers of methods that differ, a file that cannot be written
    """
    counts = {len(setting.images) for setting in settings}
    if len(counts) != 1 or 0 in counts:
        raise InputError("figure", "settings", f"{sorted(counts)} methods", "as many for each setting, one or more")
    for setting in settings:
        _same_shapes(setting.reference, *setting.images.values())
        if setting.mask.ndim != 2:
            raise InputError("figure", "mask", f"shape {tuple(setting.mask.shape)}", "(y, x)")
        if setting.reference[zoom].numel() == 0:
            raise InputError("figure", "zoom", str(zoom), f"a part of {tuple(setting.reference.shape)} pixels")
    ratios = [[_aspect(image) for image in (s.reference, s.reference[zoom], s.reference)] for s in settings]
    heights = [LABEL + 2 * TITLE + PANEL * sum(ratio) for ratio in ratios]
    figure = _figure((1 + counts.pop()) * PANEL, sum(heights))
    for block, setting, ratio in zip(_blocks(figure, heights), settings, ratios, strict=True):
        block.suptitle(setting.label, fontsize=FONT + 2, parse_math=False)
        _compare(block.subplots(3, 1 + len(setting.images), height_ratios=ratio), setting, zoom)
    return save_figure(figure, Path(path))


def figure5(path: str | Path, blocks: Sequence[Posterior]) -> Path:
    """Draw per setting a row for either method: MAP or original, MMSE, and the uncertainty, each on a scale of its own.

    The paper shows variances; standard deviations have the units of the image.

    Raises
    ------
    InputError : shapes that differ within a block, other than two methods, no block, a file that cannot be written
    """
    if not blocks or any(len(block.estimates) != 2 for block in blocks):
        raise InputError("figure", "blocks", f"{[len(b.estimates) for b in blocks]} methods", "blocks of two methods")
    for block in blocks:
        _same_shapes(block.reference, block.map_image, *(image for pair in block.estimates.values() for image in pair))
    heights = [LABEL + 2 * (TITLE + PANEL * _aspect(block.reference)) for block in blocks]
    figure = _figure(3 * PANEL + 2 * LABEL, sum(heights))
    for part, block in zip(_blocks(figure, heights), blocks, strict=True):
        part.suptitle(block.label, fontsize=FONT + 2, parse_math=False)
        _sampled(part, block)
    return save_figure(figure, Path(path))


def _compare(axes: np.ndarray, setting: Comparison, zoom: Zoom) -> None:
    reference, limit = setting.reference, display_limit(setting.reference)
    _show(axes[0, 0], magnitude(reference), limit, "original")
    axes[0, 0].add_patch(_frame(reference, zoom))
    _show(axes[1, 0], magnitude(reference[zoom]), limit)
    _show(axes[2, 0], magnitude(setting.mask.float()), 1.0, "mask")
    axes[2, 0].set(aspect="auto", box_aspect=_aspect(reference))  # lines, and k-space wider than the image
    for column, (method, image) in zip(axes[:, 1:].T, setting.images.items(), strict=True):
        _show(column[0], magnitude(image), limit, _scored(method, image, setting))
        _show(column[1], magnitude(image[zoom]), limit)
        _show_error(column[2], image, reference, limit)


def _sampled(block: SubFigure, posterior: Posterior) -> None:
    axes, limit = block.subplots(2, 3), display_limit(posterior.reference)
    map_label = _scored(f"{posterior.map_method} MAP", posterior.map_image, posterior)
    _show(axes[0, 0], magnitude(posterior.map_image), limit, map_label)
    _show(axes[1, 0], magnitude(posterior.reference), limit, "original")
    for row, (method, (mmse, std)) in zip(axes, posterior.estimates.items(), strict=True):
        _show(row[1], magnitude(mmse), limit, _scored(f"{method} MMSE", mmse, posterior))
        highest = display_limit(std)
        colours = _show(row[2], magnitude(std), highest, f"{_short(method)} uncertainty", UNCERTAINTY_COLOURS)
        block.colorbar(colours, ax=row[2], label="standard deviation", shrink=0.9)


def _figure(width: float, height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def _blocks(figure: Figure, heights: Sequence[float]) -> list[SubFigure]:
    return list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])


def _show(axes: Axes, values: np.ndarray, limit: float, title: str = "", colours: str = "gray") -> AxesImage:
    axes.set_axis_off()
    axes.set_title(title, fontsize=FONT, parse_math=False)
    return axes.imshow(values, cmap=colours, vmin=0, vmax=limit)


def _show_error(axes: Axes, image: Tensor, reference: Tensor, limit: float) -> None:
    error = np.abs(magnitude(image) - magnitude(reference))
    _show(axes, ERROR_SCALE * error, limit, f"error × {ERROR_SCALE}", ERROR_COLOURS)


def _contours(axes: Axes, found: Landscape, title: str) -> None:
    values = found.values.cpu().numpy()
    lowest, span = values.min(), np.ptp(values) or 1.0
    levels = lowest + span * np.linspace(0, 1, CONTOURS) ** 2
    grid = found.structural.cpu().numpy(), found.gaussian.cpu().numpy(), values
    axes.contourf(*grid, levels, cmap="viridis", norm=PowerNorm(0.5, lowest, lowest + span))
    axes.contour(*grid, levels[1:-1], colors="white", linewidths=0.4)
    alpha_z, alpha_s = found.minimiser
    axes.plot(alpha_s, alpha_z, "x", color="red", markersize=9, markeredgewidth=2, clip_on=False)
    axes.set_title(title, fontsize=FONT, parse_math=False)
    axes.set_xlabel("$α_s$", fontsize=FONT)
    axes.set_ylabel("$α_z$", fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.locator_params(nbins=5)


def _frame(image: Tensor, zoom: Zoom) -> Rectangle:
    (top, bottom, _), (left, right, _) = (part.indices(size) for part, size in zip(zoom, image.shape, strict=True))
    return Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="yellow")


def _scored(name: str, image: Tensor, block: Comparison | Posterior) -> str:
    support = None if block.support is None else block.support[None]
    return f"{_short(name)}\nPSNR {float(psnr(image[None], block.reference[None], support)):.2f} dB"


def _short(name: str) -> str:
    return textwrap.shorten(name, LONGEST_NAME, placeholder="…")


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _aspect(image: Tensor) -> float:
    return image.shape[0] / image.shape[1]


def _same_shapes(*images: Tensor) -> None:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError("figure", "images", f"shapes {shapes}", "one shape (y, x)")
