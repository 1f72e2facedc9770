"""Tissue classes of a head, how label maps name them, and how bright they are under usual contrasts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Relative signal of each tissue: T1-weighted, T2-weighted, proton density, FLAIR; last column: strength of its texture.
_TABLE: dict[str, tuple[float, float, float, float, float]] = {
    "air": (0.00, 0.00, 0.00, 0.00, 0.0),
    "white": (0.80, 0.36, 0.62, 0.50, 0.6),
    "cortex": (0.55, 0.55, 0.78, 0.68, 1.0),
    "csf": (0.17, 1.00, 0.85, 0.08, 0.7),
    "cerebellar_white": (0.78, 0.38, 0.62, 0.50, 1.0),
    "cerebellar_cortex": (0.54, 0.52, 0.76, 0.66, 1.5),
    "thalamus": (0.66, 0.45, 0.72, 0.58, 0.8),
    "caudate": (0.57, 0.48, 0.76, 0.62, 0.8),
    "putamen": (0.61, 0.44, 0.74, 0.60, 0.8),
    "pallidum": (0.72, 0.30, 0.62, 0.50, 0.8),
    "brainstem": (0.73, 0.42, 0.66, 0.54, 1.0),
    "hippocampus": (0.56, 0.57, 0.80, 0.70, 1.0),
    "amygdala": (0.57, 0.56, 0.79, 0.69, 1.0),
    "ventral_dc": (0.70, 0.38, 0.66, 0.54, 0.8),
    "lesion": (0.60, 0.75, 0.85, 0.90, 1.0),
    "vessel": (0.45, 0.15, 0.45, 0.25, 1.0),
    "eye": (0.20, 0.95, 0.80, 0.15, 0.5),
    "optic": (0.65, 0.42, 0.62, 0.52, 1.0),
    "muscle": (0.42, 0.22, 0.50, 0.38, 2.0),
    "fat": (1.00, 0.80, 0.75, 0.85, 2.0),
    "mucosa": (0.50, 0.75, 0.75, 0.70, 3.0),
    "skin": (0.60, 0.40, 0.55, 0.50, 2.0),
    "cord": (0.74, 0.42, 0.66, 0.54, 1.0),
    "dura": (0.40, 0.25, 0.50, 0.40, 2.0),
    "bone": (0.06, 0.05, 0.10, 0.07, 3.0),
    "marrow": (0.70, 0.45, 0.50, 0.55, 3.0),
}
TISSUES = tuple(_TABLE)
TISSUE = {name: index for index, name in enumerate(TISSUES)}
_SIGNAL = torch.tensor([row[:4] for row in _TABLE.values()])
TEXTURE_STRENGTH = torch.tensor([row[4] for row in _TABLE.values()])
_DARK = torch.tensor([name in ("air", "bone") for name in TISSUES])

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


def classify_labels(labels: np.ndarray) -> np.ndarray:
    """Return the tissue index (uint8) of every label; unknown ones are cortex below 500 and muscle from 500 on."""
    size = max(int(labels.max()), 530) + 1
    table = np.full(size, TISSUE["cortex"], np.uint8)
    table[500:] = TISSUE["muscle"]
    for tissue, values in _LABELS.items():
        table[list(values)] = TISSUE[tissue]
    return table[labels]


def random_contrast(generator: torch.Generator) -> Tensor:
    """Return the mean signal of every tissue, real ``(tissue,)``: a usual weighting with jitter, at times random ones.

    T1-weighted 40 %, T2-weighted 30 %, proton density 10 %, FLAIR 10 %, arbitrary 10 %; a third with suppressed fat.
    """
    kind = int(torch.multinomial(torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]), 1, generator=generator))
    if kind == 4:
        signal = torch.where(_DARK, _SIGNAL[:, 0], 0.1 + 0.9 * torch.rand(len(TISSUES), generator=generator))
    else:
        spread = torch.exp(0.08 * torch.randn(len(TISSUES), generator=generator))
        signal = _SIGNAL[:, kind] ** (0.7 + 0.6 * torch.rand(1, generator=generator)) * spread
    suppression, amount = torch.rand(2, generator=generator).tolist()
    if suppression < 0.33:
        signal[[TISSUE["fat"], TISSUE["marrow"]]] *= 0.15 + 0.5 * amount
    return signal
