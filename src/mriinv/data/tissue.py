"""Tissue classes of a head, how label maps name them, and how bright pulse sequences show them.

Relaxation times at 3 T follow Stanisz et al., Magn. Reson. Med. 54:507 (2005), Wansapura et al., J. Magn. Reson.
Imaging 9:531 (1999), and the review of Bojorquez et al., Magn. Reson. Imaging 35:69 (2017); for tissues that these do
not list, values between those of similar ones. T1 at 1.5 T follows from T1 ∝ B₀^(1/3) (Bottomley et al., Med. Phys.
11:425, 1984), which does not hold for fluids and fat.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mriinv.data.texture import uniform
from mriinv.errors import InputError

# T1 and T2 in ms at 3 T, T2' (1/T2* = 1/T2 + 1/T2') in ms at 3 T, density of visible protons relative to water, and the
# strength of the texture. The T2 of fat is that of trains of refocusing pulses.
_TABLE: dict[str, tuple[float, float, float, float, float]] = {
    "air": (1000, 50, 10, 0.00, 0.0),
    "white": (900, 72, 150, 0.69, 0.6),
    "cortex": (1400, 95, 120, 0.81, 1.0),
    "csf": (4300, 1500, 150, 1.00, 0.7),
    "cerebellar_white": (920, 74, 100, 0.70, 1.0),
    "cerebellar_cortex": (1380, 92, 100, 0.80, 1.5),
    "thalamus": (1180, 80, 120, 0.75, 0.8),
    "caudate": (1330, 86, 100, 0.79, 0.8),
    "putamen": (1270, 78, 90, 0.78, 0.8),
    "pallidum": (1050, 60, 60, 0.72, 0.8),
    "brainstem": (1080, 80, 80, 0.72, 1.0),
    "hippocampus": (1430, 100, 90, 0.82, 1.0),
    "amygdala": (1420, 98, 60, 0.81, 1.0),
    "ventral_dc": (1120, 72, 80, 0.73, 0.8),
    "lesion": (1500, 150, 120, 0.88, 1.0),
    "vessel": (1900, 150, 60, 0.80, 1.0),
    "eye": (4000, 900, 100, 0.98, 0.5),
    "optic": (1080, 78, 60, 0.72, 1.0),
    "muscle": (1410, 40, 60, 0.78, 2.0),
    "fat": (370, 110, 40, 0.90, 2.0),
    "mucosa": (1800, 130, 40, 0.90, 3.0),
    "skin": (1100, 45, 40, 0.70, 2.0),
    "cord": (990, 78, 80, 0.72, 1.0),
    "dura": (1000, 30, 40, 0.55, 2.0),
    "bone": (300, 4, 5, 0.15, 3.0),
    "marrow": (480, 70, 15, 0.60, 3.0),
}
TISSUES = tuple(_TABLE)
TISSUE = {name: index for index, name in enumerate(TISSUES)}
T1, T2, T2_PRIME, DENSITY, TEXTURE_STRENGTH = torch.tensor(list(_TABLE.values())).unbind(1)
_SAME_AT_ANY_FIELD = torch.tensor([name in ("csf", "eye", "fat", "marrow") for name in TISSUES])
_FATTY = [TISSUE["fat"], TISSUE["marrow"]]

CONTRASTS = ("t1", "t2", "pd", "flair")
_SHARES = torch.tensor([0.4, 0.35, 0.1, 0.15])  # of the contrasts, where none is asked for

# FreeSurfer labels (left and right merged) and the extra-cerebral classes that SynthSeg's training maps add.
_LABELS: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "white": (2, 41, 85, 192, 250, 251, 252, 253, 254, 255),
    "cortex": (3, 42),
    "csf": (4, 5, 14, 15, 24, 43, 44, 72),
    "cerebellar_white": (7, 46),
    "cerebellar_cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 26, 50, 58),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "brainstem": (16,),
    "hippocampus": (17, 53),
    "amygdala": (18, 54, 136, 137, 163, 164),
    "ventral_dc": (28, 60),
    "lesion": (25, 57, 77, 78, 79),
    "vessel": (30, 31, 62, 63, 502),
    "eye": (506,),
    "muscle": (507,),
    "optic": (508,),
    "mucosa": (509,),
    "skin": (511,),
    "cord": (512,),
    "dura": (514, 530),
    "bone": (515,),
    "marrow": (516,),
}
LARGEST_LABEL = 2**15 - 1


def classify_labels(labels: np.ndarray) -> np.ndarray:
    """Return the tissue index (uint8) of every label; unknown ones are cortex below 500 and muscle from 500 on."""
    table = np.full(LARGEST_LABEL + 1, TISSUE["cortex"], np.uint8)
    table[500:] = TISSUE["muscle"]
    for tissue, values in _LABELS.items():
        table[list(values)] = TISSUE[tissue]
    return table[labels]


class Contrast(NamedTuple):
    """The signal of every tissue, real ``(tissue,)`` and not negative, and the sequence in words."""

    signal: Tensor
    description: str


class _Sequence(NamedTuple):
    """The signal per density, the sequence in words, and whether its echoes are made by a second pulse."""

    signal: Tensor
    words: str
    refocused: bool = True


def spin_echo(t1: Tensor, t2: Tensor, tr: float, te: float) -> Tensor:
    """Return (1 − e^(−TR/T1)) e^(−TE/T2); for turbo spin echo TE is the effective one. Times in ms."""
    return (1 - torch.exp(-tr / t1)) * torch.exp(-te / t2)


def spoiled_gradient_echo(t1: Tensor, t2_star: Tensor, tr: float, te: float, flip: float) -> Tensor:
    """Return sin α (1 − E₁)/(1 − E₁ cos α) e^(−TE/T2*) with E₁ = e^(−TR/T1) (Ernst); times in ms, α in degrees."""
    e1, angle = torch.exp(-tr / t1), math.radians(flip)
    return math.sin(angle) * (1 - e1) / (1 - e1 * math.cos(angle)) * torch.exp(-te / t2_star)


def inversion_recovery(t1: Tensor, decay: Tensor, tr: float, te: float, ti: float) -> Tensor:
    """Return |1 − 2 e^(−TI/T1) + e^(−TR/T1)| e^(−TE/T), with T = T2 (FLAIR) or T2* (MPRAGE, whose readout is left out).

    Times in ms.
    """
    return (1 - 2 * torch.exp(-ti / t1) + torch.exp(-tr / t1)).abs() * torch.exp(-te / decay)


def null_point(t1: float, tr: float) -> float:
    """Return the inversion time (ms) at which `inversion_recovery` is zero: T1 ln(2/(1 + e^(−TR/T1)))."""
    return t1 * math.log(2 / (1 + math.exp(-tr / t1)))


def random_contrast(generator: torch.Generator, kind: str | None = None) -> Contrast:
    """Return a usual sequence at 1.5 or 3 T with random parameters, for a head whose tissues are a little its own.

    T1-weighted (MPRAGE, spin echo, spoiled gradient echo), T2-weighted and proton density (turbo spin echo), FLAIR
    (turbo spin echo); a third with suppressed fat. T1 and T2 vary by 6 %, T2′ by 20 %, densities by
    3 % (standard deviation).

    Parameters
    ----------
    kind : one of `CONTRASTS`; None for any

    Raises
    ------
    InputError : an unknown contrast
    """
    if kind is None:
        kind = CONTRASTS[int(torch.multinomial(_SHARES, 1, generator=generator))]
    if kind not in CONTRASTS:
        raise InputError("random_contrast", "contrast", repr(kind), " or ".join(CONTRASTS))
    field = 3.0 if uniform(0, 1, generator) < 0.6 else 1.5
    spread = torch.tensor([[0.06], [0.06], [0.2], [0.03]]) * torch.randn(
        4, len(TISSUES), generator=generator, dtype=torch.float32
    )
    t1, t2, t2_prime, density = torch.stack([T1, T2, T2_PRIME, DENSITY]) * spread.exp()
    t1 = torch.where(_SAME_AT_ANY_FIELD, t1, t1 * (field / 3) ** (1 / 3))
    t2_star = 1 / (1 / t2 + (field / 3) / t2_prime)
    signal, words, refocused = _SEQUENCES[kind](t1, t2, t2_star, generator)
    signal = density * signal
    if refocused:
        signal[TISSUE["vessel"]] *= uniform(0, 0.6, generator)  # moving blood leaves the slice between the pulses
    suppression, amount = torch.rand(2, generator=generator, dtype=torch.float32).tolist()
    if suppression < 0.33:
        signal[_FATTY] *= 0.1 + 0.4 * amount
        words += ", fat suppressed"
    return Contrast(signal / signal.max(), f"{kind.upper()} {words}, {field:g} T")


def _t1_weighted(t1: Tensor, t2: Tensor, t2_star: Tensor, generator: torch.Generator) -> _Sequence:
    choice = uniform(0, 1, generator)
    if choice < 0.5:
        tr, te, ti = uniform(1900, 2500, generator), uniform(2, 5, generator), uniform(850, 1100, generator)
        words = f"MPRAGE, TR {tr:.0f} ms, TE {te:.1f} ms, TI {ti:.0f} ms"
        return _Sequence(inversion_recovery(t1, t2_star, tr, te, ti), words, refocused=False)
    if choice < 0.75:
        tr, te = uniform(400, 700, generator), uniform(8, 15, generator)
        return _Sequence(spin_echo(t1, t2, tr, te), f"SE, TR {tr:.0f} ms, TE {te:.0f} ms")
    tr, te = uniform(20, 250, generator), uniform(2.5, 6, generator)
    ernst = math.degrees(math.acos(math.exp(-tr / float(t1[TISSUE["white"]]))))
    flip = ernst * uniform(1.5, 2, generator)  # near the Ernst angle density would outweigh T1
    signal = spoiled_gradient_echo(t1, t2_star, tr, te, flip)
    words = f"FLASH, TR {tr:.0f} ms, TE {te:.1f} ms, flip angle {flip:.0f}°"
    return _Sequence(signal, words, refocused=False)


def _t2_weighted(t1: Tensor, t2: Tensor, t2_star: Tensor, generator: torch.Generator) -> _Sequence:
    tr, te = uniform(3000, 6500, generator), uniform(80, 120, generator)
    return _Sequence(spin_echo(t1, t2, tr, te), f"TSE, TR {tr:.0f} ms, TE {te:.0f} ms")


def _density_weighted(t1: Tensor, t2: Tensor, t2_star: Tensor, generator: torch.Generator) -> _Sequence:
    tr, te = uniform(2500, 5000, generator), uniform(10, 30, generator)
    return _Sequence(spin_echo(t1, t2, tr, te), f"TSE, TR {tr:.0f} ms, TE {te:.0f} ms")


def _flair(t1: Tensor, t2: Tensor, t2_star: Tensor, generator: torch.Generator) -> _Sequence:
    tr, te = uniform(8000, 11000, generator), uniform(85, 140, generator)
    ti = null_point(float(t1[TISSUE["csf"]]), tr) * uniform(0.99, 1.01, generator)
    words = f"TSE, TR {tr:.0f} ms, TE {te:.0f} ms, TI {ti:.0f} ms"
    return _Sequence(inversion_recovery(t1, t2, tr, te, ti), words)


_SEQUENCES = {"t1": _t1_weighted, "t2": _t2_weighted, "pd": _density_weighted, "flair": _flair}
