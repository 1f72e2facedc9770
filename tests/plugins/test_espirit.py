"""ESPIRiT against known maps, exact eigenvectors, sigpy and BART, and its calibration from an acquisition."""

import math
import shutil
import subprocess

import numpy as np
import pytest
import torch

from mriinv import Acquisition, InputError, InverseProblem, make_solver
from mriinv.numerics.fft import fft2c
from mriinv_sense.calibration import calibration_region
from mriinv_sense.espirit import espirit
from mriinv_sense.operator import SenseOperator
from support import read_cfl, write_cfl


def smooth_maps(coils, y, x):
    """Coils on a ring around the object, unit sum of squares, smooth phase."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, y), torch.linspace(-1, 1, x), indexing="ij")
    maps = []
    for coil in range(coils):
        angle = 2 * math.pi * coil / coils
        distance = (rows - 1.3 * math.sin(angle)) ** 2 + (columns - 1.3 * math.cos(angle)) ** 2
        phase = angle + rows * math.cos(3 * angle) + columns * math.sin(2 * angle)
        maps.append(torch.polar(torch.exp(-distance / 1.5), phase))
    maps = torch.stack(maps)
    return maps / maps.abs().square().sum(0).sqrt()


def head(y, x, size=0.8):
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, y), torch.linspace(-1, 1, x), indexing="ij")
    inside = (rows / size) ** 2 + (columns / (0.8 * size)) ** 2 < 1
    return inside * (1 + 0.3 * torch.cos(9 * columns) * torch.sin(7 * rows))


def simulate(coils=6, y=64, x=61, noise=1e-3):
    maps, image = smooth_maps(coils, y, x), head(y, x)
    kspace = fft2c(maps * image)
    generator = torch.Generator().manual_seed(0)
    return maps, image, kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)


def centre(kspace, width=24):
    y, x = (size // 2 - width // 2 for size in kspace.shape[1:])
    return kspace[:, y : y + width, x : x + width]


def misfit(maps, expected, support):
    """Relative difference on the support after the best unit phase per pixel."""
    phase = (maps.conj() * expected).sum(0)
    aligned = maps * (phase / phase.abs().clamp_min(1e-12))
    return float((aligned - expected)[:, support].norm() / expected[:, support].norm())


@pytest.mark.parametrize("shape", [(64, 61), (63, 64), (48, 80)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_recovers_known_maps(shape, dtype):
    truth, image, kspace = simulate(6, *shape)
    result = espirit(centre(kspace).to(dtype), shape, 6, 0.02, 0.9)
    assert result.coil_maps.dtype == dtype
    support = result.eigenvalues[0] >= 0.9
    assert support[image > 0].float().mean() > 0.99
    assert misfit(result.coil_maps.to(torch.complex64), truth, support & (image > 0)) < 0.01
    torch.testing.assert_close(
        result.coil_maps.abs().square().sum(0), support.to(result.eigenvalues.dtype), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("coils", [4, 8], ids=["more patches than samples in one", "fewer"])
def test_eigenpairs_are_those_of_the_consistency_condition(coils):
    """H(r) by its definition: project all patches of a point source at r."""
    _, _, kspace = simulate(coils, 20, 18)
    region, width = centre(kspace, 16).to(torch.complex128), 5
    result = espirit(region, (20, 18), width, 0.02, 0.0)
    patches = region.unfold(1, width, 1).unfold(2, width, 1).permute(0, 3, 4, 1, 2).reshape(coils * width**2, -1)
    assert (patches.shape[1] < patches.shape[0]) == (coils == 8)
    left, singular, _ = torch.linalg.svd(patches, full_matrices=False)
    basis = left[:, singular > 0.02 * singular[0]]
    offsets = torch.arange(width, dtype=torch.float64)
    for row, column in [(10, 9), (3, 5), (15, 12), (0, 17)]:
        angle = -2 * math.pi * (offsets[:, None] * (row - 10) / 20 + offsets * (column - 9) / 18)
        point = torch.polar(torch.ones_like(angle), angle).flatten() / width
        source = torch.kron(torch.eye(coils, dtype=torch.complex128), point[:, None])
        matrix = source.mH @ basis @ basis.mH @ source
        values, vectors = torch.linalg.eigh(matrix)
        found = result.coil_maps[:, row, column]
        torch.testing.assert_close(result.eigenvalues[:, row, column], values[[-1, -2]], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(torch.vdot(vectors[:, -1], found).abs().item(), 1.0, rtol=0, atol=1e-3)


def test_phase_is_that_of_the_virtual_coil_and_smooth():
    _, image, kspace = simulate()
    region = centre(kspace)
    maps = espirit(region, kspace.shape[1:], 6, 0.02, 0.9).coil_maps
    samples = region.flatten(1)
    reference = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    virtual = torch.einsum("c,cyx->yx", reference.conj(), maps)[image > 0]
    virtual = virtual * (virtual.sum().conj() / virtual.sum().abs())
    assert virtual.angle().abs().max() < 1e-3
    inside = (image[:, 1:] > 0) & (image[:, :-1] > 0)
    assert (maps[:, :, 1:] - maps[:, :, :-1]).abs().amax(0)[inside].max() < 0.3


def test_scale_of_the_data_does_not_matter():
    _, _, kspace = simulate()
    one = espirit(centre(kspace), kspace.shape[1:], 6, 0.02, 0.9)
    other = espirit(1e-4 * centre(kspace), kspace.shape[1:], 6, 0.02, 0.9)
    torch.testing.assert_close(one.eigenvalues[0], other.eigenvalues[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(one.coil_maps, other.coil_maps, rtol=0, atol=1e-4)


def sigpy_maps(kspace, crop=0.9):
    app = pytest.importorskip("sigpy.mri.app")
    calibration = app.EspiritCalib(
        kspace.numpy(), 24, thresh=0.02, kernel_width=6, crop=crop, output_eigenvalue=True, show_pbar=False
    )
    maps, eigenvalue = calibration.run()
    return torch.from_numpy(maps), torch.from_numpy(eigenvalue.squeeze())


def compare(result, maps, eigenvalue, limit):
    both = (result.eigenvalues[0] >= 0.9) & (maps.abs().sum(0) > 0)
    assert both.float().mean() > 0.3
    assert misfit(result.coil_maps, maps, both) < limit
    assert ((result.eigenvalues[0] - eigenvalue).abs()[both]).max() < 1e-3


def test_agrees_with_sigpy_on_simulated_data():
    _, _, kspace = simulate(6, 48, 40)
    compare(espirit(centre(kspace), (48, 40), 6, 0.02, 0.9), *sigpy_maps(kspace), limit=1e-3)


def test_agrees_with_sigpy_on_a_brain(shared_data):
    kspace = torch.from_numpy(np.load(shared_data / "bart_full8" / "full.npz")["ksp"])
    compare(espirit(centre(kspace), kspace.shape[1:], 6, 0.02, 0.9), *sigpy_maps(kspace), limit=2e-3)


def bart(folder, *command, **arrays):
    """Run BART on arrays ``(coil, y, x)`` or ``(y, x)``; return its last file as ``(coil, y, x)``."""
    for name, array in arrays.items():
        samples = array.reshape(-1, *array.shape[-2:]).permute(1, 2, 0)[:, :, None].numpy()  # y, x, 1, coil
        write_cfl(folder / name, samples)
    subprocess.run(["bart", *command], cwd=folder, check=True, capture_output=True)
    values = read_cfl(folder / command[-1])
    return torch.from_numpy(values.reshape(*values.shape[:2], -1).transpose(2, 0, 1).copy())


needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


@needs_bart
def test_agrees_with_bart(tmp_path):
    _, image, kspace = simulate(6, 64, 60, noise=1e-4)
    options = ("-m1", "-r24:24:1", "-k6", "-t0.001", "-c0.9")
    maps = bart(tmp_path, "ecalib", *options, "kspace", "maps", kspace=kspace)
    result = espirit(centre(kspace), (64, 60), 6, 0.02, 0.9)
    support = (result.eigenvalues[0] >= 0.9) & (maps.abs().sum(0) > 0) & (image > 0)
    assert misfit(result.coil_maps, maps, support) < 0.03


@needs_bart
def test_cg_sense_agrees_with_bart(tmp_path):
    maps, _, kspace = simulate(6, 64, 60, noise=1e-2)
    mask = torch.rand(64, 60, generator=torch.Generator().manual_seed(0)) < 0.4
    maps = (maps / maps.abs().square().sum(0).sqrt()).to(torch.complex64)
    measured = (kspace * mask).to(torch.complex64)
    options = ("-l2", "-r0.05", "-i100", "-w1")
    theirs = bart(tmp_path, "pics", *options, "kspace", "maps", "image", kspace=measured, maps=maps)[0]
    problem = InverseProblem(SenseOperator(maps[None], mask[None]), measured[None])
    ours = make_solver("cg-sense", regularisation=0.05)(problem).image[0]
    assert (ours - theirs).norm() < 1e-4 * ours.norm()


def acquire(kspace, mask=None, **changes):
    mask = torch.ones(1, 1, kspace.shape[-1], dtype=torch.bool) if mask is None else mask
    kspace = torch.where(mask[:, None], kspace if kspace.ndim == 4 else kspace[None], 0)
    return Acquisition(kspace, mask, source="scan.h5", **changes)


def test_calibrates_each_slice_from_its_centre():
    _, _, first = simulate()
    second = first.flip(0).conj().resolve_conj()
    columns = torch.zeros(1, 1, 61, dtype=torch.bool)
    columns[..., ::3] = True
    columns[..., 18:43] = True
    operator = SenseOperator.from_acquisition(acquire(torch.stack((first, second)), columns))
    maps, eigenvalues = operator.exported_maps().values()
    assert maps.shape == (2, 6, 64, 61)
    assert eigenvalues.shape == (2, 2, 64, 61)
    assert operator.norm_bound == 1.0
    assert operator.notes == ()
    for index, kspace in enumerate((first, second)):
        alone = espirit(centre(kspace), (64, 61), 6, 0.02, 0.9)
        torch.testing.assert_close(maps[index], alone.coil_maps)
        torch.testing.assert_close(eigenvalues[index], alone.eigenvalues)


def test_settings_reach_the_calibration():
    _, _, kspace = simulate()
    maps = SenseOperator.from_acquisition(
        acquire(kspace), calibration_width=16, kernel_width=5, threshold=0.05, crop=0.8
    ).coil_maps[0]
    torch.testing.assert_close(maps, espirit(centre(kspace, 16), (64, 61), 5, 0.05, 0.8).coil_maps)


@pytest.mark.parametrize(
    ("rows", "columns", "width", "expected"),
    [
        ((0, 20), (0, 21), 8, (slice(6, 14), slice(6, 14))),
        ((0, 20), (5, 15), 24, (slice(0, 20), slice(5, 15))),
        ((0, 20), (4, 15), 24, (slice(0, 20), slice(5, 15))),  # centred: the extra line on the left is not used
        ((8, 13), (6, 15), 24, (slice(8, 13), slice(6, 15))),
        ((0, 5), (0, 21), 24, (slice(0), slice(0))),
    ],
)
def test_calibration_region_is_the_largest_centred_rectangle(rows, columns, width, expected):
    mask = torch.zeros(20, 21, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    assert calibration_region(mask, width) == expected


def test_a_slice_without_any_map_is_refused():
    """Noise, whose patches span a part of the space that no eigenvalue is near one in."""
    _, _, kspace = simulate(8)
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0))
    acquisition = Acquisition(torch.stack((kspace, noise)), torch.ones(1, *kspace.shape[1:], dtype=torch.bool))
    with pytest.raises(InputError, match=r"kspace: found no pixel of slice 1 with an ESPIRiT eigenvalue of 0\.9;"):
        SenseOperator.from_acquisition(acquisition, calibration_width=12)


def test_nothing_to_calibrate_from():
    _, _, kspace = simulate()
    mask = torch.zeros(1, 1, 61, dtype=torch.bool)
    mask[..., ::4] = True
    mask[..., 26:35] = True
    with pytest.raises(InputError) as caught:
        SenseOperator.from_acquisition(acquire(kspace, mask))
    assert "scan.h5" in str(caught.value)
    assert "nothing to calibrate from in slice 0" in caught.value.found
    assert "24×9" in caught.value.found
    assert "at least 12×12" in caught.value.expected
    assert "--maps" in caught.value.expected
    assert SenseOperator.from_acquisition(acquire(kspace, mask), kernel_width=4).coil_maps.any()


def test_an_empty_slice_is_named():
    _, _, kspace = simulate()
    with pytest.raises(InputError, match=r"in slice 1.*all zero"):
        SenseOperator.from_acquisition(acquire(torch.stack((kspace, torch.zeros_like(kspace)))))


@pytest.mark.parametrize(("width", "remarks"), [(12, 1), (13, 1), (14, 0), (16, 0)])
def test_a_narrow_region_is_remarked_and_not_mistaken_for_folding(width, remarks):
    _, _, kspace = simulate(12, 64, 64, noise=1e-2)
    operator = SenseOperator.from_acquisition(acquire(kspace), calibration_width=width)
    assert ["narrow for a kernel_width of 6" in note for note in operator.notes] == [True] * remarks


def test_an_object_larger_than_the_field_of_view_is_remarked():
    """Every second column of k-space halves the field of view, and the object folds onto itself."""
    maps, image = smooth_maps(6, 64, 128), head(64, 128, 0.9)
    folded = fft2c(maps * image)[..., ::2]
    operator = SenseOperator.from_acquisition(acquire(folded))
    assert len(operator.notes) == 1
    assert "one set of coil maps cannot explain" in operator.notes[0]


@pytest.mark.parametrize(
    ("name", "remarks"),
    [
        ("bart_full8/full.npz", 0),
        ("chiew_sense16/sense16.npz", 0),
        ("sigpy_bartws8/cartesian_ksp_sigpy_mask.npz", 0),
        ("espirit_alias8/alias.npz", 1),
    ],
)
def test_real_data(shared_data, name, remarks):
    archive = np.load(shared_data / name)
    kspace = torch.from_numpy(archive["ksp"])
    mask = torch.from_numpy(archive["mask"])[None] if "mask" in archive else None
    operator = SenseOperator.from_acquisition(acquire(kspace, mask))
    assert len(operator.notes) == remarks
    assert all("field of view" in note for note in operator.notes)
    # what is left out of the support holds next to no signal
    image = torch.fft.fftshift(torch.fft.ifft2(centre(kspace), s=kspace.shape[1:]), dim=(-2, -1))
    energy, support = image.abs().square().sum(0), operator.coil_maps[0].abs().sum(0) > 0
    assert energy[support].sum() > 0.98 * energy.sum()
