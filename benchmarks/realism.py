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

import numpy as np
import pywt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
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
BAND = np.linspace(0.05, 0.45, 33)
NAMES = ("gradient", "wavelets 1", "wavelets 2", "wavelets 3", "spectrum")

Slices = list[torch.Tensor]  # complex (y, x), 99th percentile of the magnitude 1
Statistics = dict[str, np.ndarray]


def siat_subject(folder: Path, subject: int) -> tuple[Slices, list[float]]:
    """Return the slices of a real T2 subject and the noise of each, per real component."""
    with np.load(folder / "siat200" / f"siat_subject{subject}.npz") as file:
        parts = file["step"][:, None, None, None] * file["q"].astype(np.float32)
        sigma = file["sigma"]
    images = torch.complex(*torch.from_numpy(parts).movedim(1, 0))
    scale = reference_scale(images)
    return list(images / scale[:, None, None]), (torch.from_numpy(sigma).float() / scale).tolist()


def bart_slice(folder: Path) -> tuple[torch.Tensor, float]:
    """Return the real T1 slice, combined from its coils, and its noise per real component."""
    with open_scan(folder / "bart_full8" / "full.npz") as scan:
        acquisition = prepare_acquisition(scan.read(0))
    image = make_operator("sense", acquisition).fully_sampled_image(acquisition.kspace)
    assert image is not None and acquisition.noise_std is not None
    scale = reference_scale(image)
    return image[0] / scale, acquisition.noise_std / float(scale)


def simulated(source: HeadSource, shape: tuple[int, int], count: int, noise: float, seed: int) -> Slices:
    """Return slices of `count` heads with white noise."""
    generator = torch.Generator().manual_seed(seed)
    return [source.image(shape, generator) + complex_noise(shape, noise, generator) for _ in range(count)]


def statistics(slices: Slices) -> Statistics:
    """Return quantiles of log10 magnitudes, and the spectrum in dB, of slices together."""
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
    found = {
        name: np.quantile(np.log10(np.concatenate(values[name]) + 1e-5), QUANTILES)
        for name in NAMES
        if name != "spectrum"
    }
    return {**found, "spectrum": 10 * np.log10(np.mean(values["spectrum"], axis=0))}


def radial_spectrum(image: torch.Tensor) -> np.ndarray:
    """Return the mean power at the radii `BAND`."""
    power = fft2c(image).abs().square().numpy()
    ky, kx = (np.fft.fftshift(np.fft.fftfreq(size)) for size in image.shape)
    radius = np.hypot(ky[:, None], kx[None])
    ring = np.digitize(radius, np.append(BAND, BAND[-1] + BAND[1] - BAND[0]) - (BAND[1] - BAND[0]) / 2)
    return np.array([power[ring == index + 1].mean() for index in range(len(BAND))])


def distance(a: Statistics, b: Statistics) -> dict[str, float]:
    """Return decades between distributions, dB between spectra."""
    return {
        name: float(np.sqrt(np.mean((a[name] - b[name]) ** 2)))
        if name == "spectrum"
        else float(np.mean(np.abs(a[name] - b[name])))
        for name in NAMES
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


def draw_images(path: Path, lines: dict[str, list[torch.Tensor]]) -> None:
    """Draw a line of magnitudes per source, and behind them the phase of the first two."""
    columns = max(map(len, lines.values())) + 2
    figure = Figure(figsize=(1.6 * columns, 1.72 * len(lines)), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.12})
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (name, images) in zip(grid, lines.items(), strict=True):
        line[0].set_title(name, color="white", fontsize=9, loc="left", pad=2)
        phases = [image.angle().where(image.abs() > 0.05, torch.nan) for image in images[:2]]
        shown = [(image.abs(), "gray", (0.0, 1.1)) for image in images]
        shown += [(phase, "twilight", (-3.15, 3.15)) for phase in phases]
        for axes, (values, colours, (low, high)) in zip(line, shown, strict=False):
            axes.imshow(values.numpy(), cmap=colours, vmin=low, vmax=high)
    figure.savefig(path, facecolor="black", bbox_inches="tight", pad_inches=0.05)


def draw_statistics(path: Path, found: dict[str, dict[str, list[Statistics]]]) -> None:
    """Draw densities and spectra: real ones as a band over subjects, simulated ones as lines."""
    figure = Figure(figsize=(3 * len(NAMES), 2.7 * len(found)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(found), len(NAMES), squeeze=False)
    for line, (contrast, groups) in zip(grid, found.items(), strict=True):
        for axes, quantity in zip(line, NAMES, strict=True):
            for (name, subjects), colour in zip(groups.items(), ("black", "tab:blue", "tab:orange"), strict=False):
                x, curves = curves_of(quantity, [one[quantity] for one in subjects])
                axes.plot(x, curves.mean(0), color=colour, label=name, lw=1.4)
                axes.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.2, lw=0)
            axes.set_title(f"{contrast}: {quantity}", fontsize=9)
            axes.set_xlabel("cycles per pixel" if quantity == "spectrum" else "log10 magnitude", fontsize=8)
            axes.set_ylabel("power (dB)" if quantity == "spectrum" else "density", fontsize=8)
            axes.tick_params(labelsize=7)
        line[0].legend(fontsize=7, frameon=False)
    figure.savefig(path)


def curves_of(quantity: str, subjects: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the abscissa and a curve per subject: the spectrum, or the density that belongs to quantiles."""
    if quantity == "spectrum":
        return BAND, np.array(subjects)
    centres = np.linspace(-4, 0.5, 60)
    levels = [np.interp(centres, one, QUANTILES, left=0, right=1) for one in subjects]
    smooth = [np.convolve(np.gradient(level, centres), np.ones(5) / 5, mode="same") for level in levels]
    return centres, np.array(smooth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    real, sigmas = zip(*(siat_subject(options.data, subject) for subject in range(SUBJECTS)), strict=True)
    shape, noise = (real[0][0].shape[0], real[0][0].shape[1]), mean(mean(one) for one in sigmas)
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
    table, found = rows("T2", list(real), t2)
    more, found_t1 = rows("T1", [[bart]], t1)
    with (options.out / "realism.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        for row in [*table, *more]:
            writer.writerow(
                {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
            )
    print((options.out / "realism.csv").read_text())
    picks = (2, 5, 8, 12, 16, 24)
    draw_images(
        options.out / "realism_images.png",
        {
            "real, T2": [real[0][index].rot90() for index in picks],
            "simulated from label maps, T2": [t2["label maps"][1][index] for index in picks],
            "simulated from formulas, T2": t2["procedural"][1][:6],
            "T1: real (first), and simulated from label maps": [bart, *t1["label maps"][0][:5]],
        },
    )
    draw_statistics(options.out / "realism_statistics.png", {"T2": found, "T1": found_t1})


if __name__ == "__main__":
    main()
