"""Diagnostics against chains whose mixing is known."""

import math

import pytest
import torch

from mriinv.numerics.diagnostics import Trace, diagnose, statistics
from mriinv.numerics.fft import ifft2c

CHAINS, STEPS = 8, 2000


def autoregressive(correlation: float, mean: float = 0.0, chains: int = CHAINS, seed: int = 0) -> torch.Tensor:
    """Stationary chains x' = ρx + √(1 − ρ²)z, ``(chain, step, 1)``; N of them are worth N(1 − ρ)/(1 + ρ) samples."""
    noise = torch.randn(STEPS, chains, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    states = [noise[0]]
    for fresh in noise[1:]:
        states.append(correlation * states[-1] + math.sqrt(1 - correlation**2) * fresh)
    return torch.stack(states, dim=1).unsqueeze(-1) + mean


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_effective_samples_of_autoregressive_chains(correlation: float) -> None:
    found = diagnose({"x": autoregressive(correlation)})
    exact = CHAINS * STEPS * (1 - correlation) / (1 + correlation)
    assert float(found.effective_samples["x"]) == pytest.approx(exact, rel=0.2)
    assert float(found.split_rhat["x"]) < 1.02
    assert found.drift == {} and "long_run_drift" not in found.numbers()


def test_chains_around_different_means_are_told_apart() -> None:
    apart = torch.cat([autoregressive(0.5, mean, chains=2, seed=s) for s, mean in enumerate((0.0, 0.0, 0.0, 3.0))])
    found = diagnose({"x": apart, "y": autoregressive(0.5)})
    # var⁺/W = 1 + B/W for long chains, with the variance of the eight means of 0 and 3 over unit variance
    assert float(found.split_rhat["x"]) == pytest.approx(math.sqrt(1 + 9 * 2 * 6 / (8 * 7.5)), rel=0.05)
    assert float(found.numbers()["split_rhat"]) == float(found.split_rhat["x"])
    first, second = found.remarks()
    assert "have not mixed: split-R̂ of x is 1." in first and second.startswith("x has ")


def test_a_trend_within_chains_is_seen() -> None:
    trend = torch.linspace(0, 5, STEPS, dtype=torch.float64).view(1, -1, 1)
    found = diagnose({"x": autoregressive(0.5) + trend}).split_rhat["x"]
    assert float(found) == pytest.approx(math.sqrt(1 + 1.25**2 * 16 / 15 / (1 + 2.5**2 / 12)), rel=0.05)


@pytest.mark.parametrize(("moved", "said"), [(0.5, 0), (6.0, 1)])
def test_the_long_run_is_compared_with_the_chains(moved: float, said: int) -> None:
    longer = {"x": autoregressive(0.0, moved, chains=1, seed=5)}
    found = diagnose({"x": autoregressive(0.0)}, longer, last=1000)
    assert float(found.drift["x"]) == pytest.approx(moved, abs=0.1)
    assert sum("a longer chain does not stay" in one for one in found.remarks()) == said


def test_each_image_of_a_batch_has_its_own_numbers() -> None:
    good, bad = autoregressive(0.0), autoregressive(0.95)
    found = diagnose({"x": torch.cat([good, bad], dim=2)}).effective_samples["x"]
    assert found[0] > 10 * found[1]


@pytest.mark.parametrize("value", [0.1, 1.0, 123.456])
def test_what_never_changes_has_mixed(value: float) -> None:
    constant = {"x": torch.full((4, 50, 1), value, dtype=torch.float64)}
    found = diagnose(constant, {"x": constant["x"][:1]}, last=10)
    assert float(found.split_rhat["x"]) == 1 and float(found.drift["x"]) == 0


def test_one_chain_is_compared_with_itself() -> None:
    one, trend = autoregressive(0.5, chains=1), torch.linspace(0, 5, STEPS, dtype=torch.float64).view(1, -1, 1)
    assert float(diagnose({"x": one}).split_rhat["x"]) < 1.02
    assert "the chains have not mixed" in diagnose({"x": one + trend}).remarks()[0]


def test_where_the_chains_are_short_the_longer_one_speaks() -> None:
    short, longer = {"x": autoregressive(0.9)[:, :11]}, {"x": autoregressive(0.9, chains=1, seed=3)}
    found = diagnose(short, longer, last=60)
    assert float(found.split_rhat["x"]) < 1.1 and found.effective_samples == {}
    longer["x"] = longer["x"] + torch.linspace(0, 5, STEPS, dtype=torch.float64).view(1, -1, 1)
    assert "the longer chain has not mixed" in diagnose(short, longer, last=60).remarks()[0]


def test_too_few_steps_say_nothing() -> None:
    found = diagnose({"x": autoregressive(0.0)[:, :31]})
    assert found.numbers() == {} and "too few steps" in found.remarks()[0]
    one = {"x": autoregressive(0.0, chains=1)}
    assert "x" not in diagnose({"x": one["x"][:, :2]}, one, last=10).drift


def test_regions_and_bands_see_what_lies_in_them() -> None:
    image = torch.zeros(2, 30, 33, dtype=torch.complex64)
    image[0, 12:18, 2:4] = 3j
    support = torch.zeros(1, 30, 33, dtype=torch.bool)
    support[:, 10:20, :] = True
    found = statistics(image, support)
    assert {name for name in found if name.startswith("region")} == {"region 2 1", "region 2 2", "region 2 3"}
    assert found["region 2 1"].tolist() == pytest.approx([3 * 12 / 110, 0])
    spectrum = torch.zeros(1, 40, 40, dtype=torch.complex64)
    spectrum[0, 20 + 4, 20] = 1.0  # 0.1 cycles per pixel
    bands = [statistics(ifft2c(spectrum))[f"k-space band {number}"].item() for number in (1, 2, 3)]
    assert bands[1] > 0.05 and bands[0] < 1e-6 and bands[2] < 1e-6


def test_a_trace_keeps_what_every_state_had() -> None:
    trace = Trace(None)
    image = torch.ones(6, 8, 8, dtype=torch.complex64)
    trace.add(image, 3, energy=None)
    trace.add(2 * image, 3, energy=torch.arange(6.0))
    stacked = trace.stacked()
    assert "energy" not in stacked and stacked["region 1 1"].shape == (3, 2, 2)
    assert stacked["region 1 1"][0, :, 0].tolist() == [1, 2]
