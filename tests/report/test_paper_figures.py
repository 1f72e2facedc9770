"""The figures of the paper: what is on them, and that nothing on them overlaps."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from mriinv import make_mask, make_problem, simulate_acquisition
from mriinv.errors import InputError
from mriinv.landscape import Landscape, landscape
from mriinv.metrics import psnr
from mriinv.numerics.images import display_limit
from mriinv.report import paper_figures
from mriinv.report.paper_figures import Comparison, Posterior, comparison_figure, figure2, figure5
from mriinv.testing.analytic import QuadraticPrior

SHAPE = (64, 48)
ZOOM = slice(20, 40), slice(16, 36)


@pytest.fixture(scope="module")
def scan() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reference, SENSE and zero-filled image of a simulated scan, and its mask."""
    acquisition = simulate_acquisition(shape=SHAPE, coils=4, coil_maps=True)
    mask = make_mask("poisson-2d", SHAPE, 4)
    problem = make_problem(acquisition.undersampled(mask))
    return acquisition.reference[0], problem.sense()[0], problem.back_projection()[0], mask[0]


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Collect the figures that are saved."""
    found: list[Figure] = []
    save = paper_figures.save_figure
    monkeypatch.setattr(
        paper_figures, "save_figure", lambda figure, path: (found.append(figure), save(figure, path))[1]
    )
    return found


def score(image: torch.Tensor, reference: torch.Tensor, support: torch.Tensor | None = None) -> str:
    return f"PSNR {float(psnr(image[None], reference[None], None if support is None else support[None])):.2f} dB"


def check_text(figure: Figure) -> None:
    """Check that no text overlaps another text or leaves the figure, and that no title lies on an image."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [axes.title for axes in figure.axes] + [axes.xaxis.label for axes in figure.axes]
    labels += [text for part in (figure, *figure.subfigs) for text in part.texts]
    boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
    assert boxes
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    for box, axes in itertools.product(boxes, figure.axes):
        assert not box.overlaps(axes.get_window_extent(renderer).padded(-1))
    for box in boxes:
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)
        assert figure.bbox.containsy(box.y1)


def check_png(path, figure: Figure) -> None:
    pixels = imread(path)
    assert pixels.shape[1::-1] == figure.canvas.get_width_height()
    assert np.ptp(pixels) > 0.9
    assert os.listdir(path.parent) == [path.name]


def test_comparison(scan, drawn, tmp_path):
    reference, sense, zero_filled, mask = scan
    support = reference.abs() > 0.1
    lines = make_mask("random-1d", SHAPE, 2)[0]
    shipped, long = "DEEPEN (weights that ship)", "a method with a name of more than $24$ characters"
    settings = [
        Comparison("(a) 4-fold, 2D mask", mask, reference, {shipped: sense, long: zero_filled}),
        Comparison("(b) lines, $5", lines, 3 * reference, {"DEEPEN": 3 * zero_filled, "ELDER": 3 * sense}, support),
    ]
    path = comparison_figure(tmp_path / "new" / "figure3.png", settings, ZOOM)
    (figure,) = drawn
    check_png(path, figure)
    check_text(figure)
    assert [part._suptitle.get_text() for part in figure.subfigs] == ["(a) 4-fold, 2D mask", "(b) lines, $5"]
    assert len(figure.axes) == 2 * 3 * 3
    first = [axes.get_title() for axes in figure.axes[:9]]
    assert first[:2] == ["original", f"{shipped}\n" + score(sense, reference)]
    assert first[2] == "a method with a name of…\n" + score(zero_filled, reference)
    assert first[3:] == ["", "", "", "mask", "error × 10", "error × 10"]
    assert figure.axes[10].get_title() == "DEEPEN\n" + score(zero_filled, reference, support)

    shown = [axes.images[0] for axes in figure.axes]
    np.testing.assert_allclose(shown[0].get_array(), reference.abs(), rtol=1e-6)
    np.testing.assert_allclose(shown[4].get_array(), sense[ZOOM].abs(), rtol=1e-6)
    assert np.array_equal(shown[6].get_array(), mask)
    assert np.array_equal(shown[15].get_array(), lines)
    np.testing.assert_allclose(shown[7].get_array(), 10 * (sense.abs() - reference.abs()).abs(), atol=1e-5)
    limits = [display_limit(reference), display_limit(3 * reference)]
    assert [image.get_clim()[1] for image in shown[:9]] == [limits[0]] * 6 + [1.0] + [limits[0]] * 2
    assert shown[9].get_clim() == (0, limits[1])
    assert [image.get_cmap().name for image in shown[:9]] == ["gray"] * 7 + ["inferno"] * 2
    (frame,) = figure.axes[0].patches
    assert frame.get_bbox().bounds == (15.5, 19.5, 20, 20)


