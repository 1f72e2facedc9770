"""The energy over noise and structure, against closed forms of quadratic energies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mriinv.landscape
from mriinv import InverseProblem, Prior, complex_noise, simulate_acquisition
from mriinv.config import RunConfig
from mriinv.data.fastmri import write_fastmri
from mriinv.errors import CompatibilityError, InputError
from mriinv.landscape import Landscape, case_landscape, landscape, scan_case
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem
from mriinv.validation import Case


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair() -> tuple[Tensor, Tensor]:
    reference, sense = complex_noise((2, 3, 4), 1.0, generator(7), torch.complex128)
    return reference, sense


def quadratic(hessian: Tensor, linear: Tensor | None, reference: Tensor, found: Landscape) -> tuple[Tensor, Tensor]:
    """Return ½xᴴHx − Re xᴴl on the grid, point by point, and its minimiser (α_z*, α_s*) from the normal equations."""
    linear = torch.zeros_like(reference.flatten()) if linear is None else linear
    x, z, s = (image.flatten() for image in (reference, found.noise, found.structure))
    values = [
        [
            float((y.conj() @ (0.5 * hessian @ y - linear)).real)
            for y in (x + alpha_z * z + alpha_s * s for alpha_s in found.structural)
        ]
        for alpha_z in found.gaussian
    ]
    directions = torch.stack([z, s])
    matrix = (directions.conj() @ hessian @ directions.T).real
    return torch.tensor(values), torch.linalg.solve(matrix, -(directions.conj() @ (hessian @ x - linear)).real)


def around(minimiser: Tensor) -> dict[str, Any]:
    """Return ranges that hold the minimiser, off the grid."""
    return dict(zip(("gaussian", "structural"), [(a - 0.31, a + 0.47) for a in minimiser.tolist()], strict=True))


def test_energy_of_a_quadratic_prior():
    _, prior, _ = gaussian_problem()
    reference, sense = pair()
    wide = landscape(prior, reference, sense, generator=generator(), points=4)
    noise = complex_noise((3, 4), 1.0, generator(), torch.complex128)
    assert torch.equal(wide.noise, noise)
    assert torch.equal(wide.structure, sense - reference)
    assert wide.gaussian.tolist() == pytest.approx([-0.1, -1 / 30, 1 / 30, 0.1])
    assert wide.structural.tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])

    _, best = quadratic(prior.matrix, None, reference, wide)
    found = landscape(prior, reference, sense, generator=generator(), points=7, **around(best))
    values, _ = quadratic(prior.matrix, None, reference, found)
    torch.testing.assert_close(found.values, values.double(), rtol=1e-6, atol=0)
    assert found.minimiser == pytest.approx(best.tolist(), abs=1e-9)
    torch.testing.assert_close(found.image, reference + best[0] * noise + best[1] * (sense - reference))


class FollowsNoise(QuadraticPrior):
    def at_noise(self, noise_std: Tensor) -> Prior:
        return QuadraticPrior(self.matrix * noise_std)


@pytest.mark.parametrize("noise_std", [None, 0.5])
def test_cost_of_a_gaussian_posterior(noise_std):
    problem, prior, _ = gaussian_problem()
    problem = InverseProblem(problem.operator, problem.data, noise_std, problem.scale)
    prior = FollowsNoise(prior.matrix)
    weight = 1.0 if noise_std is None else noise_std
    hessian = problem.operator.matrix.mH @ problem.operator.matrix + weight * prior.matrix
    reference, sense = pair()
    arguments = {"generator": generator(), "problem": problem}
    wide = landscape(prior, reference, sense, points=3, **arguments)
    linear = problem.back_projection().flatten()
    _, best = quadratic(hessian, linear, reference, wide)
    found = landscape(prior, reference, sense, points=6, **{**arguments, "generator": generator()}, **around(best))
    values, _ = quadratic(hessian, linear, reference, found)
    constant = 0.5 * problem.data.abs().square().sum()
    torch.testing.assert_close(found.values, values.double() + constant, rtol=1e-6, atol=0)
    assert found.minimiser == pytest.approx(best.tolist(), abs=1e-9)


class Table(Prior):
    """Gives the n-th image that it sees the n-th value, and counts the images of each call."""

    name = "table"

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values, self.calls = list(values.flatten()), []

    def energy(self, image: Tensor, noise_level: Any = None) -> Tensor:
        self.calls.append(len(image))
        first = sum(self.calls[:-1])
        return torch.stack(self.values[first : first + len(image)])


def test_batches_are_bounded_and_change_nothing(monkeypatch):
    _, prior, _ = gaussian_problem()
    whole = landscape(prior, *pair(), generator=generator(), points=5)
    monkeypatch.setattr(mriinv.landscape, "BATCH_PIXELS", 50)  # four images of 12 pixels
    parts = landscape(prior, *pair(), generator=generator(), points=5)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-12, atol=0)
    table = Table(torch.arange(25.0, dtype=torch.float64))
    found = landscape(table, *pair(), generator=generator(), points=5)
    assert table.calls == [4] * 6 + [1]
    assert found.values.flatten().tolist() == list(range(25))
    monkeypatch.setattr(mriinv.landscape, "BATCH_PIXELS", 1)
    table = Table(torch.zeros(9, dtype=torch.float64))
    landscape(table, *pair(), generator=generator(), points=3)
    assert table.calls == [1] * 9


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[5, 4, 3], [4, 3, 2], [3, 2, 1]], (1.0, 2.0)),  # at the border
        ([[0.5, 1, 5], [1, 0, 1], [5, 1, 0.5]], (0.0, 0.0)),  # a fit with a saddle
        ([[9, 3, 1], [3, 0, 0.1], [1, 0.1, 9]], (0.0, 0.0)),  # a fit whose minimum is far away
        ([[3, 1, 3], [5, 0, 3], [9, 3, 5]], None),  # not quadratic, but fitted inside
    ],
)
def test_the_minimum_is_refined_only_where_the_fit_is_sound(values, expected):
    prior = Table(torch.tensor(values, dtype=torch.float64))
    ranges = {"gaussian": (-1.0, 1.0), "structural": (-2.0, 2.0)}
    found = landscape(prior, *pair(), generator=generator(), points=3, **ranges).minimiser
    if expected is None:
        assert found != (0.0, 0.0)
        assert abs(found[0]) < 1
        assert abs(found[1]) < 2
    else:
        assert found == expected


def test_at_the_border():
    _, prior, _ = gaussian_problem()
    _, best = quadratic(prior.matrix, None, pair()[0], landscape(prior, *pair(), generator=generator(), points=3))
    inside = {"generator": generator(), "points": 5, **around(best)}
    assert not landscape(prior, *pair(), **inside).at_border
    beyond = {**inside, "generator": generator(), "gaussian": (float(best[0]) + 1, float(best[0]) + 2)}
    assert landscape(prior, *pair(), **beyond).at_border


@pytest.mark.parametrize("data", [False, True])
def test_a_case_is_seen_in_units_of_its_scale_and_at_its_noise(data):
    problem, prior, _ = gaussian_problem()
    problem = InverseProblem(problem.operator, 3 * problem.data, 1.5, torch.tensor([3.0], dtype=torch.float64))
    reference = 3 * pair()[0][None]
    arguments = {"points": 3, "structural": (-0.5, 0.5)}
    found = case_landscape(FollowsNoise(prior.matrix), Case("", problem, reference), seed=4, data=data, **arguments)
    halved = QuadraticPrior(0.5 * prior.matrix)
    same = InverseProblem(problem.operator, problem.data / 3, None, torch.ones(1)) if data else None
    sense = problem.sense()[0] / 3
    wanted = landscape(halved, reference[0] / 3, sense, generator=generator(4), problem=same, **arguments)
    torch.testing.assert_close(found.values, wanted.values)
    assert found.minimiser == pytest.approx(wanted.minimiser)


def test_the_case_of_a_scan_has_the_phase_of_its_maps(tmp_path):
    """A simulated scan brings a reference, whose phase no calibration can know; SENSE is compared with another one."""
    full = simulate_acquisition(shape=(48, 40), coils=4, slices=3, noise_std=0.002)
    write_fastmri(tmp_path / "scan.h5", full)
    config = RunConfig(solver="mm-cg", mask={"name": "poisson-2d", "acceleration": 2}, device="cpu")
    case = scan_case(config.model_copy(update={"input": (tmp_path / "scan.h5",)}))
    assert case.name == "scan.h5[1], poisson-2d 2"
    for found in (case, scan_case(config)):
        error = found.problem.sense() - found.reference
        assert float(error.norm() / found.reference.norm()) < 0.2
    (tmp_path / "other.h5").write_bytes((tmp_path / "scan.h5").read_bytes())
    with pytest.raises(InputError, match="found 2 scans; expected one scan"):
        scan_case(config.model_copy(update={"input": (tmp_path,)}))


def test_errors():
    problem, prior, _ = gaussian_problem()
    reference, sense = pair()

    def run(prior: Prior = prior, sense: Tensor = sense, **changes: Any) -> Landscape:
        return landscape(prior, reference, sense, generator=generator(), **{"points": 3, **changes})

    class Denoiser(Prior):
        name = "denoiser"
        provides = frozenset({"denoiser"})

    with pytest.raises(CompatibilityError, match="'denoiser' has no energy; it provides: denoiser"):
        run(Denoiser())
    with pytest.raises(InputError, match="shapes"):
        run(sense=sense[:2])
    with pytest.raises(InputError, match="points"):
        run(points=2)
    with pytest.raises(InputError, match="gaussian"):
        run(gaussian=(0.1, 0.1))
    with pytest.raises(InputError, match="structural"):
        run(structural=(0.0, float("inf")))
    with pytest.raises(InputError, match="normalised"):
        run(problem=InverseProblem(problem.operator, problem.data, scale=torch.tensor([2.0])))
    with pytest.raises(InputError, match="NaN"):
        run(Table(torch.full((9,), torch.nan)))
