"""The simulated scan: its noise is what it states, its reference is its image, and slices have a place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mriinv.core.problem import reference_scale
from mriinv.data import simulate
from mriinv.data.acquisition import Acquisition
from mriinv.data.coils import CoilArray
from mriinv.data.heads import LabelMapHeads, ProceduralHeads, Protocol
from mriinv.data.masks import make_mask
from mriinv.data.simulate import SimulatedSlices, simulate_acquisition
from mriinv.errors import InputError
from mriinv.numerics.fft import fft2c, ifft2c


@pytest.mark.parametrize(("shape", "coils", "slices"), [((64, 48), 4, 1), ((65, 51), 8, 1), ((32, 48), 3, 4)])
def test_contents(shape: tuple[int, int], coils: int, slices: int) -> None:
    scan = simulate_acquisition(shape=shape, coils=coils, seed=3, slices=slices)
    assert scan.kspace.shape == (slices, coils, *shape) and scan.kspace.dtype == torch.complex64
    assert scan.fully_sampled and scan.mask.shape == (1, *shape)
    assert scan.coil_maps is None  # so that calibration is really done
    assert scan.noise_covariance is None
    assert scan.reference is not None and scan.reference.shape == (slices, *shape)
    torch.testing.assert_close(reference_scale(scan.reference.reshape(1, -1, shape[1])), torch.ones(1))
    assert scan.source == "simulated scan (seed 3)"


def test_header_says_how_it_was_made(tmp_path: Path) -> None:
    """As fastMRI calls its series: the plane, then the contrast."""
    np.savez(tmp_path / "a.npz", labels=np.full((40, 40, 40), 2, np.int16), voxel=[5.0] * 3)
    header = simulate_acquisition(shape=(32, 32), seed=3, heads=ProceduralHeads(Protocol(contrast="t2"))).header
    assert header["simulated"] == "yes" and header["seed"] == "3" and header["heads"] == "ProceduralHeads"
    assert header["acquisition"] == "AXT2" and header["sequence"].startswith("T2 TSE, TR ")
    for plane, contrast, name in (
        ("coronal", "flair", "CORFLAIR"),
        ("sagittal", "t1", "SAGT1"),
        ("axial", "pd", "AXPD"),
    ):
        heads = LabelMapHeads(tmp_path, Protocol(plane=plane, contrast=contrast))
        header = simulate_acquisition(shape=(32, 32), heads=heads).header
        assert (header["acquisition"], header["heads"]) == (name, "LabelMapHeads")


# Noise


def test_noise_has_the_stated_standard_deviation() -> None:
    noisy, clean = (simulate_acquisition(shape=(96, 96), noise_std=std, seed=1) for std in (0.05, 0.0))
    noise = noisy.kspace - clean.kspace
    assert noisy.noise_std == 0.05
    for part in (noise.real, noise.imag):
        assert 0.97 < float(part.std()) / 0.05 < 1.03
        assert abs(float(part.mean())) < 0.001


def test_coloured_noise_has_the_stated_covariance() -> None:
    """The k-space corners hold next to no signal; the noise is what is left of k-space minus C x."""
    scan = simulate_acquisition(
        shape=(96, 96), coils=5, noise_std=0.05, seed=1, slices=3, coloured=True, coil_maps=True
    )
    assert scan.coil_maps is not None and scan.reference is not None and scan.noise_covariance is not None
    noise = scan.kspace - fft2c(scan.coil_maps * scan.reference[:, None])
    samples = noise.movedim(1, 0).flatten(1).to(torch.complex128)
    found = samples @ samples.mH / samples.shape[1]
    covariance = scan.noise_covariance.to(torch.complex128)
    # the deviation of an entry of a sample covariance is √(Ψ_jj Ψ_kk / samples)
    own = covariance.diagonal().real
    assert ((found - covariance).abs() < 5 * (own[:, None] * own / samples.shape[1]).sqrt()).all()
    assert float(own.mean()) == pytest.approx(2 * scan.noise_std**2, rel=1e-5)
    correlation = covariance.abs() / (own[:, None] * own).sqrt()
    assert correlation.fill_diagonal_(0).max() > 0.05 and own.max() / own.min() > 1.02
    separate = samples @ samples.mT / samples.shape[1]  # E[n nᵀ] of circular noise is zero
    assert (separate.abs() < 5 * (2 * own[:, None] * own / samples.shape[1]).sqrt()).all()


def test_noise_is_independent_between_slices_and_samples() -> None:
    noisy, clean = (simulate_acquisition(shape=(64, 64), coils=2, noise_std=std, slices=2) for std in (0.05, 0.0))
    first, second = (noisy.kspace - clean.kspace).flatten(1) / (0.05 * math.sqrt(2))
    for other in (second, first.roll(1), first.roll(64)):
        assert abs((first * other.conj()).mean()) < 0.05


# Signal


def test_coil_images_combine_to_the_reference() -> None:
    """The maps have unit sum of squares, so the root sum of squares of the coil images is |x|."""
    scan = simulate_acquisition(shape=(80, 72), noise_std=0.0, slices=2)
    assert scan.reference is not None
    combined = ifft2c(scan.kspace).abs().square().sum(1).sqrt()
    torch.testing.assert_close(combined, scan.reference.abs(), atol=1e-5, rtol=0)


def test_maps_times_reference_are_the_kspace_of_every_slice() -> None:
    scan = simulate_acquisition(shape=(48, 40), coils=3, noise_std=0.0, slices=3, coil_maps=True)
    assert scan.coil_maps is not None and scan.reference is not None
    torch.testing.assert_close(fft2c(scan.coil_maps * scan.reference[:, None]), scan.kspace)
    torch.testing.assert_close(scan.coil_maps.abs().square().sum(1), torch.ones(3, 48, 40))
    far = (scan.coil_maps[0] - scan.coil_maps[2]).abs().max()
    near = (scan.coil_maps[0] - scan.coil_maps[1]).abs().max()
    assert 1e-3 < near < far  # coils see every slice from another height


def test_every_slice_has_the_maps_of_its_height(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[CoilArray] = []
    draw = CoilArray.draw

    def spy(*arguments: Any) -> CoilArray:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(simulate.CoilArray, "draw", spy)
    scan = simulate_acquisition(
        heads=ProceduralHeads(Protocol(pixel=4.0, thickness=10.0)), shape=(48, 40), coils=3, slices=3, coil_maps=True
    )
    assert scan.geometry is not None and scan.geometry.axes is not None and scan.coil_maps is not None
    for index in range(3):
        centre = scan.geometry.neighbour(index).centre
        height = np.dot(centre, scan.geometry.axes[2]) / (48 * 4.0 / 2)  # in half fields of view
        torch.testing.assert_close(scan.coil_maps[index], drawn[0].maps((float(height),))[0])
    assert (scan.coil_maps[0] - scan.coil_maps[2]).abs().max() > 0.05


def test_axes_are_those_of_radiology() -> None:
    """Rows run to posterior or inferior, columns to the left or to posterior; LPS."""
    assert simulate.AXES == {
        "axial": ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
        "coronal": ((0, 0, -1), (1, 0, 0), (0, -1, 0)),
        "sagittal": ((0, 0, -1), (0, 1, 0), (-1, 0, 0)),
    }


def test_maps_and_noise_do_not_change_what_else_is_drawn() -> None:
    plain, more = (simulate_acquisition(shape=(48, 40), coil_maps=value, coloured=value) for value in (False, True))
    assert plain.reference is not None and more.reference is not None
    assert torch.equal(plain.reference, more.reference)


def test_seed_determines_the_scan() -> None:
    for coloured in (False, True):
        first, again, other = (simulate_acquisition(shape=(48, 48), seed=seed, coloured=coloured) for seed in (0, 0, 1))
        assert torch.equal(first.kspace, again.kspace)
        assert not torch.allclose(first.kspace, other.kspace, atol=0.1)


# Place


def test_geometry_states_what_was_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.full((40, 40, 40), 2, np.int16), voxel=[5.0] * 3)
    heads = LabelMapHeads(tmp_path, Protocol(plane="coronal", pixel=1.5, thickness=4.0, gap=1.0))
    for slices, centre in ((1, (0, 0, 0)), (4, (0, 7.5, 0))):  # from back to front, around the origin; +y is posterior
        geometry = simulate_acquisition(shape=(32, 24), heads=heads, slices=slices).geometry
        assert geometry is not None
        assert (geometry.pixel, geometry.spacing, geometry.centre) == ((1.5, 1.5), 5.0, centre)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("axis", "patient"), [(1, (0, -1, 0)), (2, (0, 0, 1))], ids=["anterior", "superior"])
def test_axes_point_where_the_head_does(tmp_path: Path, plane: str, axis: int, patient: tuple[int, ...]) -> None:
    """A head whose front (or top) is fluid, bright in T2: so is what the geometry says lies there (in LPS)."""
    labels = np.full((100, 100, 100), 2, np.int16)
    middle, thickness = (68, 12.0) if plane == "axial" else (50, 24.0)  # axial slices are those of the brain
    np.moveaxis(labels, axis, 0)[middle if axis == 2 else 50 :] = 24
    np.savez(tmp_path / "a.npz", labels=labels, voxel=[2.0] * 3)
    heads = LabelMapHeads(tmp_path, Protocol(plane=plane, pixel=4.0, thickness=thickness, contrast="t2"))
    for seed in range(4):
        scan = simulate_acquisition(shape=(32, 32), heads=heads, slices=7, seed=seed)
        assert scan.reference is not None and scan.geometry is not None and scan.geometry.axes is not None
        steps = (torch.arange(32) - 16) * 4.0, (torch.arange(32) - 16) * 4.0, torch.arange(7) * thickness
        rows, columns, across = (
            step * float(np.dot(direction, patient)) for step, direction in zip(steps, scan.geometry.axes, strict=True)
        )
        place = across[:, None, None] + rows[:, None] + columns
        assert torch.corrcoef(torch.stack([place.flatten(), scan.reference.abs().flatten()]))[0, 1] > 0.4


# What is refused


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"shape": (8, 64)}, "shape"),
        ({"coils": 0}, "coils"),
        ({"slices": 0}, "slices"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"noise_std": float("nan")}, "noise_std"),
        ({"noise_std": 0.0, "coloured": True}, "noise_std"),
        ({"seed": -1}, "seed"),
    ],
)
def test_errors(arguments: dict, field: str) -> None:
    with pytest.raises(InputError, match=f"simulate_acquisition: {field}: found"):
        simulate_acquisition(**arguments)


def test_a_simulated_scan_can_be_undersampled() -> None:
    scan = simulate_acquisition(shape=(32, 32), slices=2)
    mask = torch.zeros(1, 1, 32, dtype=torch.bool)
    mask[..., ::2] = True
    kept = scan.undersampled(mask)
    assert isinstance(kept, Acquisition) and kept.acceleration == 2
    assert torch.equal(kept.kspace[..., ::2], scan.kspace[..., ::2]) and (kept.kspace[..., 1::2] == 0).all()


def test_slices_of_a_simulated_scan_have_seeds_of_their_own():
    second = SimulatedSlices(5, 2, shape=(32, 28), coils=2).read(1)
    assert torch.equal(second.kspace, simulate_acquisition(seed=6, shape=(32, 28), coils=2).kspace)


def test_the_default_type_of_torch_changes_nothing() -> None:
    options: dict[str, Any] = {"shape": (32, 28), "coils": 3, "coil_maps": True, "seed": 1}
    single, drawn = simulate_acquisition(**options), make_mask("poisson-2d", (32, 28), 3, seed=1)
    labels = simulate_acquisition(heads=ProceduralHeads(), coloured=True, **options)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        double, again = simulate_acquisition(**options), make_mask("poisson-2d", (32, 28), 3, seed=1)
        coloured = simulate_acquisition(heads=ProceduralHeads(), coloured=True, **options)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(drawn, again)
    for one, other in ((single, double), (labels, coloured)):
        for name in ("kspace", "coil_maps", "reference"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-4)
