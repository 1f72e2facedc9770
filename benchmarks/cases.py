"""The slices and masks on which methods are compared: two real multi-coil scans and a semi-synthetic one.

Simulated: `heads`, unseen slices through the label maps of the training, through other coils and on a larger matrix.
Real: `bart_full8` (8 coils, 230×180, T1) and `chiew_sense16` (16 coils, 96×96), fully sampled, undersampled in
retrospect. Semi-synthetic: axial T2 slices of subject 4 of `siat200`, complex images combined from coils that nobody
kept, seen again through the coils of `bart_full8` (`semi_synthetic_slices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mriinv import Acquisition, complex_noise, make_operator, open_scan, simulate_acquisition
from mriinv.data.heads import LabelMapHeads
from mriinv.data.mask_choice import MaskChoice
from mriinv.data.preparation import prepare_acquisition
from mriinv.data.texture import smooth_field
from mriinv.manifest import Choice
from mriinv.numerics.fft import fft2c
from mriinv.validation import Case, retrospective_case

MASKS = {
    "2D 4×": ("poisson-2d", 4.0),
    "2D 6×": ("poisson-2d", 6.0),
    "1D 2×": ("random-1d", 2.0),
    "1D 4×": ("random-1d", 4.0),
}
REAL_SCANS = {"bart_full8": "bart_full8/full.npz", "chiew_sense16": "chiew_sense16/sense16.npz"}
HEAD_SEEDS = (100_000, 100_001, 100_002)
SIAT_SUBJECT = 4  # served to choose some settings of DEEPEN too (benchmarks/results/README.md)
SIAT_SLICES = (2, 5, 8)  # of the ten axial ones
NOISE_STD = 0.005  # added, per real component; the images have noise of their own, 0.013 to 0.016
Slices = Callable[[Path], Iterator[Acquisition]]
PHASE_STD = 0.8  # radians, of the synthetic phase at its knots


@dataclass(frozen=True)
class EvaluationCase:
    """One slice under one mask: `scan` and `mask` name the group whose slices are averaged."""

    scan: str
    mask: str
    case: Case


def evaluation_cases(data_folder: Path, scans: tuple[str, ...] = (), device: str = "cpu") -> Iterator[EvaluationCase]:
    """Give every slice under every mask, scan by scan; `scans` selects among them, ``siat200`` and ``heads``.

    Scans are prepared as the command line does it (whitened), and coil maps come from the undersampled data.
    """
    for scan in scans or (*REAL_SCANS, "siat200", "heads"):
        groups: dict[str, Slices] = {"siat200": semi_synthetic_slices, "heads": simulated_heads}
        found = groups[scan](data_folder) if scan in groups else [real_scan(data_folder, scan)]
        slices = [one.to(torch.device(device)) for one in found]
        for label, (name, acceleration) in MASKS.items():
            for full in slices:
                mask = MaskChoice(name=name, acceleration=acceleration).mask_for(full)
                yield EvaluationCase(scan, label, retrospective_case(full.source, full, mask, Choice(name="sense")))


def real_scan(data_folder: Path, name: str) -> Acquisition:
    """Return a fully sampled real slice, prepared."""
    with open_scan(data_folder / REAL_SCANS[name]) as scan:
        return prepare_acquisition(scan.read(0))


def simulated_heads(data_folder: Path, seeds: tuple[int, ...] = HEAD_SEEDS) -> Iterator[Acquisition]:
    """Give fully sampled slices of simulated heads, 224×192, 12 coils."""
    heads = LabelMapHeads(data_folder / "synthseg_labels")
    for seed in seeds:
        full = simulate_acquisition(heads=heads, shape=(224, 192), coils=12, noise_std=NOISE_STD, seed=seed)
        yield replace(full, source=f"simulated head {seed}")


def semi_synthetic_slices(
    data_folder: Path, slices: tuple[int, ...] = SIAT_SLICES, subject: int = SIAT_SUBJECT
) -> Iterator[Acquisition]:
    """Give fully sampled multi-coil k-space b = F C x + n of real complex images x.

    C are the coil maps that ESPIRiT finds on `bart_full8`, extended smoothly beyond the head they were measured on and
    resized; x is the image times a smooth random phase, since its own is nearly flat; n is white noise of `NOISE_STD`
    per real component. x, with the noise it came with, is the reference: 99.5th percentile of |x| is 1.
    """
    with np.load(data_folder / f"siat200/siat_subject{subject}.npz") as file:
        steps, quantised = file["step"], file["q"]
    shape = (quantised.shape[-2], quantised.shape[-1])
    measured = make_operator("sense", real_scan(data_folder, "bart_full8")).exported_maps()["coil_maps"]
    maps = resized_maps(measured[0], shape)
    for index in slices:
        generator = torch.Generator().manual_seed(100 * abs(subject - SIAT_SUBJECT) + index)
        parts = torch.from_numpy(steps[index] * quantised[index].astype(np.float32))
        image = torch.complex(*parts) * torch.polar(torch.ones(shape), PHASE_STD * smooth_field(shape, 4, generator))
        kspace = fft2c(maps * image)
        yield Acquisition(
            kspace=(kspace + complex_noise(kspace.shape, NOISE_STD, generator))[None],
            mask=torch.ones(1, *shape, dtype=torch.bool),
            reference=image[None],
            noise_std=NOISE_STD,
            source=f"siat200 subject {subject} slice {index}",
        )


def resized_maps(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return coil maps ``(coil, y, x)`` on another matrix, extended over all of it, with unit sum of squares.

    Beyond the support, the nearest scale of a Gaussian average that reaches it takes over, from fine to coarse.
    """
    support = (maps.abs().square().sum(0) > 0).float()
    extended, known = maps, support
    for width in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0):
        weight = _blur(support.to(maps.dtype)[None], width).real
        reached = (weight[0] > 0.05) & (known == 0)
        extended = torch.where(reached, _blur(maps, width) / weight.clamp_min(1e-6), extended)
        known = torch.maximum(known, reached.float())
    extended = _blur(torch.where(known > 0, extended, 0), 2.0)
    parts = torch.view_as_real(extended).movedim(-1, 1)
    larger = interpolate(parts, size=shape, mode="bilinear", align_corners=False).movedim(1, -1).contiguous()
    resized = torch.view_as_complex(larger)
    return resized / resized.abs().square().sum(0).sqrt()


def _blur(images: Tensor, width: float) -> Tensor:
    """Return images ``(…, y, x)`` averaged by a Gaussian of `width` pixels, zero outside."""
    for axis in (-2, -1):
        size = images.shape[axis]
        index = torch.arange(size, dtype=torch.float32)
        kernel = torch.exp(-0.5 * ((index[:, None] - index) / width) ** 2)
        kernel = (kernel / kernel[size // 2].sum()).to(images.dtype)
        images = kernel @ images if axis == -2 else images @ kernel
    return images
