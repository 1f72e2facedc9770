"""Hybrid space: image along the axes that are fully sampled, k-space along the others."""

from __future__ import annotations

from mriinv.core.types import Mask


def fully_sampled_axes(mask: Mask) -> tuple[int, ...]:
    """Return which of the axes −2 (y) and −1 (x) the mask does not vary along, so that they can be transformed alone.

    Zero padding counts as variation: what lies beyond the samples was not measured.
    """
    return tuple(axis for axis in (-2, -1) if bool((mask == mask.narrow(axis, 0, 1)).all()))
