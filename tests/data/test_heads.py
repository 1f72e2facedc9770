"""Head slices: scale, determinism, sizes in millimetres, what a protocol asks for, and what is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

from mriinv.core.problem import reference_scale
from mriinv.data.anatomy import Chance, procedural_tissues
from mriinv.data.heads import PLANES, HeadSource, LabelMapHeads, ProceduralHeads, Protocol
from mriinv.data.tissue import CONTRASTS, TISSUE
from mriinv.errors import InputError

MakeHeads = Callable[[Protocol], HeadSource]
THALAMUS = 10  # homogeneous, and no white matter, in which lesions would be


def ball(size: int = 48) -> np.ndarray:
    """Nested spheres: skin, bone, CSF, cortex, white matter."""
    axis = np.arange(size) - size / 2 + 0.5
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    labels = np.zeros((size, size, size), np.int16)
    for label, limit in ((511, 0.48), (515, 0.43), (24, 0.38), (42, 0.33), (2, 0.25)):
        labels[radius < limit * size] = label
    return labels


def volume(path: Path, shape: Callable[[Tensor, Tensor, Tensor], Tensor], label: int = THALAMUS) -> Path:
    """Write a label map of 160 × 180 × 200 mm of anisotropic voxels, `label` where `shape` of x, y, z (mm) is true."""
    voxel = torch.tensor([2.0, 1.5, 1.0])
    sizes = (80, 120, 200)
    grid = torch.meshgrid(*((torch.arange(n) + 0.5) * v for n, v in zip(sizes, voxel, strict=True)), indexing="ij")
    np.savez(path, labels=(shape(*grid).expand(sizes) * label).numpy().astype(np.int16), voxel=voxel.numpy())
    return path


@pytest.fixture(scope="module")
def label_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    np.savez_compressed(folder / "ball.npz", labels=ball(), voxel=np.full(3, 4.0))
    return folder


@pytest.fixture(params=["procedural", "labels"])
def make_heads(request: pytest.FixtureRequest, label_folder: Path) -> MakeHeads:
    if request.param == "procedural":
        return ProceduralHeads
    return lambda protocol: LabelMapHeads(label_folder, protocol)


@pytest.fixture
def heads(make_heads: MakeHeads) -> HeadSource:
    return make_heads(Protocol())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(heads: HeadSource, shape: tuple[int, int], seed: int) -> Tensor:
    return heads.image(shape, seeded(seed))


def diameter(image: Tensor, pixel: float) -> float:
    """Return the diameter in mm of the circle of the same area as the object in a magnitude image."""
    inside = image > 0.5 * image.flatten().topk(200).values.median()
    return 2 * math.sqrt(float(inside.sum()) / math.pi) * pixel


# What every source gives


@pytest.mark.parametrize("shape", [(64, 64), (63, 80), (97, 61), (16, 16)])
def test_scale_and_shape(heads: HeadSource, shape: tuple[int, int]) -> None:
    for seed in range(3):
        image = draw(heads, shape, seed)
        assert image.shape == shape and image.dtype == torch.complex64
        assert torch.isfinite(image.abs()).all()
        torch.testing.assert_close(reference_scale(image[None]), torch.ones(1))
        assert image.abs().max() < 6


def test_the_scale_is_that_of_the_volume(heads: HeadSource) -> None:
    image = heads.draw((48, 40), 4, seeded(3)).image
    assert image.shape == (4, 48, 40)
    torch.testing.assert_close(reference_scale(image.reshape(1, 4 * 48, 40)), torch.ones(1))
    assert not torch.allclose(reference_scale(image), torch.ones(4), atol=1e-3)


def test_seed_determines_the_slices(heads: HeadSource) -> None:
    first, again, other = (heads.draw((64, 56), 2, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image) and first[1:] == again[1:]
    assert not torch.allclose(first.image, other.image, atol=0.1)


def test_neighbouring_slices_are_alike_the_more_the_nearer_they_are(make_heads: MakeHeads) -> None:
    heads = make_heads(Protocol(thickness=4.0))
    correlations = []
    for seed in range(8):
        flat = heads.draw((64, 64), 5, seeded(seed)).image.abs().flatten(1)
        correlations.append(torch.corrcoef(flat)[0, 1:])
    at = torch.stack(correlations).mean(0)
    assert (at[:-1] > at[1:]).all()
    assert 0.75 < at[0] < 0.998


@pytest.mark.parametrize("turn", [0.3, 1.2, math.pi / 2])
def test_what_forms_a_procedural_head_changes_along_it(turn: float) -> None:
    """Random numbers at two heights correlate as the cosine of the turn; the head's own numbers stay."""
    low, high = Chance(7), Chance(7, turn)
    assert low.uniform(0, 1) == high.uniform(0, 1)
    pair = torch.stack([low.normal(40_000), high.normal(40_000)])
    assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(math.cos(turn), abs=0.02)
    torch.testing.assert_close(pair.std(1), torch.ones(2), atol=0.02, rtol=0)


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


