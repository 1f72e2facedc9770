"""Preparation, solvers, samplers, a training and a whole run on a device that is not the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mriinv
from mriinv.core.problem import Samples
from mriinv.data import training
from mriinv.data.heads import ProceduralHeads
from mriinv.data.training import SimulatedProblems
from mriinv.registry import registry
from virtual_device import OnDevice, virtual_device

SHAPE = (24, 20)
FEW = {"samples": 4, "chains": 2, "long_run": 0, "burn_in": 2}
SMALL: dict[str, dict[str, Any]] = {
    "deepen": {"widths": (4, 8), "blocks": 1, "views": 2},
    "muse": {"widths": (4,), "layers": 2},
    "cnn-denoiser": {"widths": (4,), "layers": 2},
    "mol": {"widths": (4,), "layers": 2, "iterations": 3},
    "elder": {"widths": (4, 8), "blocks": 1, "iterations": 2},
    "modl": {},
    "varnet": {},
}
METHODS: list[tuple[str | None, str, dict[str, Any]]] = [
    (None, "zero-filled", {}),
    (None, "cg-sense", {}),
    ("deepen", "mm-cg", {"max_iterations": 8}),
    ("deepen", "mm-cg", {"max_iterations": 8, "memory": 0, "robust": False}),
    ("deepen", "langevin", FEW),
    ("deepen", "mala", FEW),
    ("deepen", "preconditioned-langevin", {**FEW, "levels": 3}),
    ("deepen", "preconditioned-langevin", {**FEW, "levels": 3, "metropolis": True}),
    ("deepen", "dps", {"steps": 3, "samples": 2}),
    ("tv", "fista", {"max_iterations": 4}),
    ("l1-wavelet", "fista", {"max_iterations": 4}),
    ("muse", "mm-cg", {"max_iterations": 3}),
    ("muse", "muse-mm", {"max_iterations": 3}),
    ("cnn-denoiser", "ista", {"max_iterations": 4}),
    ("mol", "end-to-end", {}),
    ("elder", "end-to-end", {}),
    ("modl", "end-to-end", {}),
    ("varnet", "end-to-end", {}),
    ("diffusion", "dps", {"steps": 3, "samples": 2}),
    ("diffusion", "dds", {"steps": 3, "samples": 2}),
    ("diffusion", "pnp-flow", {"steps": 4}),
]


def reconstruct(prior: str | None, solver: str, settings: dict[str, Any], where: Any) -> mriinv.Solution:
    full = mriinv.simulate_acquisition(shape=SHAPE, coils=3, coil_maps=True, seed=1).to(where)
    mask = mriinv.make_mask("poisson-2d", SHAPE, acceleration=3, acs=8, seed=1)
    made = None
    if prior in SMALL:
        torch.manual_seed(0)
        made = mriinv.make_prior(prior, weights="none", **SMALL[prior]).to(where)
    elif prior is not None:
        made = mriinv.make_prior(prior).to(where)
    return mriinv.make_solver(solver, **settings)(mriinv.make_problem(full.undersampled(mask)), made)


def test_the_device_is_as_strict_as_cuda():
    with virtual_device() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        assert isinstance(there, OnDevice) and there.device == device and not isinstance(there.cpu(), OnDevice)
        assert there[here.bool()].device == device
        for wrong in (
            lambda: there + here,
            lambda: here[there.bool()],
            lambda: torch.randn(3, device=device, generator=torch.Generator()),
            lambda: torch.randn(3, generator=torch.Generator(device)),
        ):
            with pytest.raises(RuntimeError, match="device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_every_recipe_is_here():
    recipes = {(one.prior.name if one.prior else None, one.solver.name) for one in registry().recipes.values()}
    assert recipes <= {(prior, solver) for prior, solver, _ in METHODS}


@pytest.mark.parametrize(("prior", "solver", "settings"), METHODS)
def test_reconstructions_are_those_of_the_cpu(prior, solver, settings):
    expected = reconstruct(prior, solver, settings, "cpu")
    with virtual_device() as device:
        found = reconstruct(prior, solver, settings, device)
        assert found.image.device == device
        values = found.image.cpu()
        spread = found.std.cpu() if isinstance(found, Samples) else None
    largest = float(expected.image.abs().max())
    torch.testing.assert_close(values, expected.image, rtol=1e-3, atol=1e-4 * largest)
    if isinstance(expected, Samples):
        torch.testing.assert_close(spread, expected.std, rtol=1e-2, atol=1e-4 * largest)


def test_preparation_calibration_and_numbers_are_those_of_the_cpu():
    def numbers(where: Any) -> list[float]:
        full = mriinv.simulate_acquisition(shape=(40, 36), coils=4, seed=1).to(where)
        prepared = mriinv.prepare_acquisition(full, mriinv.Preparation(crop=(36, 32), coils=3))
        mask = mriinv.make_mask("random-1d", (36, 32), 2, 12)
        problem = mriinv.make_problem(prepared.undersampled(mask))
        reference, support = problem.operator.fully_sampled_image(prepared.kspace), problem.operator.support
        return [*mriinv.evaluate(problem.sense(), reference, support).as_dict().values()]

    expected = numbers("cpu")
    with virtual_device() as device:
        assert numbers(device) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("step", "likelihood_of"), [(0, None), (1, "scale"), (1, "network")])
def test_an_update_of_a_training(step, likelihood_of, monkeypatch):
    """The first is of denoising, the second of likelihood, with a chain; both as on the CPU."""
    sense = registry().load("operator", "sense")

    def gradients(where: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        prior = mriinv.make_prior("deepen", weights="none", **SMALL["deepen"]).to(where).requires_grad_(True)
        source = SimulatedProblems(ProceduralHeads(), shape=SHAPE, coils=3, pool=2, make_operator=sense)
        settings = {"steps": 2, "warm_start": 1, "batch": 1, "chain_steps": 2, "pool": 2, "chain_precision": "float32"}
        trainer = mriinv.make_trainer("maximum-likelihood", likelihood_of=likelihood_of, **settings)
        trainer.loss(prior, source, step, torch.Generator(where).manual_seed(0)).value.backward()
        return [parameter.grad for parameter in prior.parameters() if parameter.grad is not None]

    def on_host(given: torch.Generator) -> torch.Generator:
        return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=given)))

    with monkeypatch.context() as patched:
        patched.setattr(training, "_on_host", on_host)  # draw as for a device
        expected = gradients("cpu")
    with virtual_device() as device:
        found = gradients(device)
        assert found and all(one.device == device for one in found)
        for one, other in zip(found, expected, strict=True):
            assert (one.cpu() - other).norm() <= 1e-3 * other.norm()
