"""Values that the publications state, where they are the defaults: a change here is another method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mriinv import complex_noise, make_problem, simulate_acquisition
from mriinv.core.problem import reference_scale
from mriinv.networks import FeatureNetwork
from mriinv.registry import registry

DEFAULTS: list[tuple[str, str, str, Any]] = [
    ("solver", "mm-cg", "tolerance", 1e-6),  # sec. III-C
    ("solver", "mm-cg", "max_iterations", 500),
    ("solver", "ista", "tolerance", 1e-6),
    ("solver", "ista", "max_iterations", 500),
    ("solver", "muse-mm", "data_curvature", 0.72),  # 1.2²/2
    ("solver", "muse-mm", "cg_iterations", 10),
    ("solver", "dps", "steps", 1000),  # sec. IV-A.2
    ("solver", "dps", "diffusion_base", 25.0),  # of eq. 24
    ("prior", "elder", "iterations", 30),  # sec. III-B.5
    ("prior", "diffusion", "widths", (64, 128, 256, 512)),
    ("prior", "cnn-denoiser", "layers", 5),
]


@pytest.mark.parametrize(("kind", "name", "setting", "published"), DEFAULTS)
def test_defaults_are_those_published(kind: Any, name: str, setting: str, published: Any) -> None:
    assert getattr(registry().load(kind, name).parse_settings({}), setting) == published


def test_reconstructions_start_from_sense_with_the_weight_of_the_authors() -> None:
    problem = make_problem(simulate_acquisition(shape=(24, 20), coils=3))
    image = problem.sense()
    shifted = problem.operator.gram(image) + 0.01 * problem.operator.norm_bound**2 * image
    torch.testing.assert_close(shifted, problem.back_projection(), rtol=0, atol=1e-5)


def test_images_are_brought_to_the_99th_percentile() -> None:
    image = torch.arange(1.0, 1001.0).view(1, 25, 40) * torch.tensor(1j)
    assert float(reference_scale(image)) == pytest.approx(990, abs=1)


def test_energies_and_data_terms_are_summed_in_double_precision() -> None:
    """A stopping rule of 1e-6 is near the rounding of single precision: 1e5 terms there are off by as much."""
    network = FeatureNetwork((4,), 1, 1, False, "silu")
    image = complex_noise((1, 320, 320), 1.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network(torch.view_as_real(image).movedim(-1, 1).contiguous(), torch.zeros(1))
        potential = network.potential(image, torch.ones(1))
    assert potential.dtype == torch.float64
    assert float(potential) == pytest.approx(float(features.double().square().sum() / 2), rel=1e-12)
    problem = make_problem(simulate_acquisition(shape=(96, 80), coils=8))
    term = problem.data_term(image[:, :96, :80])
    residual = problem.operator(image[:, :96, :80]) - problem.data
    expected = float(residual.to(torch.complex128).abs().square().sum() / 2)
    assert term.dtype == torch.float64 and float(term) == pytest.approx(expected, rel=1e-12)