def test_real_label_maps(shared_data: Path) -> None:
    folder = shared_data / "synthseg_labels"
    if not folder.is_dir():
        pytest.skip("no label maps")
    heads = LabelMapHeads(folder)
    images = torch.stack([draw(heads, (128, 112), seed) for seed in range(6)])
    torch.testing.assert_close(reference_scale(images), torch.ones(6))
    assert 0.15 < (images.abs() > 0.1).float().mean() < 0.85


# What a protocol asks for


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrast_is_as_asked(make_heads: MakeHeads, contrast: str) -> None:
    heads = make_heads(Protocol(contrast=contrast))
    for seed in range(3):
        assert heads.draw((32, 32), 1, seeded(seed)).contrast.startswith(contrast.upper() + " ")


def test_pixel_and_spacing_are_as_asked(make_heads: MakeHeads) -> None:
    head = make_heads(Protocol(pixel=1.7, thickness=3.0, gap=0.5)).draw((32, 32), 2, seeded(0))
    assert (head.pixel, head.spacing) == (pytest.approx(1.7), 3.5)
    free = [make_heads(Protocol()).draw((32, 32), 1, seeded(seed)) for seed in range(4)]
    assert len({one.pixel for one in free}) == len({one.spacing for one in free}) == 4


@pytest.mark.parametrize("plane", PLANES)
def test_a_cylinder_has_its_diameter(tmp_path: Path, plane: str) -> None:
    """One of 60 mm across the slices, at two sizes of pixels, out of anisotropic voxels; deformed by some mm."""
    cylinders = {
        "axial": lambda x, y, z: (x - 80) ** 2 + (y - 90) ** 2 < 30**2,
        "coronal": lambda x, y, z: (x - 80) ** 2 + (z - 100) ** 2 < 30**2,
        "sagittal": lambda x, y, z: (y - 90) ** 2 + (z - 100) ** 2 < 30**2,
    }
    path = volume(tmp_path / "cylinder.npz", cylinders[plane])
    for pixel in (0.9, 1.6):
        heads = LabelMapHeads(path, Protocol(plane=plane, pixel=pixel))
        drawn = [heads.draw((96, 80), 1, seeded(seed)) for seed in range(5)]
        assert {one.plane for one in drawn} == {plane}
        found = np.median([diameter(one.image[0].abs(), one.pixel) for one in drawn])
        assert found == pytest.approx(60, rel=0.05)


def test_a_pixel_that_is_not_asked_for_is_still_true(tmp_path: Path) -> None:
    path = volume(tmp_path / "cylinder.npz", lambda x, y, z: (x - 80) ** 2 + (y - 90) ** 2 < 60**2)
    drawn = [LabelMapHeads(path, Protocol(plane="axial")).draw((96, 80), 1, seeded(seed)) for seed in range(5)]
    assert len({one.pixel for one in drawn}) == 5
    assert np.median([diameter(one.image[0].abs(), one.pixel) for one in drawn]) == pytest.approx(120, rel=0.05)


def test_slices_lie_thickness_and_gap_apart(tmp_path: Path) -> None:
    """A cone grows thinner upwards: 0.8 mm of diameter per mm, times the cosine of the tilt."""
    path = volume(tmp_path / "cone.npz", lambda x, y, z: (x - 80) ** 2 + (y - 90) ** 2 < (0.4 * (200 - z)) ** 2)
    heads = LabelMapHeads(path, Protocol(plane="axial", pixel=1.6, thickness=8.0, gap=4.0))
    steps = []
    for seed in range(5):
        head = heads.draw((96, 80), 3, seeded(seed))
        low, middle, high = (diameter(one, head.pixel) for one in head.image.abs())
        steps += [low - middle, middle - high]
    assert head.spacing == 12
    assert np.median(steps) == pytest.approx(0.8 * 12, rel=0.1)


def test_a_thick_slice_averages(tmp_path: Path) -> None:
    """Plates 10 mm apart: a slice of 20 mm holds tissue and air everywhere, a thin one either of them."""
    path = volume(tmp_path / "plates.npz", lambda x, y, z: z % 20 < 10)
    dark = []
    for thickness in (0.1, 20.0):
        heads = LabelMapHeads(path, Protocol(plane="axial", pixel=1.5, thickness=thickness))
        images = torch.stack([draw(heads, (96, 96), seed)[16:-16, 16:-16] for seed in range(6)]).abs()
        dark.append(float((images < 0.25).float().mean()))
    assert dark[0] > 0.3 and dark[1] < 0.1


def test_procedural_heads_are_as_large_as_heads() -> None:
    """The pixel decides how many of them a head covers, and a free pixel is the one that fits."""
    widths = []
    for pixel in (1.6, 2.4, None):
        heads = ProceduralHeads(Protocol(pixel=pixel))
        drawn = [heads.draw((160, 140), 1, seeded(seed)) for seed in range(6)]
        widths.append([float((one.image[0].abs() > 0.1).any(0).sum()) * one.pixel for one in drawn])
    for fine, coarse, free in zip(*widths, strict=True):
        assert 120 < fine < 175
        assert coarse == pytest.approx(fine, rel=0.06) and free == pytest.approx(fine, rel=0.06)


