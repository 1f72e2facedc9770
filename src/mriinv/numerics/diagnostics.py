"""Whether Markov chains have mixed: traces of a few quantities, split-R̂, effective sample size, the long run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mriinv.core.types import Image, PerImage, Support
from mriinv.numerics.fft import fft2c

REGIONS = 3  # along each axis
BANDS = (0.05, 0.15, 0.5)  # upper radii of the bands of k-space, in cycles per pixel
MIXED, UNMIXED = 1.01, 1.1  # split-R̂ up to which chains agree (Vehtari 2021), and from which they plainly do not
SHORTEST = 32  # steps from which split-R̂ and effective samples mean anything
CONSTANT = 1e-12  # standard deviation relative to the mean that rounding explains
FEWEST = 100.0  # effective samples for a mean that is known to a tenth of the standard deviation
FARTHEST = 3.0  # standard deviations that a longer chain may be away

Traces = Mapping[str, Float[Tensor, "chain step batch"]]
LongerTraces = Mapping[str, Float[Tensor, "longer_chain longer_step batch"]]


def statistics(image: Image, support: Support | None = None) -> dict[str, PerImage]:
    """Return the quantities whose chains are watched, in float64.

    The mean magnitude in each of 3×3 parts of the matrix, on the support and where that reaches into the part; the
    root mean square of k-space in three rings. Single pixels would hide what moves together.
    """
    magnitude = image.abs().double()
    weight = torch.ones_like(magnitude) if support is None else support.double().expand_as(magnitude)
    found: dict[str, PerImage] = {}
    for row, rows in enumerate(torch.arange(image.shape[-2]).tensor_split(REGIONS)):
        for column, columns in enumerate(torch.arange(image.shape[-1]).tensor_split(REGIONS)):
            inside = weight[:, rows][:, :, columns]
            if inside.any():
                total = (inside * magnitude[:, rows][:, :, columns]).sum((1, 2))
                found[f"region {row + 1} {column + 1}"] = total / inside.sum((1, 2)).clamp_min(1)
    power = fft2c(image).abs().square().double()
    y, x = (torch.fft.fftshift(torch.fft.fftfreq(n, device=image.device)) for n in image.shape[-2:])
    radius = (y[:, None] ** 2 + x**2).sqrt()
    for number, (inner, outer) in enumerate(zip((-1.0, *BANDS), BANDS, strict=False), start=1):
        ring = (radius > inner) & (radius <= outer)
        if ring.any():
            found[f"k-space band {number}"] = power[:, ring].mean(1).sqrt()
    return found


class Trace:
    """Watched quantities along chains, step by step."""

    def __init__(self, support: Support | None) -> None:
        self._support = support
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, image: Image, chains: int, **more: PerImage | None) -> None:
        """Append the state of `chains` chains of each image, ``(chains·batch, y, x)``, and further quantities of it."""
        batch = len(image) // chains
        support = self._support
        if support is not None and len(support) > 1:
            support = support.repeat(chains, 1, 1)
        for name, value in {**statistics(image, support), **more}.items():
            if value is not None:
                self._values[name].append(value.double().view(chains, batch))

    def stacked(self) -> dict[str, Tensor]:
        """Return each quantity that every state had as ``(chain, step, batch)``."""
        steps = max(map(len, self._values.values()), default=0)
        return {name: torch.stack(v, dim=1).cpu() for name, v in self._values.items() if len(v) == steps}


@dataclass(frozen=True)
class Diagnosis:
    """How far chains can be trusted.

    Attributes
    ----------
    split_rhat : by quantity, per image; of the longer chain alone where the chains have fewer than 32 steps, and empty
        where it has as well
    effective_samples : by quantity, per image; empty for chains of fewer than 32 steps
    drift : by quantity, per image: how far the last part of a longer chain is from the mean of the chains, in standard
        deviations of the quantity over chains and steps; empty without a longer chain
    """

    split_rhat: dict[str, PerImage] = field(default_factory=dict)
    effective_samples: dict[str, PerImage] = field(default_factory=dict)
    drift: dict[str, PerImage] = field(default_factory=dict)

    def numbers(self) -> dict[str, PerImage]:
        """Return the worst of each over all quantities, per image."""
        found = {}
        for name, values, worst in (
            ("split_rhat", self.split_rhat, torch.amax),
            ("effective_samples", self.effective_samples, torch.amin),
            ("long_run_drift", self.drift, torch.amax),
        ):
            if values:
                found[name] = worst(torch.stack(list(values.values())), dim=0)
        return found

    def remarks(self) -> tuple[str, ...]:
        """Say in words what is wrong with the worst image; nothing when all is well."""
        found = []
        if not self.split_rhat:
            found.append(f"too few steps to say whether the chains have mixed (expected {SHORTEST}): take more samples")
        else:
            name, rhat = _worst(self.split_rhat, 1)
            if rhat > MIXED:
                whose = "the chains have" if self.effective_samples else "the longer chain has"
                state = "not mixed" if rhat > UNMIXED else "nearly mixed"
                found.append(f"{whose} {state}: split-R̂ of {name} is {rhat:.2f}, expected at most {MIXED:g}")
        if self.effective_samples:
            name, samples = _worst(self.effective_samples, -1)
            if samples < FEWEST:
                known = f"its mean is known to no better than {samples**-0.5:.2f} of its standard deviation"
                found.append(f"{name} has {samples:.0f} effective samples: {known}")
        if self.drift:
            name, distance = _worst(self.drift, 1)
            if distance > FARTHEST:
                found.append(f"a longer chain does not stay: {name} moves by {distance:.1f} standard deviations")
        return tuple(found)


def diagnose(traces: Traces, longer: LongerTraces | None = None, last: int = 1) -> Diagnosis:
    """Return what the traces of chains say.

    Parameters
    ----------
    traces : each quantity ``(chain, step, batch)``
    longer : the same of one chain that went on, ``(1, step, batch)``; None or empty without
    last : number of its steps that are compared
    """
    steps = next(iter(traces.values())).shape[1]
    enough = steps >= SHORTEST
    rhat = {
        name: split_rhat(values)
        for name, values in (traces if enough else longer or {}).items()
        if values.shape[1] >= SHORTEST
    }
    effective = {name: effective_samples(values) for name, values in traces.items()} if enough else {}
    drift = {}
    for name, values in (longer or {}).items():
        short = traces[name]
        if not enough and len(short) == 1:
            continue  # a few steps of one chain do not show its spread
        moved = (values[:, -last:].mean((0, 1)) - short.mean((0, 1))).abs()
        both = torch.cat([short.flatten(0, 1), values.flatten(0, 1)]).unsqueeze(0)
        drift[name] = torch.where(_constant(both), 0.0, moved / short.std((0, 1), correction=0))
    return Diagnosis(rhat, effective, drift)


def split_rhat(values: Float[Tensor, "chain step batch"]) -> PerImage:
    """Return R̂ of the halves of all chains, one chain included; 1 for what does not change (Vehtari 2021, eq. 4)."""
    from arviz_stats.base import array_stats  # takes a second

    half = values.shape[1] // 2
    halves = torch.cat([values[:, :half], values[:, -half:]]).permute(2, 0, 1).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = torch.as_tensor(array_stats.rhat(halves, chain_axis=1, draw_axis=2, method="identity"))
    return torch.where(_constant(values), 1.0, found)


def effective_samples(values: Float[Tensor, "chain step batch"]) -> PerImage:
    """Return the effective sample size of the mean (Vehtari 2021)."""
    from arviz_stats.base import array_stats

    return torch.as_tensor(array_stats.ess(values.permute(2, 0, 1).numpy(), chain_axis=1, draw_axis=2, method="mean"))


def _constant(values: Float[Tensor, "chain step batch"]) -> Tensor:
    """Return, per image, whether nothing but rounding changes, such as the energy of a single mode."""
    return values.std((0, 1), correction=0) <= CONSTANT * values.abs().amax((0, 1))


def _worst(by_quantity: Mapping[str, PerImage], sign: int) -> tuple[str, float]:
    """Return the name and the largest value (`sign` 1), or the smallest (-1), over quantities and images."""
    name = max(by_quantity, key=lambda one: float((sign * by_quantity[one]).max()))
    return name, sign * float((sign * by_quantity[name]).max())
