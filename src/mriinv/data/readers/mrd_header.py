"""The XML header of ISMRMRD, which fastMRI files carry too."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from mriinv.data.geometry import Geometry

MAX_HEADER = 2**20  # characters
PERSONAL = (
    "subjectInformation",
    "studyInformation",
    "measurementInformation",  # dates and identifiers
    "institutionName",
    "stationName",
    "deviceID",
    "deviceSerialNumber",
)


@dataclass(frozen=True)
class Space:
    """Matrix size and field of view in mm along readout, phase and partitions; the latter None unless positive."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float] | None


@dataclass(frozen=True)
class Encoding:
    """How k-space was measured.

    Attributes
    ----------
    encoded, recon : the grid as measured, and the one to reconstruct; the same where the header has only the first
    trajectory : ``cartesian``, ``epi``, ``radial`` …
    centres : the counters of encoding steps 1 and 2 at the centre of k-space; None when not given
    calibration : ``embedded``, ``separate`` …; "" when not given
    multiband : whether several slices were excited at once
    """

    encoded: Space
    recon: Space
    trajectory: str
    centres: tuple[int | None, int | None]
    calibration: str
    multiband: bool


@dataclass(frozen=True)
class Header:
    """What is used of a header; `noise_bandwidth` is relative to that of the samples, None when not given."""

    encodings: tuple[Encoding, ...]
    noise_bandwidth: float | None


def parse_header(text: str) -> Header:
    """Read an ISMRMRD header (`ValueError` for anything that is none).

    Elements are looked up by name, so that headers of later versions and with further elements are read as well.
    Document types are refused, and with them every expansion of entities.
    """
    if len(text) > MAX_HEADER or re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ValueError("a header that is too long or declares a document type")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"no valid XML ({error})") from None
    encodings = tuple(_encoding(element) for element in root.findall("{*}encoding"))
    bandwidth = _number(root, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    return Header(encodings, bandwidth if bandwidth and 0 < bandwidth <= 1 else None)


def without_persons(text: str) -> str:
    """Cut out of a header what identifies a person, a visit or a site."""
    for element in PERSONAL:
        text = _without(text, element)
    return text


def pixel_size(space: Space) -> Geometry | None:
    """Return the size of a pixel (y along the readout, x along the phase encoding) and the thickness of a slice."""
    if space.fov is None:
        return None
    readout, phase, slices = (size / count for size, count in zip(space.fov, space.matrix, strict=True))
    return Geometry((readout, phase), slices)


def _encoding(element: ElementTree.Element) -> Encoding:
    encoded = _space(element, "encodedSpace")
    return Encoding(
        encoded=encoded,
        recon=encoded if _find(element, "reconSpace") is None else _space(element, "reconSpace"),
        trajectory=_text(element, "trajectory").lower(),
        centres=(_centre(element, 1), _centre(element, 2)),
        calibration=_text(element, "parallelImaging/calibrationMode").lower(),
        multiband=_find(element, "parallelImaging/multiband") is not None,
    )


def _space(element: ElementTree.Element, name: str) -> Space:
    matrix = [_number(element, f"{name}/matrixSize/{axis}") for axis in "xyz"]
    fov = [_number(element, f"{name}/fieldOfView_mm/{axis}") for axis in "xyz"]
    if not all(size and 1 <= size < 2**16 and size == int(size) for size in matrix):
        raise ValueError(f"{name} has the matrix size {matrix}")
    x, y, z = (int(size) for size in matrix if size)
    known = [size for size in fov if size and 0 < size < math.inf]
    return Space((x, y, z), (known[0], known[1], known[2]) if len(known) == 3 else None)


def _centre(element: ElementTree.Element, step: int) -> int | None:
    centre = _number(element, f"encodingLimits/kspace_encoding_step_{step}/center")
    return None if centre is None else int(centre)


def _find(element: ElementTree.Element, path: str) -> ElementTree.Element | None:
    return element.find("/".join(f"{{*}}{name}" for name in path.split("/")))


def _text(element: ElementTree.Element, path: str) -> str:
    found = _find(element, path)
    return "" if found is None else (found.text or "").strip()


def _number(element: ElementTree.Element, path: str) -> float | None:
    """Return a finite number, or None where there is none."""
    try:
        value = float(_text(element, path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _without(text: str, element: str) -> str:
    """Cut every `element` out of XML text; one that does not end takes the rest with it."""
    opening = re.compile(rf"<(?:\w{{1,20}}:)?{element}\b")
    closing = re.compile(rf"</(?:\w{{1,20}}:)?{element}\s*>")
    kept, position = [], 0
    while start := opening.search(text, position):
        kept.append(text[position : start.start()])
        end = closing.search(text, start.end())
        position = end.end() if end else len(text)
    return "".join([*kept, text[position:]])
