from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mriinv.data.masks import (
    MASKS,
    MaskKind,
    draw_mask,
    equispaced_line_mask,
    make_mask,
    poisson_disc_mask,
    random_line_mask,
)
from mriinv.errors import InputError, UnknownNameError

SHAPES = [(64, 64), (65, 97), (230, 180), (320, 256), (399, 257)]
LINES = ["random-1d", "equispaced-1d"]


def acceleration(mask: torch.Tensor) -> float:
    return mask.numel() / int(mask.sum())


@pytest.mark.parametrize("wanted", [1, 2, 4, 6.5, 8, 12])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MASKS)
def test_acceleration_includes_the_centre(name, shape, wanted):
    mask = make_mask(name, shape, wanted, seed=3)
    assert mask.dtype == torch.bool
    assert mask.shape == (1, shape[0] if name == "poisson-2d" else 1, shape[1])
    assert int(mask.sum()) == round(mask.numel() / wanted)
    if mask.numel() / wanted > 25:  # with fewer lines, 2 % is less than half a line
        assert acceleration(mask) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "width"), [("poisson-2d", 12), ("random-1d", 7), ("equispaced-1d", 8)])
def test_calibration_is_sampled_and_centred(name, width, shape):
    mask = make_mask(name, shape, 4, width, seed=1)[0]
    centre = tuple(slice(n // 2 - width // 2, n // 2 - width // 2 + width) for n in mask.shape)
    if name == "poisson-2d":
        assert mask[centre].all()
    else:
        assert mask[0, centre[1]].all()


def test_default_calibration():
    mask = make_mask("poisson-2d", (320, 320), 4)[0]
    assert mask[148:172, 148:172].all()
    assert make_mask("random-1d", (320, 320), 4)[0, 0, 147:173].all()  # 26 lines, 8 %
    assert make_mask("random-1d", (180, 180), 4)[0, 0, 82:98].all()  # 16 lines at least
    assert acceleration(make_mask("poisson-2d", (64, 64), 12)) == pytest.approx(12, rel=0.02)  # 24² would not fit


@pytest.mark.parametrize("extent", [(0, 96, 11, 70), (0, 61, 0, 80), (3, 91, 30, 80)])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_for_padded_data_has_the_acceleration_of_the_rectangle(name, extent):
    top, bottom, left, right = extent
    mask = draw_mask(MaskKind(name, 3.0, 8), (96, 80), extent, 5)
    inside = mask[:, slice(top, bottom) if name == "poisson-2d" else slice(None), left:right]
    assert mask.shape == (1, 96 if name == "poisson-2d" else 1, 80)
    assert int(mask.sum()) == int(inside.sum()) == round(inside.numel() / 3)
    assert mask[:, slice(44, 52) if name == "poisson-2d" else slice(None), 36:44].all()  # the centre of the grid


def test_a_mask_for_data_without_padding_is_the_usual_one():
    assert torch.equal(
        draw_mask(MaskKind("poisson-2d", 3.0), (96, 80), (0, 96, 0, 80), 5),
        make_mask("poisson-2d", (96, 80), 3, seed=5),
    )


@pytest.mark.parametrize("name", MASKS)
def test_a_centre_beyond_the_padding_is_refused(name):
    with pytest.raises(InputError, match="acs: found 24"):
        draw_mask(MaskKind(name, 3.0, 24), (96, 80), (0, 96, 34, 80), 5)


@pytest.mark.parametrize("name", MASKS)
def test_seed_decides(name):
    first, again, other = (make_mask(name, (96, 80), 3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("wanted", [2, 4, 10])
def test_poisson_density_decreases_and_keeps_corners(wanted):
    y, x = 256, 200
    mask = np.mean([make_mask("poisson-2d", (y, x), wanted, 0, seed)[0].numpy() for seed in range(4)], axis=0)
    rows, columns = np.meshgrid((np.arange(y) - y // 2) / y, (np.arange(x) - x // 2) / x, indexing="ij")
    k = np.sqrt(2 * (rows**2 + columns**2))
    density = [mask[(k >= low) & (k < low + 0.1)].mean() for low in np.arange(0, 0.95, 0.1)]
    assert (np.diff(density) < 0.01).all()
    assert density[-1] > 0
    assert density[0] > 1.5 * density[-1]
    for corner in (mask[:20, :20], mask[:20, -20:], mask[-20:, :20], mask[-20:, -20:]):
        assert corner.any()


def test_poisson_keeps_its_distance():
    y = x = 128
    mask = poisson_disc_mask((y, x), 8, torch.Generator().manual_seed(0), acs=0)[0].numpy()
    points = np.argwhere(mask) - y // 2
    radius = np.sqrt(2) * np.linalg.norm(points / y, axis=1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    outer, inner = radius > 0.8, radius < 0.1
    assert distance[outer].min() >= 2  # neighbours exclude one another where the density is low
    assert distance[inner].min() == 1
    # a pair is at least 0.5 + s·k - 0.5 apart, with s about 3 here and k of the inner one
    assert (distance.min(1) / np.maximum(radius, 0.2))[radius > 0.2].min() > 2


def test_random_lines_are_uniform_outside_the_centre():
    counts = sum(
        random_line_mask((8, 40), 2, torch.Generator().manual_seed(seed), 4)[0, 0].double() for seed in range(400)
    )
    outer = torch.cat([counts[:18], counts[22:]]) / 400
    assert outer.mean().item() == pytest.approx(16 / 36)
    assert (outer - 16 / 36).abs().max() < 5 * math.sqrt(16 / 36 * 20 / 36 / 400)


@pytest.mark.parametrize("acs", [0, 26])
def test_equispaced_lines_are_equally_spaced(acs):
    mask = equispaced_line_mask((8, 320), 4, torch.Generator().manual_seed(2), acs)[0, 0]
    gaps = torch.diff(torch.nonzero(mask[: 160 - acs // 2])[:, 0])
    spacing = (320 - acs) / (80 - acs)
    assert gaps.min() >= math.floor(spacing)
    assert gaps.max() <= math.ceil(spacing)


def test_a_mask_is_the_callers_own():
    kind = MaskKind("random-1d", 2.0)
    first = draw_mask(kind, (32, 32))
    kept = first.clone()
    first.zero_()
    assert torch.equal(draw_mask(kind, (32, 32)), kept)


def test_unknown_name_lists_close_ones():
    with pytest.raises(UnknownNameError, match="poisson-2d"):
        make_mask("poison-2d", (64, 64), 4)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("wanted", [0.5, 0, -4, math.nan, math.inf, 1e9])
def test_impossible_acceleration(name, wanted):
    with pytest.raises(InputError, match="acceleration: found"):
        make_mask(name, (64, 64), wanted)


@pytest.mark.parametrize(
    ("name", "acs"), [("poisson-2d", 40), ("poisson-2d", 65), ("random-1d", 17), ("equispaced-1d", -1)]
)
def test_calibration_that_leaves_no_room(name, acs):
    with pytest.raises(InputError, match=r"acs: found .*; expected"):
        make_mask(name, (64, 64), 4, acs)


def test_other_bad_values():
    with pytest.raises(InputError, match="shape"):
        make_mask("poisson-2d", (0, 64), 4)
    with pytest.raises(InputError, match="seed"):
        make_mask("poisson-2d", (64, 64), 4, seed=-1)


def test_the_least_default_centre():
    assert make_mask("random-1d", (64, 64), 4)[0, 0, 26:38].all()  # 12 of 16 lines, more than two thirds
