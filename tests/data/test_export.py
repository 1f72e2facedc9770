from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from mriinv.data.export import FORMATS, export_result
from mriinv.data.geometry import Geometry
from mriinv.data.result_writer import ResultWriter
from mriinv.errors import InputError, UnknownNameError
from support import read_cfl

SLICES, COILS, Y, X = 3, 2, 6, 5
OBLIQUE = Geometry(
    pixel=(1.5, 0.5),
    spacing=4.0,
    centre=(10.0, -20.0, 30.0),
    axes=((0.0, 0.8, -0.6), (1.0, 0.0, 0.0), (0.0, -0.6, -0.8)),
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64)


def stack(geometry: Geometry, slices: int = SLICES, distance: float = 5.0) -> list[Geometry]:
    """Slices at `distance` along the normal."""
    normal = np.array(geometry.axes)[2]
    centres = np.array(geometry.centre) + distance * np.arange(slices)[:, None] * normal
    return [replace(geometry, centre=tuple(centre)) for centre in centres.tolist()]


def result(path: Path, image: torch.Tensor, geometry=(), announced=None, **arrays: torch.Tensor) -> Path:
    """Write a result with one row per image; `arrays` are std or maps."""
    slices = list(range(len(image))) if announced is None else announced
    with ResultWriter(path, slices, {}, {}, restart=True) as writer:
        for row, index in enumerate(slices[: len(image)]):
            writer.add(
                index,
                image[row],
                mask=torch.ones(1, X, dtype=torch.bool),
                maps={name: values[row] for name, values in arrays.items()},
                geometry=geometry[row] if geometry else None,
            )
    return path


def test_cfl(tmp_path):
    image, maps, std = random(SLICES, Y, X), random(SLICES, COILS, Y, X), torch.rand(SLICES, Y, X)
    path = result(tmp_path / "scan.h5", image, coil_maps=maps, std=std)
    names = [f"scan{kind}.{suffix}" for kind in ("", "_std", "_maps") for suffix in ("cfl", "hdr")]
    assert export_result(path, "cfl") == [tmp_path / name for name in names]
    values = read_cfl(tmp_path / "scan")
    assert values.shape == (Y, X, *[1] * 11, SLICES, 1, 1)
    np.testing.assert_array_equal(values.squeeze(), image.permute(1, 2, 0))
    np.testing.assert_array_equal(read_cfl(tmp_path / "scan_std"), std.permute(1, 2, 0).reshape(values.shape))
    values = read_cfl(tmp_path / "scan_maps")
    assert values.shape == (Y, X, 1, COILS, *[1] * 9, SLICES, 1, 1)
    np.testing.assert_array_equal(values.squeeze(), maps.permute(2, 3, 1, 0))


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_bart_reads_a_cfl(tmp_path):
    maps = random(SLICES, COILS, Y, X)
    export_result(result(tmp_path / "scan.h5", maps[:, 0], coil_maps=maps), "cfl")
    subprocess.run(["bart", "rss", "8", "scan_maps", "rss"], cwd=tmp_path, check=True)  # 8: the axis of coils
    expected = torch.linalg.vector_norm(maps, dim=1).permute(1, 2, 0)
    np.testing.assert_allclose(read_cfl(tmp_path / "rss").squeeze(), expected, rtol=1e-5)