# Lesions


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_procedural_lesions_are_in_white_matter_alone(level: float) -> None:
    changed = 0
    for seed in range(8):
        spotted, plain = (procedural_tissues((192, 192), seed, level, lesions=value)[0] for value in (True, False))
        different = spotted != plain
        changed += int(different.sum())
        assert (plain[different] == TISSUE["white"]).all() and (spotted[different] == TISSUE["lesion"]).all()
    assert changed > 30


@pytest.mark.parametrize("label", [2, THALAMUS])
def test_lesions_of_label_maps_are_spots_in_white_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: int
) -> None:
    path = volume(tmp_path / "a.npz", lambda x, y, z: ((x - 80) ** 2 + (y - 90) ** 2 < 50**2) & (z > 100), label)
    rendered: list[Tensor] = []

    def record(tissues: Tensor, shape: tuple[int, int], *_: object) -> Tensor:
        rendered.append(tissues)
        return torch.ones(shape, dtype=torch.complex64)

    monkeypatch.setattr("mriinv.data.heads.render", record)
    shares = {}
    for lesions in (True, False):
        rendered.clear()
        for seed in range(8):
            draw(LabelMapHeads(path, Protocol("axial", 1.5, lesions=lesions)), (64, 64), seed)
        tissues = torch.stack(rendered)
        shares[lesions] = float((tissues == TISSUE["lesion"]).sum() / (tissues != TISSUE["air"]).sum())
    assert shares[False] == 0
    assert 0.003 < shares[True] < 0.15 if label == 2 else shares[True] == 0


# Where labels come from


def test_nifti_and_npz_give_the_same_slices(tmp_path: Path) -> None:
    labels, voxel = ball(40)[:, 3:, :35], np.array([4.0, 4.5, 5.0])
    np.savez(tmp_path / "a.npz", labels=labels, voxel=voxel)
    affine = np.diag([*voxel, 1]) @ np.diag([-1, 1, 1, 1])  # the first axis from right to left
    nibabel.save(nibabel.Nifti1Image(labels[::-1].astype(np.uint16), affine), tmp_path / "a.nii.gz")
    first, second = (LabelMapHeads(tmp_path / name).draw((40, 36), 2, seeded(4)) for name in ("a.npz", "a.nii.gz"))
    assert torch.equal(first.image, second.image) and first[1:] == second[1:]


def test_all_volumes_of_a_folder_are_used(tmp_path: Path, label_folder: Path) -> None:
    (tmp_path / "ball.npz").symlink_to(label_folder / "ball.npz")
    np.savez(tmp_path / "water.npz", labels=np.full((40, 40, 40), 24, np.int16), voxel=np.full(3, 5.0))
    drawn = torch.stack([draw(LabelMapHeads(tmp_path), (32, 32), seed) for seed in range(12)])
    full = (drawn[:, 4:-4, 4:-4].abs() > 0.05).float().mean((1, 2)) > 0.99
    assert 0 < full.sum() < 12


def test_a_source_travels_to_workers_without_its_volumes(label_folder: Path) -> None:
    heads = LabelMapHeads(label_folder, Protocol(contrast="t2", gap=1.0))
    packed = pickle.dumps(heads)
    assert len(packed) < 10_000
    first, second = (source.draw((40, 40), 2, seeded(6)) for source in (heads, pickle.loads(packed)))
    assert torch.equal(first.image, second.image) and first[1:] == second[1:]


def test_a_bad_volume_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label maps"):
        LabelMapHeads(tmp_path)
    np.savez(tmp_path / "a.npz", labels=np.full((8, 8, 8), -1, np.int16))
    with pytest.raises(InputError, match=r"a\.npz: labels: found labels -1 to -1"):
        LabelMapHeads(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plane": "oblique"}, "plane: found 'oblique'; expected axial or coronal or sagittal"),
        ({"contrast": "T2"}, "contrast: found 'T2'; expected t1 or t2 or pd or flair"),
        ({"pixel": 0.0}, "pixel: found 0.0; expected 0.1 to 20 mm"),
        ({"pixel": math.nan}, "pixel: found nan"),
        ({"thickness": -1.0}, "thickness: found -1.0; expected 0.1 to 50 mm"),
        ({"thickness": math.inf}, "thickness: found inf"),
        ({"gap": -0.5}, "gap: found -0.5; expected 0 to 100 mm"),
        ({"gap": math.nan}, "gap: found nan"),
    ],
)
def test_a_protocol_refuses_nonsense(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"Protocol: {message}"):
        Protocol(**fields)


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_procedural_heads_are_axial(plane: str) -> None:
    with pytest.raises(InputError, match=f"plane: found {plane}; expected axial, or label maps"):
        ProceduralHeads(Protocol(plane=plane))
    assert ProceduralHeads(Protocol(plane="axial")).draw((32, 32), 1, seeded(0)).plane == "axial"
