"""Which readout of an ISMRMRD file goes where in k-space, told from the headers of the readouts alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mriinv.data.readers.mrd_header import Encoding
from mriinv.errors import InputError

MAX_READOUTS = 2**20
MAX_HEAD = 1024  # bytes of the header of a readout; the standard's has 340
IMAGES = ("set", "repetition", "phase", "contrast", "slice")  # counters of independent images, the last runs fastest
COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "segment", *IMAGES)
NUMBERS = ("number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample", "encoding_space_ref")
VECTORS = ("position", "read_dir", "phase_dir", "slice_dir")
HEAD = np.dtype(
    [("flags", "u8"), ("sample_time_us", "f8")]
    + [(name, "i8") for name in (*NUMBERS, *COUNTERS)]
    + [(name, "f8", (3,)) for name in VECTORS]
)

# Flags are numbered from 1, as in the standard.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = (19,), (20,), (21,), (22,)
ALONG = ("", "embedded", "interleaved")  # modes of calibration that is part of the image's own sequence
COMPRESSED = (53, 54, 55, 56)
NO_IMAGE = {
    "navigator": (23,),
    "phase correction": (24,),
    "feedback": (26, 28),
    "dummy": (27,),
    "surface coil correction": (29,),
    "phase stabilisation": (30, 31),
}


def read_heads(data: h5py.Dataset) -> np.ndarray:
    """Return the fields of `HEAD` for every readout (`TypeError` or `ValueError` for data that are no readouts)."""
    if data.ndim != 1 or not {"head", "data"} <= set(data.dtype.names or ()):
        raise TypeError("no list of readouts")
    if data.dtype["head"].itemsize > MAX_HEAD:
        raise ValueError(f"headers of {data.dtype['head'].itemsize} bytes, of at most {MAX_HEAD}")
    if not _separate(data.dtype):
        raise ValueError("fields that overlap")  # HDF5 would write past the end of its memory
    if not 1 <= len(data) <= MAX_READOUTS:
        raise ValueError(f"{len(data)} readouts, of 1 to {MAX_READOUTS}")
    found = data.fields("head")[:]
    heads = np.empty(len(data), HEAD)
    with np.errstate(invalid="ignore"):  # numbers of another type than the standard's
        for name in HEAD.names or ():
            heads[name] = found["idx"][name] if name in COUNTERS else found[name]
    return heads


def _separate(dtype: np.dtype) -> bool:
    """Return whether the fields of a type lie one behind the other, at every level."""
    end = 0
    for field, start, *_ in sorted((dtype.fields or {}).values(), key=lambda field: field[1]):
        if start < end or not _separate(field.base):
            return False
        end = start + field.itemsize
    return end <= dtype.itemsize


def flagged(heads: np.ndarray, flags: tuple[int, ...]) -> np.ndarray:
    """Return for every readout whether it has any of `flags`."""
    return heads["flags"] & np.uint64(sum(1 << (flag - 1) for flag in flags)) != 0


@dataclass(frozen=True)
class Layout:
    """Where the readouts of all images lie on the encoded grid.

    Attributes
    ----------
    rows : numbers of the readouts in the file; the following arrays have an entry for each of them
    image, line, partition : number of the image, position along the first and the second phase encoding
    count : number of readouts at the same place, of which the mean is wanted
    reverse : whether the samples run from high to low frequency
    shift : whether the first of them then is the frequency N/2, which on a grid of N is that of −N/2
    extent : first and last (exclusive) position of the samples along the readout, the same for all
    images : the counters `IMAGES` of every image
    remarks : what was left out or assumed
    """

    rows: np.ndarray
    image: np.ndarray
    line: np.ndarray
    partition: np.ndarray
    count: np.ndarray
    reverse: np.ndarray
    shift: np.ndarray
    extent: tuple[int, int]
    images: np.ndarray
    remarks: tuple[str, ...]


def choose_encoding(path: Path, heads: np.ndarray, encodings: tuple[Encoding, ...]) -> Encoding:
    """Return the encoding of the images, or say why it cannot be read."""
    spaces = np.unique(heads["encoding_space_ref"][_used(heads) & ~_extra(heads)])
    if len(spaces) == 0:
        raise InputError(path, "data", "no imaging readout", "at least one")
    if len(spaces) > 1 or not 0 <= spaces[0] < len(encodings):
        found = f"readouts of the encodings {spaces.tolist()} ({len(encodings)} in the header)"
        raise InputError(path, "data", found, "one encoding, which the header describes")
    encoding = encodings[spaces[0]]
    if encoding.trajectory != "cartesian":
        cure = "cartesian; grid the samples, or for EPI correct the phase of the echoes, with other software first"
        raise InputError(path, "xml", f"the trajectory '{encoding.trajectory}'", cure)
    if encoding.multiband:
        raise InputError(path, "xml", "several slices excited at once (multiband)", "slices excited one by one")
    return encoding


def lay_out(path: Path, heads: np.ndarray, encoding: Encoding) -> Layout:
    """Sort the readouts of a Cartesian scan; `InputError` says what cannot be placed."""
    size, lines, partitions = encoding.encoded.matrix
    remarks = [
        f"{count} {kind} readouts were left out"
        for kind, flags in NO_IMAGE.items()
        if (count := int(flagged(heads, flags).sum()))
    ]
    used, extra, space = _used(heads), _extra(heads), heads["encoding_space_ref"]
    apart = used & extra & ((encoding.calibration not in ALONG) | (space != space[used & ~extra][0]))
    if apart.any():
        remarks.append(f"{apart.sum()} calibration readouts measured apart from the image were left out")
    rows = np.flatnonzero(used & ~apart)
    heads, extra = heads[rows], extra[rows]
    if flagged(heads, COMPRESSED).any():
        raise InputError(path, "data", "compressed samples", "samples as they were measured")
    extent, shift, assumed = _extent(path, heads, size)
    if (count := int(flagged(heads, REVERSE).sum())) and count < len(heads):
        remarks.append(f"{count} of {len(heads)} readouts were turned round, without correction of their phase")
    line = _positions(path, heads["kspace_encode_step_1"], lines, encoding.centres[0])
    partition = _positions(path, heads["kspace_encode_step_2"], partitions, encoding.centres[1])
    images, image = _unique(np.stack([heads[name] for name in IMAGES]))
    place = (image * lines + line) * partitions + partition
    keep = ~extra | (np.isin(image, image[~extra]) & ~np.isin(place, place[~extra]))
    kept, image = _unique(image[None, keep])
    _, same, number = np.unique(place[keep], return_inverse=True, return_counts=True)
    layout = Layout(
        rows=rows[keep],
        image=image,
        line=line[keep],
        partition=partition[keep],
        count=number[same.reshape(-1)],
        reverse=flagged(heads, REVERSE)[keep],
        shift=shift[keep],
        extent=extent,
        images=images[kept[:, 0]],
        remarks=(*remarks, *assumed),
    )
    _check_places(path, heads[keep], place[keep], partitions)
    return layout


def _used(heads: np.ndarray) -> np.ndarray:
    """Return for every readout whether it belongs to an image or calibrates one."""
    return ~flagged(heads, (*NOISE, *(flag for flags in NO_IMAGE.values() for flag in flags)))


def _extra(heads: np.ndarray) -> np.ndarray:
    """Return for every readout whether it is there for calibration only."""
    return flagged(heads, CALIBRATION) & ~flagged(heads, CALIBRATION_AND_IMAGING)


def _unique(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different columns, sorted, as rows; and which of them each column is."""
    found, inverse = np.unique(columns.T, axis=0, return_inverse=True)
    return found, inverse.reshape(-1)


