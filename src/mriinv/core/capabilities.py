"""Capability matching: what a prior provides against what a solver requires. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Derivation:
    """A capability that follows from another one, and how."""

    source: str
    target: str
    by: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} ({self.by})"


DERIVATIONS = (
    Derivation("energy", "gradient", "autograd"),
    Derivation("denoiser", "score", "Tweedie"),
)
CAPABILITIES = frozenset({"energy", "gradient", "denoiser", "score", "proximal", "noise-conditional", "reconstruction"})


def derive(provided: Collection[str], required: Iterable[str]) -> list[Derivation] | None:
    """Return the derivations that make `provided` cover `required`, or None when nothing does."""
    used: list[Derivation] = []
    for capability in required:
        if capability in provided:
            continue
        step = next((d for d in DERIVATIONS if d.target == capability and d.source in provided), None)
        if step is None:
            return None
        used.append(step)
    return used


def match(provided: Collection[str], alternatives: Sequence[Collection[str]]) -> list[Derivation] | None:
    """Return the derivations for the first of `alternatives` that `provided` covers; None when it covers none.

    An empty sequence of alternatives, or an empty alternative, asks for nothing.
    """
    for required in alternatives or [()]:
        used = derive(provided, sorted(required))
        if used is not None:
            return used
    return None
