"""Learning rates over the course of a training."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, *, warm_up: int = 100, floor: float = 0.02) -> float:
    """Return the factor on the learning rate: a linear rise over `warm_up` updates times a cosine from 1 to `floor`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))
    return min(1.0, (step + 1) / max(warm_up, 1)) * (floor + (1 - floor) * cosine)