def _extent(path: Path, heads: np.ndarray, size: int) -> tuple[tuple[int, int], np.ndarray, list[str]]:
    """Return `extent` and `shift` of a `Layout`, and what was assumed."""
    samples, centre = heads["number_of_samples"], heads["center_sample"]
    remarks = []
    if (centre == 0).all() and (samples == size).all():
        centre = np.full_like(centre, size // 2)
        remarks.append("the readouts tell no centre of k-space: taken to be in the middle")
    first, last = heads["discard_pre"] - centre, samples - heads["discard_post"] - 1 - centre
    reverse = flagged(heads, REVERSE)
    first, last = size // 2 + np.where(reverse, -last, first), size // 2 + np.where(reverse, -first, last)
    shift = reverse & (first == 1) & (last == size) & (size % 2 == 0)
    first, last = first - shift, last - shift
    if (first > last).any():
        raise InputError(path, "data", "readouts without samples", "at least one sample")
    if np.ptp(first) or np.ptp(last):
        found = f"readouts that begin at {first.min()} to {first.max()} and end at {last.min()} to {last.max()}"
        raise InputError(path, "data", found, "readouts of the same extent")
    if first[0] < 0 or last[0] >= size:
        found = f"samples {first[0]} to {last[0]} of a readout (its centre is at {size // 2})"
        raise InputError(path, "data", found, f"0 to {size - 1}, as the encoded matrix has them")
    return (int(first[0]), int(last[0]) + 1), shift, remarks


def _positions(path: Path, step: np.ndarray, size: int, centre: int | None) -> np.ndarray:
    """Return where on the grid the encoding steps lie."""
    positions = step + size // 2 - (size // 2 if centre is None else centre)
    if positions.min() < 0 or positions.max() >= size:
        found = f"encoding steps {step.min()} to {step.max()} with the centre {centre}"
        raise InputError(path, "data", found, f"steps that fit into an encoded matrix of {size}")
    return positions


def _check_places(path: Path, heads: np.ndarray, place: np.ndarray, partitions: int) -> None:
    """Refuse what cannot be told apart, and volumes with gaps along the partitions."""
    keys = np.stack([place, heads["average"], heads["segment"]])
    if np.unique(keys, axis=1).shape[1] < len(place):
        found = "several readouts of the same place with the same counters"
        raise InputError(path, "data", found, "counters that tell averages and images apart")
    different = np.unique(place)
    if len(np.unique(different // partitions)) * partitions != len(different):
        found = f"lines that lack some of the {partitions} partitions"
        raise InputError(path, "data", found, "a 3D scan that is fully sampled along the partitions")
