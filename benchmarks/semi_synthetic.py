"""Write the semi-synthetic slices of `benchmarks.cases` as scans in the layout of fastMRI.

    python -m benchmarks.semi_synthetic DATA OUT [--subjects 3 4] [--slices 2 5 8]

One file for each subject of `siat200`, fully sampled, with the true image as reference; DATA also holds `bart_full8`,
whose coils see them. The slices of a subject are not neighbours: they are stored as if they were, 1 mm apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmarks.cases import SIAT_SLICES, SIAT_SUBJECT, semi_synthetic_slices

from mriinv import Acquisition
from mriinv.data.fastmri import write_fastmri
from mriinv.data.geometry import Geometry

GEOMETRY = Geometry(pixel=(1.0, 1.0), spacing=1.0)  # nominal: the data set states none


def write_subject(data_folder: Path, out: Path, subject: int, slices: tuple[int, ...]) -> Path:
    """Write one subject and return the path; an existing file is replaced."""
    found = list(semi_synthetic_slices(data_folder, slices, subject))
    references = [one.reference for one in found if one.reference is not None]
    volume = Acquisition(
        kspace=torch.cat([one.kspace for one in found]),
        mask=found[0].mask,
        reference=torch.cat(references),
        noise_std=found[0].noise_std,
        geometry=GEOMETRY,
        source=f"siat200 subject {subject} slices {' '.join(map(str, slices))}",
    )
    path = out / f"siat_subject{subject}.h5"
    write_fastmri(path, volume)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with siat200 and bart_full8")
    parser.add_argument("out", type=Path, help="folder of the scans")
    parser.add_argument("--subjects", type=int, nargs="+", default=[SIAT_SUBJECT])
    parser.add_argument("--slices", type=int, nargs="+", default=list(SIAT_SLICES))
    options = parser.parse_args()
    for subject in options.subjects:
        print(write_subject(options.data, options.out, subject, tuple(options.slices)))


if __name__ == "__main__":
    main()
