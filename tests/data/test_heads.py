"""Head slices: scale, determinism, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mriinv.core.problem import reference_scale
from mriinv.data.heads import HeadSource, LabelMapHeads, ProceduralHeads
from mriinv.data.tissue import TISSUE, TISSUES, classify_labels, random_contrast
from mriinv.errors import InputError


def ball(size: int = 48) -> np.ndarray:
    """Nested spheres: skin, bone, CSF, cortex, white matter."""
    axis = np.arange(size) - size / 2 + 0.5
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    labels = np.zeros((size, size, size), np.int16)
    for label, limit in ((511, 0.48), (515, 0.43), (24, 0.38), (42, 0.33), (2, 0.25)):
        labels[radius < limit * size] = label
    return labels


@pytest.fixture(scope="module")
def label_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    np.savez_compressed(folder / "ball.npz", labels=ball())
    return folder


@pytest.fixture(params=["procedural", "labels"])
def heads(request: pytest.FixtureRequest, label_folder: Path) -> HeadSource:
    return ProceduralHeads() if request.param == "procedural" else LabelMapHeads(label_folder)


def draw(heads: HeadSource, shape: tuple[int, int], seed: int) -> torch.Tensor:
    return heads.image(shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 64), (63, 80), (97, 61), (16, 16)])
def test_scale_and_shape(heads: HeadSource, shape: tuple[int, int]) -> None:
    for seed in range(3):
        image = draw(heads, shape, seed)
        assert image.shape == shape and image.dtype == torch.complex64
        assert torch.isfinite(image.abs()).all()
        torch.testing.assert_close(reference_scale(image[None]), torch.ones(1))
        assert image.abs().max() < 6


def test_seed_determines_the_slice(heads: HeadSource) -> None:
    assert torch.equal(draw(heads, (64, 56), 1), draw(heads, (64, 56), 1))
    assert not torch.allclose(draw(heads, (64, 56), 1), draw(heads, (64, 56), 2), atol=0.1)


def test_slices_hold_a_head_in_air(heads: HeadSource) -> None:
    images = torch.stack([draw(heads, (80, 80), seed) for seed in range(12)]).abs()
    tissue = (images > 0.1).float().mean((1, 2))
    assert 0.15 < tissue.median() < 0.85
    corners = torch.stack([images[:, y, x] for y in (0, -1) for x in (0, -1)])
    assert corners.median() < 0.05


def test_phase_is_smooth_and_not_flat(heads: HeadSource) -> None:
    image = draw(heads, (96, 96), 5)
    step = image[:, 1:] * image[:, :-1].conj()
    bright = (image[:, 1:].abs() > 0.3) & (image[:, :-1].abs() > 0.3)
    assert step[bright].angle().abs().quantile(0.95) < 0.7
    weights = image[image.abs() > 0.3]
    assert (weights / weights.abs()).mean().abs() < 0.999


def test_signal_is_textured_inside_a_tissue(label_folder: Path) -> None:
    image = draw(LabelMapHeads(label_folder), (96, 96), 0).abs()[44:52, 44:52]
    assert 0.003 < image.std() / image.mean() < 0.2


def test_real_label_maps(shared_data: Path) -> None:
    folder = shared_data / "synthseg_labels"
    if not folder.is_dir():
        pytest.skip("no label maps")
    heads = LabelMapHeads(folder)
    images = torch.stack([draw(heads, (128, 112), seed) for seed in range(6)])
    torch.testing.assert_close(reference_scale(images), torch.ones(6))
    assert 0.15 < (images.abs() > 0.1).float().mean() < 0.85


def test_classes_merge_sides_and_cover_unknown_labels() -> None:
    labels = np.array([0, 2, 41, 3, 42, 9, 507, 599])
    names = [TISSUES[index] for index in classify_labels(labels)]
    assert names == ["air", "white", "white", "cortex", "cortex", "cortex", "muscle", "muscle"]


def test_contrasts_vary_and_air_stays_dark() -> None:
    generator = torch.Generator().manual_seed(0)
    signals = torch.stack([random_contrast(generator) for _ in range(200)])
    assert signals.shape == (200, len(TISSUES)) and (signals >= 0).all()
    assert (signals[:, TISSUE["air"]] == 0).all() and signals[:, TISSUE["bone"]].max() < 0.3
    brighter = (signals[:, TISSUE["white"]] > signals[:, TISSUE["cortex"]]).float().mean()
    assert 0.2 < brighter < 0.7  # T1-weighted ones, and some of the arbitrary ones


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "no label maps"),
        ({"segmentation": ball(8)}, "an array 'labels'"),
        ({"labels": ball(8).astype(np.float32)}, "an integer volume"),
        ({"labels": ball(8)[0]}, "an integer volume"),
        ({"labels": np.zeros((8, 8, 8), np.int16)}, "larger ones for tissue"),
        ({"labels": np.full((8, 8, 8), -1, np.int16)}, "larger ones for tissue"),
        ({"labels": np.array([None, 1], dtype=object)}, "without pickled objects"),
    ],
)
def test_bad_label_maps_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray] | None, message: str) -> None:
    if arrays is not None:
        np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        LabelMapHeads(tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip file")
    with pytest.raises(InputError, match="npz file"):
        LabelMapHeads(tmp_path)
