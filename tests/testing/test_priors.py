"""The checks of priors notice what they are for."""

from __future__ import annotations

import pytest
import torch

from mriinv import CompatibilityError, Prior, complex_noise, make_solver
from mriinv.testing import check_capabilities, check_gradient
from mriinv.testing.analytic import gaussian_problem

IMAGE = complex_noise((2, 3, 4), 1.0, torch.Generator().manual_seed(0), torch.complex128)


class Shrink(Prior):
    """D(x) = x/(1 + σ²), right unless a fault is asked for."""

    name = "shrink"
    provides = frozenset({"denoiser"})
    fault = ""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def denoise(self, image, noise_level, *, create_graph=False):
        level = torch.as_tensor(noise_level, dtype=image.real.dtype).reshape(-1, 1, 1)
        graph = {"always a graph": True, "never a graph": False}.get(self.fault, create_graph)
        with torch.set_grad_enabled(graph):
            return (
                self.one
                * image
                / (1 + level * (1 if self.fault == "wrong for several" and level.numel() > 1 else level))
            )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", None),
        ("always a graph", "found a graph; expected none"),
        ("never a graph", "found no graph with create_graph"),
        ("wrong for several", "one level per image changes the result"),
    ],
)
def test_denoisers(fault: str, message: str | None) -> None:
    prior = Shrink()
    prior.fault = fault
    if message is None:
        check_capabilities(prior, IMAGE)
    else:
        with pytest.raises(AssertionError, match=message):
            check_capabilities(prior, IMAGE)


class Bowl(Prior):
    """½‖x‖² with a gradient that is `factor` times too long."""

    name = "bowl"
    provides = frozenset({"energy", "gradient"})
    factor = 1.0

    def energy(self, image, noise_level=None):
        return 0.5 * image.abs().square().double().sum((1, 2))

    def energy_and_gradient(self, image, noise_level=None, *, create_graph=False):
        return self.energy(image), self.factor * image


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_gradient_is_compared_in_either_precision(dtype: torch.dtype) -> None:
    prior, image = Bowl(), IMAGE.to(dtype)
    check_gradient(prior, image)
    prior.factor = 1.2
    with pytest.raises(AssertionError, match="gradient: along a direction"):
        check_gradient(prior, image)


def test_images_of_a_batch_may_not_depend_on_each_other() -> None:
    class Coupled(Bowl):
        def energy(self, image, noise_level=None):
            return super().energy(image - image.mean(0))

    with pytest.raises(AssertionError, match=r"bowl\.energy: the other images of a batch change the first by"):
        check_capabilities(Coupled(), IMAGE)
    check_capabilities(Bowl(), IMAGE)


@pytest.mark.parametrize("provides", [{"energie"}, "energy"])
def test_capabilities_have_the_names_that_there_are(provides) -> None:
    prior = Bowl()
    prior.provides = provides
    with pytest.raises(AssertionError, match=r"bowl claims .*; there are denoiser, energy, gradient"):
        check_capabilities(prior, IMAGE)


def test_a_reconstruction_that_is_only_claimed() -> None:
    class Claims(Prior):
        name = "claims"
        provides = frozenset({"reconstruction"})

    with pytest.raises(AssertionError, match="claims reconstruction, but has no method"):
        check_capabilities(Claims(), IMAGE)


def test_an_energy_of_all_images_together_is_refused_where_it_is_used() -> None:
    class Whole(Prior):
        name = "whole"
        provides = frozenset({"energy"})

        def energy(self, image, noise_level=None):
            return image.abs().square().double().sum()

    problem, _, _ = gaussian_problem()
    with pytest.raises(CompatibilityError, match=r"'whole': energy of shape \(\); expected one per image, \(1,\)"):
        make_solver("mm-cg")(problem, Whole())


def test_a_score_needs_a_level() -> None:
    with pytest.raises(CompatibilityError, match="prior 'shrink' has no noise levels of its own: its score needs one"):
        Shrink().score(IMAGE, None)