def test_energies(scan, drawn, tmp_path):
    reference, sense, _, _ = scan
    generator = torch.Generator().manual_seed(0)
    found = landscape(QuadraticPrior(), reference, sense, generator=generator, points=5)
    flat = Landscape(found.gaussian, found.structural, 0 * found.values, (-0.1, -0.9), sense, found.noise, sense)
    rows = [("MuSE, $5 energy", found), ("DEEPEN energy", flat)]
    path = figure2(tmp_path / "figure2.png", reference, found.noise, found.structure, rows)
    (figure,) = drawn
    check_png(path, figure)
    check_text(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["original", "SENSE", "Gaussian noise z", "structural perturbation s"]
    assert titles[4] == "MuSE, $5 energy"
    assert titles[7:] == ["DEEPEN energy", "image at the minimum\n$α_s$ = -0.900, $α_z$ = -0.100", "error × 10"]
    for axes, (_, shown) in zip(figure.axes[4::3], rows, strict=True):
        (cross,) = axes.lines
        assert (cross.get_color(), cross.get_xydata().tolist()) == ("red", [list(shown.minimiser[::-1])])
        assert axes.get_xlim() == (-1, 1)
        assert axes.get_ylim() == pytest.approx((-0.1, 0.1))
    for axes in (figure.axes[1], figure.axes[8]):  # also where the first energy is lowest
        np.testing.assert_allclose(axes.images[0].get_array(), sense.abs(), rtol=1e-5, atol=1e-6)
    error = 10 * (sense.abs() - reference.abs()).abs()
    np.testing.assert_allclose(figure.axes[9].images[0].get_array(), error, atol=1e-5)


def test_posteriors(scan, drawn, tmp_path):
    reference, sense, zero_filled, _ = scan
    wide, narrow = (sense - reference).abs(), 0.1 * (sense - reference).abs()
    estimates = {"DEEPEN": (sense, narrow), "DPS": (zero_filled, wide)}
    blocks = [Posterior(label, reference, sense, "TV", estimates) for label in ("(a) 4-fold", "(b) 6-fold")]
    path = figure5(tmp_path / "figure5.png", blocks)
    (figure,) = drawn
    check_png(path, figure)
    check_text(figure)
    assert len(figure.axes) == 2 * (6 + 2)
    assert [axes.get_title() for axes in figure.axes[:8]] == [
        "TV MAP\n" + score(sense, reference),
        "DEEPEN MMSE\n" + score(sense, reference),
        "DEEPEN uncertainty",
        "original",
        "DPS MMSE\n" + score(zero_filled, reference),
        "DPS uncertainty",
        "",
        "",
    ]
    upper, lower = figure.axes[2].images[0], figure.axes[5].images[0]
    assert upper.get_clim() == (0, display_limit(narrow)) and lower.get_clim() == (0, display_limit(wide))
    np.testing.assert_allclose(upper.get_array(), narrow, rtol=1e-6)
    np.testing.assert_allclose(lower.get_array(), wide, rtol=1e-6)
    assert all(axes.get_ylabel() == "standard deviation" for axes in figure.axes[6:8])


def test_errors_leave_no_file(scan, tmp_path):
    reference, sense, _, mask = scan
    path = tmp_path / "figure.png"
    one = Comparison("a", mask, reference, {"DEEPEN": sense})
    for settings, field in (
        ([], "settings"),
        ([one._replace(images={})], "settings"),
        ([one, one._replace(images={"DEEPEN": sense, "ELDER": sense})], "settings"),
        ([one._replace(images={"DEEPEN": sense[:9]})], "shapes"),
        ([one._replace(mask=mask[None])], "mask"),
    ):
        with pytest.raises(InputError, match=field):
            comparison_figure(path, settings, ZOOM)
    with pytest.raises(InputError, match="zoom"):
        comparison_figure(path, [one], (slice(64, 70), slice(0, 9)))
    with pytest.raises(InputError, match="shapes"):
        figure2(path, reference, reference[None], sense, [])
    block = Posterior("a", reference, sense, "DEEPEN", {"DEEPEN": (sense, sense.abs())})
    for blocks in ([], [block]):
        with pytest.raises(InputError, match="two methods"):
            figure5(path, blocks)
    with pytest.raises(InputError, match="shapes"):
        figure5(path, [block._replace(estimates={"DEEPEN": (sense, sense.abs()), "DPS": (sense, sense[0])})])
    assert not list(tmp_path.iterdir())
