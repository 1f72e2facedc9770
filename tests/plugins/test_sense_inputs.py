"""What the SENSE operator refuses, and where its coil maps come from."""

from dataclasses import replace

import pytest
import torch

from mriinv import (
    Acquisition,
    InputError,
    InverseProblem,
    Preparation,
    complex_noise,
    prepare_acquisition,
    psnr,
    simulate_acquisition,
)
from mriinv.errors import SettingsError
from mriinv_sense.operator import SenseOperator
from support import random, unit_maps


def nan_maps():
    maps = unit_maps(1, 2, 4, 4)
    maps[0, 0, 0, 0] = torch.nan
    return maps


MASK = torch.ones(1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("maps", "mask", "field", "expected"),
    [
        (unit_maps(1, 2, 4, 4)[0], MASK, "coil_maps", "coil, y, x"),
        (unit_maps(1, 2, 4, 4).real, MASK, "coil_maps", "complex"),
        (nan_maps(), MASK, "coil_maps", "finite"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.complex64), MASK, "coil_maps", "not zero"),
        (unit_maps(1, 2, 4, 4), MASK[..., :3], "mask", "(batch or 1, 4 or 1, 4)"),
        (unit_maps(1, 2, 4, 4), MASK[:, :2], "mask", "(batch or 1, 4 or 1, 4)"),
        (unit_maps(1, 2, 4, 4), MASK.float(), "mask", "bool"),
        (unit_maps(1, 2, 4, 4), ~MASK, "mask", "at least one"),
        (unit_maps(3, 2, 4, 4), MASK.expand(2, 4, 4), "mask", "batch 1 or 3"),
    ],
)
def test_bad_tensors_are_named(maps, mask, field, expected):
    with pytest.raises(InputError) as caught:
        SenseOperator(maps, mask)
    assert caught.value.field == field
    assert expected in caught.value.expected


@pytest.mark.parametrize("method", ["forward", "gram", "adjoint"])
def test_an_argument_of_another_shape_is_refused(method):
    operator = SenseOperator(unit_maps(3, 3, 5, 6), torch.ones(1, 1, 6, dtype=torch.bool))
    for shape in [(3, 5, 5), (2, 5, 6), (5, 6), (1, 3, 5, 6)]:
        with pytest.raises(InputError, match="expected"):
            getattr(operator, method)(random(*shape))


def acquisition(coils=3, y=6, x=5, **changes):
    kspace = random(2, coils, y, x, dtype=torch.complex64)
    return Acquisition(
        **{"kspace": kspace, "mask": torch.ones(1, 1, x, dtype=torch.bool), "source": "scan.h5", **changes}
    )


def test_maps_of_the_acquisition_come_before_espirit():
    own = unit_maps(1, 3, 6, 5)
    operator = SenseOperator.from_acquisition(acquisition(coil_maps=own))
    torch.testing.assert_close(operator.coil_maps, own.to(torch.complex64))
    assert list(operator.exported_maps()) == ["coil_maps"]


@pytest.mark.parametrize("unit", [1e-3, 10.0])
def test_maps_in_other_units_are_brought_to_a_sum_of_squares_of_one(unit):
    """b = (kC)(x/k): the image that the maps kC show is x/k, and the operator shows x."""
    own, reference = unit_maps(1, 3, 6, 5), random(2, 6, 5, dtype=torch.complex64)
    usual, other = acquisition(coil_maps=own), acquisition(coil_maps=unit * own, reference=reference / unit)
    operator = SenseOperator.from_acquisition(other)
    torch.testing.assert_close(operator.coil_maps, SenseOperator.from_acquisition(usual).coil_maps)
    torch.testing.assert_close(operator.reference_image(other), reference)
    assert "sum of squares" in operator.notes[0]


def test_the_unit_of_the_maps_is_that_of_each_image():
    own = unit_maps(2, 3, 6, 5, dtype=torch.complex64)
    units = torch.tensor([1.0, 30.0]).view(2, 1, 1, 1)
    operator = SenseOperator.from_acquisition(acquisition(coil_maps=units * own))
    torch.testing.assert_close(operator.coil_maps, own)
    image = random(2, 6, 5, dtype=torch.complex64)
    shown = operator.reference_image(acquisition(coil_maps=units * own, reference=image))
    torch.testing.assert_close(shown, units[:, 0] * image)
    assert len(operator.notes) == 1 and "divided by 30" in operator.notes[0]


def test_kspace_that_is_not_finite_is_refused():
    kspace = random(1, 3, 6, 5, dtype=torch.complex64)
    kspace[0, 1, 2, 3] = complex(0, torch.inf)
    with pytest.raises(InputError, match=r"scan\.h5: kspace: found NaN or infinity"):
        SenseOperator.from_acquisition(acquisition(kspace=kspace, coil_maps=unit_maps(1, 3, 6, 5)))


def test_a_misspelt_setting_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'threshold'"):
        SenseOperator.from_acquisition(acquisition(), treshold=0.1)


@pytest.mark.parametrize(
    "preparation",
    [
        {"whiten": False},
        {},
        {"coils": 6},
        {"coils": 6, "compression": "geometric"},
        {"crop": (60, 56), "coils": 7},
    ],
)
def test_a_reference_has_the_intensity_of_the_estimated_maps(preparation):
    full = simulate_acquisition(shape=(72, 64), coils=8, noise_std=0.002, coloured=True, seed=3)
    prepared = prepare_acquisition(full, Preparation(**preparation))
    operator = SenseOperator.from_acquisition(prepared)
    image = operator.fully_sampled_image(prepared.kspace)
    assert psnr(image, operator.reference_image(prepared), operator.support) > 48
    if preparation == {}:
        assert psnr(image, prepared.reference, operator.support) < 30  # whitening does change it


@pytest.mark.parametrize("preparation", [{}, {"coils": 5}, {"coils": 5, "compression": "geometric"}])
@pytest.mark.parametrize("factor", [1, 2])
def test_fully_sampled_data_show_the_image_whatever_the_norm_of_the_maps(preparation, factor):
    """Maps that are given are whitened and compressed with the data, and not normalised but for their unit."""
    full = simulate_acquisition(shape=(72, 64), coils=8, noise_std=0.002, coloured=True, coil_maps=True, seed=3)
    given = replace(full, coil_maps=factor * full.coil_maps, reference=full.reference / factor)
    prepared = prepare_acquisition(given, Preparation(**preparation))
    operator = SenseOperator.from_acquisition(prepared)
    assert psnr(operator.fully_sampled_image(prepared.kspace), operator.reference_image(prepared)) > 50
    if factor == 1:
        torch.testing.assert_close(operator.reference_image(prepared), full.reference)
    assert torch.equal(
        InverseProblem(operator, prepared.kspace).zero_filled(), operator.fully_sampled_image(prepared.kspace)
    )


def test_noise_where_coils_see_hardly_anything_is_not_amplified():
    maps = torch.ones(1, 1, 16, 16, dtype=torch.complex64)
    maps[..., 8:] = 1e-4
    operator = SenseOperator(maps, torch.ones(1, 1, 16, dtype=torch.bool))
    noise = complex_noise((1, 1, 16, 16), 1.0, torch.Generator().manual_seed(0))
    assert operator.fully_sampled_image(noise)[..., 8:].abs().max() < 1
