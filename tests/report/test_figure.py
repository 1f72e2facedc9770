from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from mriinv.data.masks import make_mask
from mriinv.data.readers import open_scan
from mriinv.errors import InputError
from mriinv.metrics import evaluate
from mriinv.numerics.fft import ifft2c
from mriinv.numerics.images import display_limit
from mriinv.report.figure import reconstruction_figure

SHAPE = (40, 30)


def image(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*SHAPE, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect every text that is put on a figure."""
    found: list[str] = []
    draw = Figure.text
    monkeypatch.setattr(Figure, "text", lambda self, x, y, s, **style: (found.append(s), draw(self, x, y, s, **style)))
    return found


def test_panels_and_caption_with_a_reference(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    path = tmp_path / "deep" / "slice.png"
    assert reconstruction_figure(path, image(0), image(1), image(2), std=image(3).abs(), name="deepen + mm-cg") == path
    assert os.listdir(path.parent) == ["slice.png"]
    pixels = imread(path)
    assert pixels.ndim == 3
    assert pixels.shape[1] > 5 * 250
    for title in ("zero-filled", "deepen + mm-cg", "reference", "error × 10", "standard deviation × 10"):
        assert title in found
    assert str(evaluate(image(1)[None], image(2)[None])) in found
    caption = " ".join(found[-1].split())
    assert "whole image, data range: maximum of the reference slice" in caption
    assert "99.5th percentile of the reference" in caption


def test_region_and_range_are_stated(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    support = torch.zeros(SHAPE, dtype=torch.bool)
    support[8:30, 8:20] = True
    reconstruction_figure(tmp_path / "a.png", image(0), image(1), image(2), support=support)
    assert "support, data range: maximum of the reference slice" in " ".join(found[-1].split())
    assert str(evaluate(image(1)[None], image(2)[None], support[None])) in found


def test_without_a_reference_nothing_is_scored(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    reconstruction_figure(
        tmp_path / "a.png", image(0), image(1), name="sense + cg", title="a$b$_{c.h5", sampling="as acquired"
    )
    assert "Sampling: as acquired." in " ".join(found[-1].split())
    assert "reference" not in found
    assert "a$b$_{c.h5" in found
    assert not any("PSNR" in text for text in found)


def test_a_window_has_a_width():
    image = torch.zeros(100, 100)
    image[0, 0] = 2  # fewer than 0.5 % of the pixels
    assert display_limit(image) == display_limit(0 * image) == display_limit(image / 0) == 1
    assert display_limit(torch.arange(1001.0)) == pytest.approx(995)


@pytest.mark.parametrize("bad", [torch.zeros(SHAPE), torch.full(SHAPE, torch.nan)])
def test_degenerate_images_are_still_drawn(tmp_path, bad):
    for name, shown in (("bad.png", bad), ("good.png", image(0))):
        reconstruction_figure(tmp_path / name, bad, shown)
    first, second = imread(tmp_path / "bad.png"), imread(tmp_path / "good.png")
    assert first.shape == second.shape
    panels = first[60:-60, :, :3]  # between title and caption
    assert np.ptp(panels, axis=2).max() < 0.1  # black or background
    middle = panels.shape[1] // 2
    assert panels[:, middle + 20 : -20].max() < 0.2 < second[60:-60, middle + 20 : -20, :3].max()


def test_errors_leave_no_file(tmp_path):
    with pytest.raises(InputError, match="shape"):
        reconstruction_figure(tmp_path / "a.png", image(0), image(1)[:5])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        reconstruction_figure(tmp_path / "file" / "a.png", image(0), image(1))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        reconstruction_figure(tmp_path / "folder.png", image(0), image(1))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_real_scan(tmp_path, shared_data):
    with open_scan(shared_data / "bart_full8" / "full.npz") as scan:
        acquisition = scan.read(0)
    mask = make_mask("poisson-2d", tuple(acquisition.kspace.shape[-2:]), 4)
    reference, zero_filled = (
        ifft2c(data.kspace).abs().square().sum(1).sqrt()[0] for data in (acquisition, acquisition.undersampled(mask))
    )
    path = reconstruction_figure(tmp_path / "bart.png", zero_filled, zero_filled, reference)
    assert path.stat().st_size > 50_000
