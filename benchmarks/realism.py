"""Simulated head slices beside real ones: a figure, and how far apart their statistics are.

    OMP_NUM_THREADS=1 python benchmarks/realism.py DATA --out docs

DATA holds siat200 (T2, subjects 0 to 3; subject 4 is an evaluation set), bart_full8 (T1) and synthseg_labels. Simulated
slices get the matrix, the planes and the noise of the real ones. Every image is scaled to a 99th percentile of 1, and
the head is where a smoothed magnitude exceeds 0.08. Writes realism_images.png, realism_statistics.png, realism.csv.

Statistics: magnitudes of the gradient and of wavelet coefficients (Daubechies-4, levels 1 to 3) in the head, compared
by the 1-Wasserstein distance of their decadic logarithms; the radial power spectrum of the complex images per pixel of
the head, from 0.05 to 0.45 cycles per pixel, compared by the rms difference in dB. The yardstick is the distance of two
real subjects.
"""

from __future__ import annotations

import argparse
import csv
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import pywt
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch.nn.functional import avg_pool2d

from mriinv import complex_noise, make_operator, open_scan
from mriinv.core.problem import reference_scale
from mriinv.data.heads import HeadSource, LabelMapHeads, ProceduralHeads, Protocol
from mriinv.data.preparation import prepare_acquisition
from mriinv.numerics.fft import fft2c

PLANES = ("axial", "coronal", "sagittal")
PER_PLANE = 10  # slices of a subject, real or simulated
SUBJECTS = 4
SIAT_PIXEL, BART_PIXEL = 0.75, 1.0  # mm; a head of usual size then fills as much of the matrix as the real ones do
QUANTILES = np.linspace(0.02, 0.98, 97)
BINS = np.linspace(-3.5, 0.75, 43)  # of the decadic logarithm of magnitudes, for the figure
BAND = np.linspace(0.05, 0.45, 33)
NAMES = ("gradient", "wavelets 1", "wavelets 2", "wavelets 3", "spectrum")

Slices = list[torch.Tensor]  # complex (y, x), 99th percentile of the magnitude 1


class Statistics(NamedTuple):
    """Of some slices together: what is compared, and the densities of log10 magnitudes, which are drawn."""

    compared: dict[str, np.ndarray]
    densities: dict[str, np.ndarray]


def siat_subject(folder: Path, subject: int) -> Slices:
    """Return the slices of a real T2 subject."""
    with np.load(folder / "siat200" / f"siat_subject{subject}.npz") as file:
        parts = file["step"][:, None, None, None] * file["q"].astype(np.float32)
    images = torch.complex(*torch.from_numpy(parts).movedim(1, 0))
    return list(images / reference_scale(images)[:, None, None])


def noise_in_head(image: torch.Tensor) -> float:
    """Return the noise per real component where there is signal: combined coils have less of it in air.

    Behind the smooth phase the imaginary part holds noise alone; its mixed second difference, halved, has the same
    standard deviation, told by the median absolute one.
    """
    smooth = torch.complex(*(avg_pool2d(part[None], 17, 1, 8)[0] for part in (image.real, image.imag)))
    part = (image * torch.exp(-1j * smooth.angle())).imag
    difference = (part[1:, 1:] - part[1:, :-1] - part[:-1, 1:] + part[:-1, :-1]) / 2
    level = avg_pool2d(image.abs()[None], 9, 1, 4)[0][1:, 1:]
    return float(difference[(level > 0.2) & (level < 0.6)].abs().median()) / 0.6745


def bart_slice(folder: Path) -> tuple[torch.Tensor, float]:
    """Return the real T1 slice, combined from its coils, and its noise per real component."""
    with open_scan(folder / "bart_full8" / "full.npz") as scan:
        acquisition = prepare_acquisition(scan.read(0))
    image = make_operator("sense", acquisition).fully_sampled_image(acquisition.kspace)
    assert image is not None and acquisition.noise_std is not None
    scale = reference_scale(image)
    return image[0] / scale, float(acquisition.noise_std) / float(scale)


def simulated(source: HeadSource, shape: tuple[int, int], count: int, noise: float, seed: int) -> Slices:
    """Return slices of `count` heads with white noise."""
    generator = torch.Generator().manual_seed(seed)
    return [source.image(shape, generator) + complex_noise(shape, noise, generator) for _ in range(count)]


