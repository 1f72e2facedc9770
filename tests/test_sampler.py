"""What every sampler shares: the levels, steps and starting points that its chains are given."""

import pytest
import torch

from mriinv import Chain, InverseProblem, Sampler, Target, complex_noise, make_solver
from mriinv.core import sampler as module
from mriinv.testing.analytic import QuadraticPrior, gaussian_problem

HIGHEST, NOISE = 0.8, torch.tensor([0.1, 0.2])
SETTINGS = {"samples": 6, "chains": 3, "levels": 4, "burn_in": 5, "thinning": 3, "long_run": 10}
FIRST = 3 + 5  # steps before the first sample


class Leveled(QuadraticPrior):
    noise_range = (0.01, HIGHEST)


class Counting(Chain):
    """Moves by one in each step."""

    def __init__(self, image, level, previous, passing):
        self.start, self.image, self.level, self.previous, self.passing = image, image, level, previous, passing
        self.steps, self.begun = 0, None

    def step(self):
        self.steps, self.image = self.steps + 1, self.image + 1

    def begin(self):
        self.begun = self.steps


class Recording(Sampler):
    name = "recording"
    requires = (frozenset({"energy"}),)

    def chain(self, target, image, generator, *, previous=None, passing=False):
        self.made.append(Counting(image, target.level, previous, passing))
        return self.made[-1]


def sampled(prior=Leveled, images=1, **settings):
    """Return the samples, where the chains of an image start, and the chains in the order that they were made."""
    problem, quadratic, _ = gaussian_problem(batch=images)
    problem = InverseProblem(problem.operator, problem.data, NOISE[:images], scale=1)
    solver = Recording(**{**SETTINGS, **settings})
    solver.made = []
    return solver(problem, prior(quadratic.matrix)), problem.sense(), solver.made


@pytest.mark.parametrize(("images", "batch", "together"), [(1, 8, [3]), (1, 2, [2, 1]), (2, 2, [1, 1, 1])])
def test_chains_pass_the_levels_and_are_drawn_from(monkeypatch, images, batch, together):
    lengths, diagnose = [], module.diagnose

    def watched(traces, longer, first):
        lengths.append([{one.shape for one in part.values()} for part in (traces, longer)])
        return diagnose(traces, longer, first)

    monkeypatch.setattr(module, "diagnose", watched)
    samples, start, made = sampled(images=images, batch=batch)
    *annealed, longer = made
    levels = [HIGHEST * (NOISE[:images].double() / HIGHEST) ** (number / 3) for number in range(4)]
    for group, count in enumerate(together):
        chains = annealed[4 * group : 4 * group + 4]
        assert [chain.passing for chain in chains] == [True, True, True, False]
        assert [chain.steps for chain in chains] == [1, 1, 1, 5 + 3]
        assert [chain.begun for chain in chains] == [None, None, None, 5]
        for before, chain, level in zip([None, *chains], chains, levels, strict=False):
            torch.testing.assert_close(chain.level.double(), level.repeat(count))
            assert chain.previous is before and (before is None or torch.equal(chain.start, before.start + 1))
    noise = complex_noise(made[0].start.shape, HIGHEST, torch.Generator().manual_seed(0), torch.complex128)
    torch.testing.assert_close(made[0].start, start.repeat(together[0], 1, 1) + noise)
    assert samples.draws.shape == (3, 2, images, 3, 4)
    torch.testing.assert_close(samples.draws[0, :, 0], made[0].start[0] + torch.tensor([8, 11]).view(-1, 1, 1))
    assert samples.iterations.tolist() == [FIRST + 3] * images
    last = annealed[-1]
    assert longer.previous is last and not longer.passing and longer.begun == 0
    assert torch.equal(longer.start, last.image[-images:]) and torch.equal(longer.level, levels[-1].to(longer.level))
    assert longer.steps == 10 * FIRST - (FIRST + 3)
    assert lengths == [[{(3, 4, images)}, {(1, 4 + longer.steps, images)}]]


def test_without_levels_chains_start_at_the_image():
    for prior, levels in ((QuadraticPrior, 4), (Leveled, 1)):
        _, start, (chain,) = sampled(prior, levels=levels, batch=3, long_run=0)
        assert chain.steps == 5 + 3 and torch.equal(chain.start, start.repeat(3, 1, 1))
        assert chain.level is None if levels == 4 else torch.equal(chain.level, NOISE[:1].repeat(3))


@pytest.mark.parametrize(("name", "kept"), [("preconditioned-langevin", "momentum"), ("mala", "step_size")])
def test_the_longer_chain_goes_on_as_it_was(name, kept):
    problem, prior, _ = gaussian_problem()
    solver, generator = make_solver(name), torch.Generator().manual_seed(0)
    target = Target(problem, prior)
    chain = solver.chain(target, solver.first_state(problem, generator, 2), generator)
    for _ in range(3):
        chain.step()
    longer = solver.chain(target, chain.image[-1:], generator, previous=chain)
    assert torch.equal(getattr(longer, kept), getattr(chain, kept)[-1:])


@pytest.mark.parametrize("settings", [{"samples": 8, "long_run": 3}, {"samples": 16, "chains": 2, "long_run": 0}])
def test_chains_that_never_moved_have_not_mixed(settings):
    """With one draw per chain the longer chain alone tells."""
    problem, prior, _ = gaussian_problem()
    short = {**settings, "burn_in": 10, "thinning": 2}
    stuck, moving = (make_solver("mala", **short, **step)(problem, prior) for step in ({"step_size": 1e4}, {}))
    assert not stuck.converged.any() and stuck.notes[0] == module.STUCK and module.STUCK not in moving.notes


def test_samplers_take_the_prior_as_the_posterior_has_it() -> None:
    """Other solvers take it at the noise of the data."""

    class Asked(Leveled):
        def at_noise(self, noise_std):
            self.asked = "at_noise"
            return self

        def in_posterior(self, noise_std):
            self.asked = "in_posterior"
            return self

    problem, quadratic, _ = gaussian_problem(batch=1)
    problem, prior = InverseProblem(problem.operator, problem.data, NOISE[:1], scale=1), Asked(quadratic.matrix)
    short = {"samples": 2, "burn_in": 1, "long_run": 0}
    for name, settings, asked in (("langevin", short, "in_posterior"), ("mm-cg", {}, "at_noise")):
        make_solver(name, **settings)(problem, prior)
        assert prior.asked == asked