@pytest.mark.parametrize("format", ["nii", "nii.gz"])
def test_nifti_in_scanner_coordinates(tmp_path, format):
    image, std, places = random(SLICES, Y, X), torch.rand(SLICES, Y, X), stack(OBLIQUE)
    path = result(tmp_path / "scan.a.h5", image, places, magnitude_std=std)
    written = export_result(path, format)
    assert written == [tmp_path / f"scan.a.{format}", tmp_path / f"scan.a_std.{format}"]
    volume, uncertainty = (nibabel.load(name) for name in written)
    np.testing.assert_array_equal(volume.get_fdata(), image.abs().permute(2, 1, 0))
    np.testing.assert_array_equal(uncertainty.get_fdata(), std.permute(2, 1, 0))
    assert volume.get_data_dtype() == np.float32
    assert volume.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(volume.header.get_zooms(), (0.5, 1.5, 5.0), rtol=1e-6)  # 5: the distance with its gap
    qform, qcode = volume.header.get_qform(coded=True)
    assert (qcode, int(volume.header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(qform, volume.affine, atol=1e-5)
    for affine in (volume.affine, uncertainty.affine):
        for index, place in enumerate(places):
            for y, x in ((Y // 2, X // 2), (0, 0), (Y - 1, 2)):  # LPS by the definition of `Geometry`
                along_y, along_x, _ = np.array(place.axes)
                lps = np.array(place.centre) + (y - Y // 2) * 1.5 * along_y + (x - X // 2) * 0.5 * along_x
                ras = affine @ [x, y, index, 1]
                np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-4)


def test_interleaved_slices_are_put_in_order(tmp_path):
    image, places, acquired = random(5, Y, X), stack(OBLIQUE, 5), [4, 2, 0, 3, 1]
    expected = nibabel.load(*export_result(result(tmp_path / "sorted.h5", image, places), "nii"))
    path = result(tmp_path / "scan.h5", image[acquired], [places[row] for row in acquired])
    volume = nibabel.load(*export_result(path, "nii"))
    np.testing.assert_array_equal(volume.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)


def test_nifti_names_the_directions(tmp_path):
    axial = Geometry((1.0, 1.0), 1.0, (0.0, 0.0, 0.0), ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    for axes, expected in (
        (axial.axes, "LPS"),  # rising x, y, slice
        (((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), "PIL"),  # sagittal
        (((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), "RIP"),  # coronal
    ):
        place = replace(axial, axes=axes)
        path = result(tmp_path / "scan.h5", random(1, Y, X), [place])
        (written,) = export_result(path, "nii")
        volume = nibabel.load(written)
        assert "".join(nibabel.aff2axcodes(volume.affine)) == expected
        np.testing.assert_allclose(volume.header.get_qform(), volume.affine, atol=1e-6)


def test_a_single_slice_is_as_thick_as_its_spacing(tmp_path):
    (written,) = export_result(result(tmp_path / "scan.h5", random(1, Y, X), [OBLIQUE]), "nii")
    volume = nibabel.load(written)
    assert volume.header.get_zooms() == (0.5, 1.5, 4.0)
    np.testing.assert_allclose(volume.affine[:3, 2], 4 * np.array(OBLIQUE.axes[2]) * [-1, -1, 1], atol=1e-6)


def test_a_sheared_stack_has_no_quaternion(tmp_path):
    places = [replace(OBLIQUE, centre=(2.0 * i, 0.0, 4.0 * i)) for i in range(SLICES)]
    (written,) = export_result(result(tmp_path / "scan.h5", random(SLICES, Y, X), places), "nii")
    volume = nibabel.load(written)
    assert volume.header.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(volume.affine[:3, 2], [2, 0, -4], atol=1e-6)  # rising along the normal


def test_nifti_without_a_place(tmp_path):
    sizes = Geometry(pixel=(1.5, 0.5), spacing=4.0)
    for name, geometry, zooms, unit in (
        ("sizes", [sizes] * SLICES, (0.5, 1.5, 4.0), "mm"),
        ("centre", [replace(sizes, centre=(0.0, 0.0, float(i))) for i in range(SLICES)], (0.5, 1.5, 4.0), "mm"),
        ("nothing", (), (1.0, 1.0, 1.0), "unknown"),
        ("incomplete", [sizes, None, sizes], (1.0, 1.0, 1.0), "unknown"),
    ):
        path = result(tmp_path / f"{name}.h5", random(SLICES, Y, X), geometry)
        (written,) = export_result(path, "nii.gz")
        header = nibabel.load(written).header
        assert (header.get_zooms(), header.get_xyzt_units()[0]) == (zooms, unit)
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)


@pytest.mark.parametrize("fault", ["uneven", "turned", "one place"])
def test_slices_in_no_stack(tmp_path, fault):
    places = stack(OBLIQUE)
    if fault == "uneven":
        places[1] = replace(places[1], centre=places[0].centre)
    elif fault == "turned":  # a localizer
        y, x, normal = OBLIQUE.axes
        places[2] = replace(places[2], axes=(x, normal, y))
    else:
        places = [OBLIQUE] * SLICES
    path = result(tmp_path / "scan.h5", random(SLICES, Y, X), places)
    with pytest.raises(InputError, match="no evenly spaced stack"):
        export_result(path, "nii")
    assert len(export_result(path, "png")) == SLICES


def test_png(tmp_path):
    image = random(2, Y, X)
    image[0, 0, 0] = 100j  # of 60 pixels, the percentile lies below the largest
    (tmp_path / "scan.png").write_text("the figure of the run")
    written = export_result(result(tmp_path / "scan.h5", image, announced=[7, 8]), "png")
    assert written == [tmp_path / "scan_007.png", tmp_path / "scan_008.png"]
    magnitude = image.abs().numpy()
    window = np.percentile(magnitude, 99.5)
    for path, expected in zip(written, magnitude, strict=True):
        values = imread(path)
        assert values.shape[:2] == (Y, X)
        assert (values[..., :3] == values[..., :1]).all()
        np.testing.assert_allclose(values[..., 0], np.minimum(expected / window, 1), atol=1 / 255)
    assert (tmp_path / "scan.png").read_text() == "the figure of the run"


@pytest.mark.parametrize(("format", "other"), [("png", "scan_007"), ("cfl", "scan_maps")])
def test_the_place_of_another_results_exports_is_refused(tmp_path, format, other):
    maps = random(1, COILS, Y, X)
    first, second = (
        result(tmp_path / f"{name}.h5", random(1, Y, X), announced=[7], coil_maps=maps) for name in ("scan", other)
    )
    export_result(second, format)
    with pytest.raises(InputError, match=f"found the place of exports of {other}.h5"):
        export_result(first, format)


def test_a_png_of_nothing(tmp_path):
    (written,) = export_result(result(tmp_path / "scan.h5", torch.zeros(1, Y, X, dtype=torch.complex64)), "png")
    assert not imread(written)[..., :3].any()


def test_an_incomplete_result_says_so(tmp_path):
    path = result(tmp_path / "scan.h5", random(2, Y, X), announced=[3, 4, 5])
    (written,) = export_result(path, "nii")
    assert written == tmp_path / "scan.partial.nii"
    assert nibabel.load(written).shape == (X, Y, 2)


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_export_takes_the_place_of_an_incomplete_one(tmp_path, format):
    incomplete = export_result(result(tmp_path / "scan.h5", random(2, Y, X), announced=[3, 4, 5]), format)
    (tmp_path / "scan.partial.h5").touch()  # there is such a result, beside a complete one
    complete = export_result(result(tmp_path / "scan.h5", random(3, Y, X)), format)
    assert all(file.exists() for file in (*incomplete, *complete))
    (tmp_path / "scan.partial.h5").unlink()
    export_result(tmp_path / "scan.h5", format)
    assert all(file.exists() for file in complete) and not any(file.exists() for file in incomplete)


@pytest.mark.parametrize("announced", [[0, 2], [1, 0]])
def test_slices_that_are_no_volume(tmp_path, announced):
    path = result(tmp_path / "scan.h5", random(2, Y, X), announced=announced)
    for format in ("nii", "cfl"):
        with pytest.raises(InputError, match="consecutive"):
            export_result(path, format)
    assert len(export_result(path, "png")) == 2


@pytest.mark.parametrize("format", FORMATS)
def test_folder_replacement_and_leftovers(tmp_path, format):
    out = tmp_path / "new" / "folder"
    contents = []
    for scale in (1, 1, 2):
        image = torch.linspace(1, 2, Y * X, dtype=torch.complex64).reshape(1, Y, X) ** scale
        written = export_result(result(tmp_path / "scan.h5", image), format, out)
        assert sorted(out.iterdir()) == sorted(written)
        contents.append([path.read_bytes() for path in written])
    assert contents[0] == contents[1] != contents[2]  # the same bytes every time


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_only_an_earlier_export_wrote_is_removed(tmp_path):
    out, image, std = tmp_path / "out", random(SLICES, Y, X), torch.rand(SLICES, Y, X)
    maps = {"coil_maps": random(SLICES, COILS, Y, X), "std": std, "magnitude_std": std}
    for format in FORMATS:
        export_result(result(tmp_path / "scan.h5", image, **maps), format, out)
    kept = ["scan.cfl", "scan.hdr", "scan.nii", "scan.nii.gz", "scan_000.png", "scan_001.png"]
    removed = ["scan_002.png", *(f"scan_{end}" for end in ("maps.cfl", "maps.hdr", "std.cfl", "std.hdr", "std.nii"))]
    assert names(out) == sorted([*kept, *removed, "scan_std.nii.gz"])
    path = result(tmp_path / "scan.h5", image[:2])
    export_result(path, "nii.gz", out)
    assert names(out) == sorted([*kept, *removed])  # other formats stay
    for format in FORMATS:
        export_result(path, format, out)
    assert names(out) == kept


def test_what_another_export_did_not_write_stays(tmp_path):
    foreign = ["scan_007.png", "scan_std.nii.gz", "scan_maps.cfl", "scan_maps.hdr"]
    for name in foreign:
        (tmp_path / name).write_text("of somebody else")
    other = result(tmp_path / "scan_std.h5", random(1, Y, X))
    others = [path.name for format in ("nii", "cfl") for path in export_result(other, format)]
    path = result(tmp_path / "scan.h5", random(1, Y, X))
    written = [file.name for format in FORMATS for file in export_result(path, format)]
    assert names(tmp_path) == sorted(["scan.h5", "scan_std.h5", *foreign, *others, *written])


def test_errors(tmp_path):
    path = result(tmp_path / "scan.h5", random(1, Y, X))
    with pytest.raises(UnknownNameError, match=r"'nifti'; did you mean nii"):
        export_result(path, "nifti")
    with pytest.raises(InputError, match="mriinv result"):
        export_result(tmp_path / "missing.h5", "nii")
    with pytest.raises(InputError, match="cannot be written"):
        export_result(path, "cfl", path)