def statistics(slices: Slices) -> Statistics:
    """Return quantiles and densities of log10 magnitudes, and the spectrum in dB, of slices together."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for image in slices:
        magnitude = image.abs()
        head = avg_pool2d(magnitude[None], 9, stride=1, padding=4)[0] > 0.08
        gradient = torch.hypot(*torch.gradient(magnitude))
        values["gradient"].append(gradient[head].numpy())
        details = pywt.wavedec2(magnitude.numpy(), "db4", mode="periodization", level=3)[:0:-1]
        for level, bands in enumerate(details, 1):
            inside = torch.nn.functional.adaptive_max_pool2d(head[None].float(), bands[0].shape)[0] > 0
            values[f"wavelets {level}"] += [np.abs(band)[inside.numpy()] for band in bands]
        values["spectrum"].append(radial_spectrum(image) / float(head.float().mean()))
    spectrum = 10 * np.log10(np.mean(values.pop("spectrum"), axis=0))
    logs = {name: np.log10(np.concatenate(parts) + 1e-5) for name, parts in values.items()}
    quantiles = {name: np.quantile(log, QUANTILES) for name, log in logs.items()}
    densities = {name: np.histogram(log, BINS)[0] / (len(log) * (BINS[1] - BINS[0])) for name, log in logs.items()}
    return Statistics({**quantiles, "spectrum": spectrum}, densities)


def radial_spectrum(image: torch.Tensor) -> np.ndarray:
    """Return the mean power at the radii `BAND`."""
    power = fft2c(image).abs().square().numpy()
    ky, kx = (np.fft.fftshift(np.fft.fftfreq(size)) for size in image.shape)
    radius = np.hypot(ky[:, None], kx[None])
    ring = np.digitize(radius, np.append(BAND, BAND[-1] + BAND[1] - BAND[0]) - (BAND[1] - BAND[0]) / 2)
    return np.array([power[ring == index + 1].mean() for index in range(len(BAND))])


def distance(a: Statistics, b: Statistics) -> dict[str, float]:
    """Return decades between distributions, dB between spectra."""
    apart = {name: a.compared[name] - b.compared[name] for name in NAMES}
    return {
        name: float(np.sqrt(np.mean(value**2)) if name == "spectrum" else np.mean(np.abs(value)))
        for name, value in apart.items()
    }


def t2_subjects(source: type[HeadSource] | None, folder: Path, shape: tuple[int, int], noise: float) -> list[Slices]:
    """Return simulated T2 subjects with the planes of the real ones; procedural heads, which are axial, for None."""
    subjects = []
    for subject in range(SUBJECTS):
        slices: Slices = []
        for number, plane in enumerate(PLANES if source else ("axial",)):
            protocol = Protocol(plane=plane, pixel=SIAT_PIXEL, thickness=5.0, contrast="t2")
            heads = LabelMapHeads(folder / "synthseg_labels", protocol) if source else ProceduralHeads(protocol)
            slices += simulated(heads, shape, PER_PLANE, noise, 100 * subject + number)
        subjects.append(slices)
    return subjects


def rows(label: str, real: list[Slices], others: dict[str, list[Slices]]) -> tuple[list[dict], dict]:
    """Return the table of distances and the statistics behind it."""
    found = {"real": [statistics(one) for one in real]}
    found |= {name: [statistics(one) for one in subjects] for name, subjects in others.items()}
    apart = [distance(a, b) for a, b in combinations(found["real"], 2)]
    table = []
    for quantity in NAMES:
        row: dict = {"contrast": label, "statistic": quantity}
        if apart:
            row["real, mean"], row["real, largest"] = (of([one[quantity] for one in apart]) for of in (mean, max))
        for name in others:
            row[name] = mean(distance(a, b)[quantity] for a in found[name] for b in found["real"])
        table.append(row)
    return table, found


def upright(slices: Slices, index: int) -> torch.Tensor:
    """Return a slice of siat200, where heads lie on their side, as a reader expects it: anterior or superior up."""
    return slices[index].rot90(-1 if index >= 2 * PER_PLANE else 1)


def draw_images(path: Path, lines: list[tuple[list[str], Slices]]) -> None:
    """Draw a line per source: magnitudes under their captions, then the phase of the first two."""
    columns = max(len(images) for _, images in lines) + 2
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(1.55 * columns, 1.78 * len(lines)), dpi=85, facecolor="black", layout=layout)
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (captions, images) in zip(grid, lines, strict=True):
        for axes, image, caption in zip(line, images, captions, strict=False):
            axes.imshow(image.abs().numpy(), cmap="gray", vmin=0.0, vmax=1.1)
            axes.set_title(caption, color="white", fontsize=8, pad=2)
        for axes, image, caption in zip(line[-2:], images, ("phase of the first", "of the second"), strict=False):
            phase = image.angle().where(image.abs() > 0.1, torch.nan).numpy()
            shown = axes.imshow(phase, cmap="twilight", vmin=-3.1416, vmax=3.1416)
            axes.set_title(caption, color="white", fontsize=8, pad=2)
    bar = figure.colorbar(shown, ax=grid[:, -1], shrink=0.3, pad=0.05, ticks=(-3.1416, 0, 3.1416))
    bar.ax.set_yticklabels(("−π", "0", "π"), color="white", fontsize=8)
    figure.savefig(path, facecolor="black")


def draw_statistics(path: Path, found: dict[str, dict[str, list[Statistics]]]) -> None:
    """Draw densities and spectra: means over subjects as lines, their range as bands."""
    figure = Figure(figsize=(2.5 * len(NAMES), 2.5 * len(found)), dpi=130, layout="constrained")
    grid = figure.subplots(len(found), len(NAMES), squeeze=False)
    for line, (contrast, groups) in zip(grid, found.items(), strict=True):
        for axes, quantity in zip(line, NAMES, strict=True):
            spectrum = quantity == "spectrum"
            for (name, subjects), colour in zip(groups.items(), ("black", "tab:blue", "tab:orange"), strict=True):
                curves = np.array([(one.compared if spectrum else one.densities)[quantity] for one in subjects])
                x = BAND if spectrum else 10 ** ((BINS[1:] + BINS[:-1]) / 2)
                axes.plot(x, curves.mean(0), color=colour, label=name, lw=1.3)
                axes.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.25, lw=0)
            if not spectrum:
                axes.set(xscale="log", yscale="log", ylim=(3e-3, 1.5), xlim=(1e-3, 4))
            axes.set_title(f"{contrast}: {quantity}", fontsize=10)
            axes.set_xlabel("cycles per pixel" if spectrum else "magnitude", fontsize=9)
            axes.set_ylabel("power (dB)" if spectrum else "density per decade" if axes is line[0] else "", fontsize=9)
            axes.tick_params(labelsize=8)
        line[-1].legend(fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    real = [siat_subject(options.data, subject) for subject in range(SUBJECTS)]
    noise = mean(noise_in_head(image) for one in real for image in one)
    print(f"noise of the real T2 slices, in the head: {noise:.4f}")
    shape = (real[0][0].shape[0], real[0][0].shape[1])
    t2 = {
        "label maps": t2_subjects(LabelMapHeads, options.data, shape, noise),
        "procedural": t2_subjects(None, options.data, shape, noise),
    }
    bart, bart_noise = bart_slice(options.data)
    protocol = Protocol(plane="axial", pixel=BART_PIXEL, thickness=1.0, contrast="t1")
    sources = {
        "label maps": LabelMapHeads(options.data / "synthseg_labels", protocol),
        "procedural": ProceduralHeads(protocol),
    }
    size = (bart.shape[0], bart.shape[1])
    t1 = {name: [simulated(one, size, 12, bart_noise, seed) for seed in range(2)] for name, one in sources.items()}
    table, found = rows("T2", real, t2)
    more, found_t1 = rows("T1", [[bart]], t1)
    with (options.out / "realism.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        for row in [*table, *more]:
            writer.writerow(
                {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
            )
    print((options.out / "realism.csv").read_text())
    picks = ((0, 2), (1, 8), (2, 5), (3, 16), (0, 12), (1, 27))
    places = (2, 8, 5, 16, 12, 27)
    first = ["real T1", *["from label maps, T1"] * 5]
    draw_images(
        options.out / "realism_images.png",
        [
            (["real T2"] * 6, [upright(real[subject], index) for subject, index in picks]),
            (["from label maps, T2"] * 6, [t2["label maps"][1][index] for index in places]),
            (["from formulas, T2"] * 6, t2["procedural"][1][:6]),
            (first, [bart, *t1["label maps"][0][:5]]),
            (["from formulas, T1"] * 6, t1["procedural"][0][:6]),
        ],
    )
    draw_statistics(options.out / "realism_statistics.png", {"T2": found, "T1": found_t1})


if __name__ == "__main__":
    main()
