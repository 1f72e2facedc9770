"""Curves of a training from its log."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from mriinv.errors import InputError
from mriinv.report.training_figure import training_figure

LOG = """step,seconds,loss,gap,gradient_norm,score,psnr/scan 1d,truth_gap/scan 1d
10,1.0,2.5,,3.0,,,
20,2.0,-1.5,0.1,2.0,30.0,30.0,0.4
30,3.0,nan,0.2,1.0,32.0,32.0,0.3
40,4.0,0.5,0.3,0.5,31.0,31.0,0.2
"""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr("mriinv.report.training_figure.save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_columns_become_curves_and_the_best_validation_is_marked(tmp_path, drawn):
    (tmp_path / "log.csv").write_text(LOG)
    training_figure(tmp_path / "x.png", tmp_path / "log.csv")
    loss, gap, gradients, psnr, truth = drawn[0].axes
    (curve,) = loss.lines
    assert curve.get_xydata().tolist() == [[10, 2.5], [20, -1.5], [40, 0.5]] and loss.get_yscale() == "symlog"
    assert gap.lines[0].get_xydata().tolist() == [[20, 0.1], [30, 0.2], [40, 0.3]]
    assert gradients.get_yscale() == "log"
    mean, best, case = psnr.lines
    assert mean.get_label() == "mean" and case.get_label() == "scan 1d"
    assert best.get_xydata().tolist() == [[30, 32]] and best.get_label() == "best: 32.00 dB after 30"
    assert truth.lines[0].get_ydata().tolist() == [0.4, 0.3, 0.2]


def test_the_file_is_a_png(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    assert training_figure(tmp_path / "x.png", tmp_path / "log.csv").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "x.png"}


@pytest.mark.parametrize(
    "content", [None, "", "step,loss\n", "step,loss\n1,two\n", "step,loss\nx,2\n", "loss\n2\n", "a\0b"]
)
def test_bad_logs(tmp_path, content):
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    with pytest.raises(InputError, match=r"log\.csv"):
        training_figure(tmp_path / "x.png", tmp_path / "log.csv")
    assert not (tmp_path / "x.png").exists()
