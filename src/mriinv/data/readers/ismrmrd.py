"""ISMRMRD raw data: an XML header and a list of readouts in an HDF5 file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from mriinv.data.geometry import Geometry
from mriinv.data.readers.base import DAMAGE, MAX_ELEMENTS, Content, FileScan, in_words, partition_weights
from mriinv.data.readers.hdf5 import header_text, stored
from mriinv.data.readers.mrd_header import parse_header, pixel_size
from mriinv.data.readers.readouts import IMAGES, NOISE, VECTORS, choose_encoding, flagged, lay_out, read_heads
from mriinv.errors import InputError
from mriinv.numerics.fft import fftc, ifftc

PROBES = 64  # readouts that are looked at, all over the scan, for ends that are zero
FEWEST_ZEROS = 4  # that are an end which was not measured; one or two are a scanner's first samples
SPARSEST = 32  # locations of a volume for each sample that its file can hold: more undersampled than any scan


class IsmrmrdScan(FileScan):
    """Cartesian ISMRMRD, in 2D slices or in 3D that is fully sampled along the partitions.

    - y is the readout and x the phase encoding, as in fastMRI. Oversampling of the readout is removed, unless the
      echo is partial: the filter would need the samples that are missing. Other oversampling stays.
    - Readouts lie at the distance from the centre of k-space that ``center_sample`` and the encoding limits tell
      (partial Fourier); what was not measured is not sampled. Reversed readouts are turned round.
    - Every set, repetition, phase, contrast and slice is an image of its own. Segments and averages are parts of one;
      averages are averaged.
    - Calibration lines are used where no imaging line lies, if they were measured along with the image (calibration
      mode ``embedded``, ``interleaved`` or none) and so have its contrast; others are left out.
    - Noise scans give the covariance of the coils, E[n nᴴ] = Σ · T_noise / (T · b), with the covariance Σ of their
      samples, the sample times T, and the bandwidth b of the receiver in the noise scan relative to 1/T_noise (1 when
      the header does not tell): Kellman and McVeigh, Magn Reson Med 54:1439 (2005). An orthonormal FFT keeps it; n
      averages divide it by n.
    - A 3D scan is held in memory as a whole.
    """

    format = "ISMRMRD file"
    mask_origin = "told by the readouts"

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        try:
            with h5py.File(path, "r") as file:
                return bool(_groups(file))
        except DAMAGE:
            return False

    def _open(self) -> None:
        with self._readable(""):
            self._file = h5py.File(self.path, "r")
            groups = _groups(self._file)
        if len(groups) > 1:
            raise InputError(self.path, "", f"{len(groups)} scans ({', '.join(groups)})", "one")
        group = next(iter(groups.values()))
        with self._readable("xml"):
            self.header["ismrmrd_header"] = text = header_text(stored(group, "xml"))
            header = parse_header(text)
        with self._readable("data"):
            self.fields = sorted(name for name in group if isinstance(name, str))
            self._readouts = stored(group, "data")
            self._heads = read_heads(self._readouts)
        self._encoding = choose_encoding(self.path, self._heads, header.encodings)
        self._layout = lay_out(self.path, self._heads, self._encoding)
        self._choose_grid()
        self.remarks += self._layout.remarks
        self._describe_sampling()
        self._read_noise(header.noise_bandwidth or 1.0)
        self._held: tuple[int, np.ndarray] | None = None

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _leave_out_zeros(self) -> None:
        """Take the ends of the readouts as not measured where they are stored as zeros, told by some of them."""
        first, last = self._layout.extent
        some = np.unique(np.linspace(0, len(self._layout.rows) - 1, PROBES).astype(int)).tolist()
        measured = np.flatnonzero(np.any([self._oriented(number).any(0) for number in some], axis=0))
        self._measured = slice(0, last - first)
        if len(measured):
            before, after = int(measured[0]), last - first - 1 - int(measured[-1])
            before, after = (count if count >= FEWEST_ZEROS else 0 for count in (before, after))
            self._measured = slice(before, last - first - after)
            self._layout = replace(self._layout, extent=(first + before, last - after))

    def _choose_grid(self) -> None:
        """Decide on the size of the images: without oversampling along the readout and the partitions."""
        encoded, recon = self._encoding.encoded, self._encoding.recon
        y, x, partitions = encoded.matrix
        if encoded.fov and recon.fov:
            y, partitions = (
                min(max(round(recon.fov[axis] / encoded.fov[axis] * encoded.matrix[axis]), 1), encoded.matrix[axis])
                for axis in (0, 2)
            )
        first, last = self._layout.extent
        if last - first == y < encoded.matrix[0] and first == encoded.matrix[0] // 2 - y // 2:
            self.remarks.append(
                f"readouts of {y} samples around the centre, and of {encoded.matrix[0]} by the header: their "
                "oversampling is taken to have been removed before"
            )
            fov = encoded.fov and recon.fov and (recon.fov[0], *encoded.fov[1:])
            encoded = replace(encoded, matrix=(y, *encoded.matrix[1:]), fov=fov)
            self._encoding = replace(self._encoding, encoded=encoded)
            self._layout = replace(self._layout, extent=(0, y))
        self._leave_out_zeros()
        if y < encoded.matrix[0]:
            first, last = self._layout.extent
            whole = last - first == encoded.matrix[0]
            factor = f"{encoded.matrix[0] / y:.3g}× along the readout"
            self.header["oversampling"] = f"{factor}, {'removed' if whole else 'kept because the echo is partial'}"
            y = y if whole else encoded.matrix[0]
        if encoded.fov and recon.fov and (columns := round(recon.fov[1] / encoded.fov[1] * x)) < x:
            self.header["recon_matrix"] = f"{y}x{columns}x1"  # oversampling of the lines stays; a crop takes it away
        channels = np.unique(self._heads["active_channels"][self._layout.rows])
        if len(channels) > 1 or channels[0] < 1:
            raise InputError(self.path, "data", f"readouts of {channels.tolist()} coils", "one number of coils")
        self._partitions = partitions
        self._set_shape("data", len(self._layout.images) * partitions, int(channels[0]), y, x)
        stored = self.path.stat().st_size // np.dtype(np.complex64).itemsize  # an upper bound of the samples
        limit = max(MAX_ELEMENTS, SPARSEST * stored)
        if encoded.matrix[2] * self.shape[1] * y * x > limit:
            found = f"{self.shape[1]} coils of {y} × {x} × {encoded.matrix[2]} samples"
            raise InputError(self.path, "data", found, f"at most {limit} samples in a volume")

    def _describe_sampling(self) -> None:
        """Put into words which images there are, and what of their k-space."""
        layout, (size, lines, _) = self._layout, self._encoding.encoded.matrix
        self.header["trajectory"] = self._encoding.trajectory
        counts = {name: len(np.unique(layout.images[:, axis])) for axis, name in enumerate(IMAGES)}
        several = " × ".join(f"{count} {name}s" for name, count in counts.items() if count > 1)
        if several:
            self.header["images"] = several
        if max(counts[name] for name in IMAGES if name != "slice") > 1:
            self.remarks.append(f"the file holds {several}: every one is an image of its own")
        if layout.count.max() > 1:
            self.header["averages"] = "–".join(map(str, sorted({layout.count.min(), layout.count.max()})))
        measured = np.unique(layout.line[layout.image == 0])
        partial = {"readout": _partial(np.arange(*layout.extent), size), "phase": _partial(measured, lines)}
        if text := ", ".join(f"{name} {share:.2f}" for name, share in partial.items() if share < 1):
            self.header["partial_fourier"] = text
            self.remarks.append(f"partial Fourier ({text}): what was not measured counts as not sampled")
        covered = len(measured) * (layout.extent[1] - layout.extent[0])
        self._acceleration = size * lines / covered
        self._mask = None if covered == size * lines else ("lines" if layout.extent == (0, size) else "2D")

    def _details(self) -> dict[str, Any]:
        return {
            "mask": self._mask,
            "acceleration": self._acceleration,
            "noise": None if self.covariance is None else "noise scan",
            "geometry": in_words(self._geometry(0, 0)),
        }

    def _read_noise(self, bandwidth: float) -> None:
        """Estimate the covariance of the coils from the noise scans."""
        coils = self.shape[1]
        rows = np.flatnonzero(flagged(self._heads, NOISE))
        if (self._heads["active_channels"][rows] != coils).any():
            self.remarks.append("the noise scan was not used: it has other coils than the image")
            return
        times = self._heads["sample_time_us"]
        time = float(np.median(times[self._layout.rows]))
        total, count = np.zeros((coils, coils), complex), 0
        for row in rows.tolist():
            samples = self._samples(row)
            scale = times[row] / (time * bandwidth) if 0 < times[row] < np.inf and 0 < time < np.inf else 1.0
            with np.errstate(all="ignore"):  # what is not finite is reported below
                total += scale * (samples @ samples.conj().T)
            count += samples.shape[1]
        if count:
            try:
                self.covariance = self._checked_covariance("noise", total / count / self._layout.count.min())
            except InputError as error:
                self.remarks.append(f"the noise scan was not used: {error.found}")

    def _samples(self, row: int) -> np.ndarray:
        """Read one readout as complex64 ``(coil, sample)``."""
        shape = self._heads["active_channels"][row], self._heads["number_of_samples"][row]
        with self._readable("data"):
            values = np.asarray(self._readouts.fields("data")[row], np.float32)
            if values.size != 2 * shape[0] * shape[1]:
                raise ValueError(f"readout {row} holds {values.size} numbers, not 2 × {shape[0]} × {shape[1]}")
            return values.view(np.complex64).reshape(shape)

    def _readout(self, number: int) -> np.ndarray:
        """Return a readout of the layout on the grid of the image, ``(coil, y)``."""
        samples, size = self._oriented(number), self._encoding.encoded.matrix[0]
        if samples[:, : self._measured.start].any() or samples[:, self._measured.stop :].any():
            found = f"samples in readout {self._layout.rows[number]} where others hold zeros"
            raise InputError(self.path, "data", found, "readouts of the same extent")
        line = np.zeros((len(samples), size), np.complex64)
        line[:, slice(*self._layout.extent)] = samples[:, self._measured]
        return line if self.shape[2] == size else _cut(line, self.shape[2])

    def _oriented(self, number: int) -> np.ndarray:
        """Return what was not discarded of a readout of the layout, from low to high frequency, ``(coil, sample)``."""
        row = int(self._layout.rows[number])
        before, after = self._heads["discard_pre"][row], self._heads["discard_post"][row]
        samples = self._samples(row)
        samples = samples[:, before : samples.shape[1] - after]
        if self._layout.reverse[number]:
            samples = np.roll(samples[:, ::-1], int(self._layout.shift[number]), axis=1)
        return samples

    def _volume(self, image: int) -> np.ndarray:
        """Return the k-space ``(coil, partition, y, x)`` of an image; the last one read is held."""
        if self._held is None or self._held[0] != image:
            _, coils, y, x = self.shape
            layout = self._layout
            volume = np.zeros((coils, self._encoding.encoded.matrix[2], y, x), np.complex64)
            for number in np.flatnonzero(layout.image == image).tolist():
                place = volume[:, layout.partition[number], :, layout.line[number]]
                place += self._readout(number) / np.float32(layout.count[number])
            self._held = image, volume
        return self._held[1]

    def _content(self, index: int) -> Content:
        image, partition = divmod(index, self._partitions)
        encoded = self._encoding.encoded.matrix[2]
        weights = partition_weights(encoded, partition + encoded // 2 - self._partitions // 2)
        kspace = np.tensordot(weights, self._volume(image), (0, 1))
        return Content(kspace, geometry=self._geometry(image, partition))

    @np.errstate(invalid="ignore")  # what is not finite gives no place
    def _geometry(self, image: int, partition: int) -> Geometry | None:
        """Return size and place of a slice; only the size when the readouts tell no sensible place."""
        sizes = pixel_size(self._encoding.encoded)
        if sizes is None:
            return None
        first = np.unique(self._layout.image, return_index=True)[1]  # a readout of each image
        position, *axes = (self._heads[name][self._layout.rows[first]] for name in VECTORS)
        along_y, along_x, across = (axis[image].tolist() for axis in axes)
        spacing, centre = sizes.spacing, position[image]
        if self._encoding.encoded.matrix[2] > 1:
            centre = centre + (partition - self._partitions // 2) * spacing * np.array(across)
        else:
            slices = np.unique(self._layout.images[:, -1], return_index=True)[1]
            steps = np.diff(np.sort(position[slices] @ across))
            spacing = float(np.median(steps)) if len(steps) else spacing
        place = None if not np.isfinite(centre).all() else tuple(centre.tolist())
        try:
            return Geometry(sizes.pixel, spacing, place, (tuple(along_y), tuple(along_x), tuple(across)))
        except ValueError:
            return sizes


def _groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the groups that hold a header and readouts."""
    groups = {name: file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)}
    return {
        name: group
        for name, group in groups.items()
        if isinstance(name, str) and isinstance(group, h5py.Group) and "xml" in group and "data" in group
    }


def _partial(measured: np.ndarray, size: int) -> float:
    """Return how much of the range around the centre of k-space, symmetric but for gaps, `measured` positions cover."""
    below, above = size // 2 - measured[0], measured[-1] + 1 - size // 2
    gap = np.diff(measured).max(initial=1)
    return 1.0 if abs(below - above) <= gap else float((below + above) / (2 * max(below, above)))


def _cut(lines: np.ndarray, size: int) -> np.ndarray:
    """Cut k-space ``(coil, readout)`` to the central `size` pixels of its field of view."""
    start = lines.shape[-1] // 2 - size // 2
    image = ifftc(torch.from_numpy(lines), (-1,))[:, start : start + size]
    return fftc(image, (-1,)).numpy()
