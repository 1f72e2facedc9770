"""Tissue classes and contrasts: signal equations against closed forms, and the order of tissues in every weighting."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from mriinv.data.tissue import (
    CONTRASTS,
    DENSITY,
    LARGEST_LABEL,
    T1,
    T2,
    TISSUE,
    TISSUES,
    Contrast,
    classify_labels,
    inversion_recovery,
    null_point,
    random_contrast,
    spin_echo,
    spoiled_gradient_echo,
)
from mriinv.errors import InputError

TIMES = torch.tensor([300.0, 900.0, 1400.0, 4300.0])
FOREVER = torch.full((4,), math.inf)


def draws(kind: str | None, count: int) -> list[Contrast]:
    generator = torch.Generator().manual_seed(0)
    return [random_contrast(generator, kind) for _ in range(count)]


def signal(contrasts: list[Contrast], *tissues: str) -> list[Tensor]:
    return [torch.stack([one.signal[TISSUE[tissue]] for one in contrasts]) for tissue in tissues]


# Labels


def test_classes_merge_sides_and_cover_unknown_labels() -> None:
    labels = np.array([0, 2, 41, 3, 42, 9, 499, 506, 599, LARGEST_LABEL])
    names = [TISSUES[index] for index in classify_labels(labels)]
    assert names == ["air", *["white"] * 2, *["cortex"] * 4, "eye", "muscle", "muscle"]


# Sequences


def test_spin_echo_is_one_time_constant_at_a_time() -> None:
    torch.testing.assert_close(spin_echo(TIMES, FOREVER, tr=math.log(2) * 900, te=50)[1], torch.tensor(0.5))
    torch.testing.assert_close(spin_echo(TIMES, TIMES, tr=1e9, te=900)[1], torch.tensor(math.exp(-1)))
    assert (spin_echo(TIMES, TIMES, tr=0, te=0) == 0).all()


def test_a_gradient_echo_at_90_degrees_is_saturation_recovery() -> None:
    found = spoiled_gradient_echo(TIMES, TIMES / 10, tr=250, te=5, flip=90)
    torch.testing.assert_close(found, spin_echo(TIMES, TIMES / 10, tr=250, te=5))


def test_a_gradient_echo_is_the_steady_state_of_pulses_and_recovery() -> None:
    tr, flip, longitudinal = 120.0, math.radians(40), torch.ones(4)
    for _ in range(2000):
        longitudinal = 1 - (1 - longitudinal * math.cos(flip)) * torch.exp(-tr / TIMES)
    found = spoiled_gradient_echo(TIMES, FOREVER, tr, te=3, flip=40)
    torch.testing.assert_close(found, math.sin(flip) * longitudinal, rtol=1e-4, atol=0)


def test_the_ernst_angle_gives_the_largest_signal() -> None:
    t1, flips = torch.tensor(900.0), torch.linspace(1, 90, 891).tolist()
    signals = [float(spoiled_gradient_echo(t1, t1, tr=50, te=0, flip=flip)) for flip in flips]
    ernst = math.degrees(math.acos(math.exp(-50 / 900)))
    assert flips[int(np.argmax(signals))] == pytest.approx(ernst, abs=0.2)


@pytest.mark.parametrize("tr", [2000, 9000, 1e9])
def test_inversion_recovery_vanishes_at_the_null_point(tr: float) -> None:
    for t1 in TIMES.tolist():
        ti = null_point(t1, tr)
        before, at, after = (
            float(inversion_recovery(torch.tensor(t1), torch.tensor(math.inf), tr, 5, ti * factor))
            for factor in (0.9, 1, 1.1)
        )
        assert at < 1e-5 < 1e-3 < min(before, after)
    assert null_point(900, 1e9) == pytest.approx(900 * math.log(2))


def test_inversion_recovery_without_recovery_or_with_all_of_it() -> None:
    torch.testing.assert_close(inversion_recovery(TIMES, FOREVER, 1e9, 5, 0), torch.ones(4))
    decay = torch.exp(-60 / TIMES)
    torch.testing.assert_close(inversion_recovery(TIMES, TIMES, 1e9, 60, 1e8), decay)


# Contrasts


@pytest.mark.parametrize("kind", [None, *CONTRASTS])
def test_signals_are_those_of_an_image(kind: str | None) -> None:
    signals = torch.stack([one.signal for one in draws(kind, 100)])
    assert signals.shape == (100, len(TISSUES)) and (signals >= 0).all()
    torch.testing.assert_close(signals.max(1).values, torch.ones(100))
    assert (signals[:, TISSUE["air"]] == 0).all() and signals[:, TISSUE["bone"]].max() < 0.3
    assert signals[:, TISSUE["cortex"]].std() > 0.01


def test_t1_weighted_images_show_white_matter_bright_and_fluid_dark() -> None:
    white, cortex, csf = signal(draws("t1", 400), "white", "cortex", "csf")
    assert (white > csf).all()
    assert (white > cortex).float().mean() > 0.95 and (cortex > csf).float().mean() > 0.95  # heads differ a little
    assert (white / cortex).median() > 1.15 and (cortex / csf).median() > 1.5


def test_t2_weighted_images_are_the_reverse() -> None:
    white, cortex, csf, lesion = signal(draws("t2", 400), "white", "cortex", "csf", "lesion")
    assert (csf > cortex).all() and (cortex > white).all() and (lesion > 1.3 * white).all()
    assert (csf / white).median() > 2


def test_density_weighted_images_show_all_of_them() -> None:
    white, cortex, csf = signal(draws("pd", 200), "white", "cortex", "csf")
    assert (cortex > white).float().mean() > 0.95
    assert ((csf / cortex).log().abs() < 0.7).all()


def test_flair_nulls_fluid_and_shows_lesions() -> None:
    white, csf, lesion = signal(draws("flair", 400), "white", "csf", "lesion")
    assert (csf < 0.1 * white).all()
    assert (lesion > 1.3 * white).all()


def numbers(contrast: Contrast) -> dict[str, float]:
    """Return TR, TE, TI in ms, the flip angle and the field that a description states."""
    found = re.findall(r"(TR|TE|TI|flip angle) ([\d.]+)", contrast.description)
    return {**{name: float(value) for name, value in found}, "T": float(contrast.description.split()[-2])}


@pytest.mark.parametrize("field", [1.5, 3.0])
@pytest.mark.parametrize("sequence", ["T1 SE", "T1 MPRAGE", "T1 FLASH", "T2 TSE", "PD TSE", "FLAIR TSE"])
def test_the_description_carries_the_numbers_behind_the_signal(sequence: str, field: float) -> None:
    """White matter over grey, on average over heads, follows from them and the table, with T1 ∝ B₀^(1/3)."""
    chosen = [one for one in draws(sequence.split()[0].lower(), 800) if one.description.startswith(sequence + ",")]
    chosen = [one for one in chosen if numbers(one)["T"] == field]
    assert len(chosen) > 40
    pair = [TISSUE["white"], TISSUE["muscle"]]
    t1, t2, density = T1[pair] * (field / 3) ** (1 / 3), T2[pair], DENSITY[pair]
    errors = []
    for one in chosen:
        n = numbers(one)
        if "flip angle" in n:
            expected = spoiled_gradient_echo(t1, FOREVER[:2], n["TR"], n["TE"], n["flip angle"])
        elif "TI" in n:
            expected = inversion_recovery(t1, t2 if "FLAIR" in sequence else FOREVER[:2], n["TR"], n["TE"], n["TI"])
        else:
            expected = spin_echo(t1, t2, n["TR"], n["TE"])
        ratio = [float(values[0] / values[1]) for values in (one.signal[pair], density * expected)]
        errors.append(math.log(ratio[0] / ratio[1]))
    assert abs(float(np.median(errors))) < 0.1
    assert np.std(errors) < 0.5


def test_fluids_and_fat_have_one_t1_at_any_field() -> None:
    """Between draws at 1.5 and 3 T the T1-weighted signal of white matter over fluid differs as T1 does."""
    chosen = [one for one in draws("t1", 1500) if one.description.startswith("T1 SE,")]
    white, csf = signal(chosen, "white", "csf")
    low = torch.tensor([numbers(one)["T"] == 1.5 for one in chosen])
    ratio = (white / csf).log()
    tr = torch.tensor([numbers(one)["TR"] for one in chosen])
    recovery = [(1 - torch.exp(-tr / (T1[TISSUE["white"]] * scale))).log() for scale in (0.5 ** (1 / 3), 1)]
    expected = (recovery[0] - recovery[1]).mean()
    assert float(ratio[low].mean() - ratio[~low].mean()) == pytest.approx(float(expected), abs=0.05)


def test_fat_is_suppressed_in_a_third() -> None:
    for kind in CONTRASTS:
        chosen = draws(kind, 300)
        fat, white = signal(chosen, "fat", "white")
        suppressed = torch.tensor(["fat suppressed" in one.description for one in chosen])
        assert 0.25 < suppressed.float().mean() < 0.42
        assert (fat / white)[suppressed].median() < 0.6 * (fat / white)[~suppressed].median()


def test_blood_leaves_the_slice_between_the_pulses_of_spin_echoes() -> None:
    generator = torch.Generator().manual_seed(0)
    signals = torch.stack([random_contrast(generator, "t2").signal for _ in range(100)])
    ratio = signals[:, TISSUE["vessel"]] / signals[:, TISSUE["lesion"]]  # of nearly the same T2; 0.9 at rest
    assert ratio.max() < 0.75 and ratio.min() < 0.1


def test_all_contrasts_are_drawn_and_the_seed_determines_them() -> None:
    first, again = (draws(None, 60) for _ in range(2))
    assert {one.description.split()[0].lower() for one in first} == set(CONTRASTS)
    assert [one.description for one in first] == [one.description for one in again]
    assert all(torch.equal(a.signal, b.signal) for a, b in zip(first, again, strict=True))


def test_an_unknown_contrast_is_refused() -> None:
    with pytest.raises(InputError, match="contrast: found 't3'; expected t1 or t2 or pd or flair"):
        random_contrast(torch.Generator(), "t3")
