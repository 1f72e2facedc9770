"""Maximum likelihood against the closed-form Gaussian case, and its promises on memory."""

import pytest
import torch

from mriinv import InverseProblem, Operator, ProblemSource, complex_noise, make_prior, make_trainer
from mriinv.testing.analytic import QuadraticPrior

PRECISION = 3.0


class Identity(Operator):
    name = "identity"

    def forward(self, image):
        return image

    def adjoint(self, data):
        return data


class GaussianProblems(ProblemSource):
    """x with precision τ per real component, b = x + n with unit noise: the true energy is ½τ‖x‖²."""

    def images(self, count, generator):
        return complex_noise((count, 4, 4), PRECISION**-0.5, generator, torch.complex128)

    def problem(self, images, generator):
        data = images + complex_noise(images.shape, 1.0, generator, images.dtype)
        return InverseProblem(Identity(), data, scale=torch.ones(len(images)))


def trainer(**settings):
    chain = {"form": "eq11", "epsilon": 0.25}
    defaults = {"warm_start": 0, "dsm_weight": 0, "pool": 4, "batch": 64, "data_noise_std": 0.0, "langevin": chain}
    return make_trainer("maximum-likelihood", **(defaults | {"chain_precision": "float32"} | settings))


@pytest.mark.parametrize("theta", [1.0, 8.0])
def test_learns_the_precision_of_a_gaussian_prior(theta):
    """Conditional maximum likelihood is consistent: θ → τ, from either side (methods of the discretised chain)."""
    prior, learner, source = QuadraticPrior(theta=theta), trainer(refresh=0.1), GaussianProblems()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    path = []
    for step in range(240):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 120 else 0.02
        optimizer.zero_grad()
        learner.loss(prior, source, step, generator).value.backward()
        optimizer.step()
        path.append(prior.theta.item())
    assert sum(path[-60:]) / 60 == pytest.approx(PRECISION, rel=0.06)


def test_gradient_is_the_difference_of_the_moments():
    """∂L'/∂θ = ½(E‖x⁺‖² − E‖x⁻‖²)/(T·pixels): eq. 13 with nothing from the chain."""
    prior, learner = QuadraticPrior(theta=2.0), trainer()
    learner.loss(prior, GaussianProblems(), 0, torch.Generator().manual_seed(0)).value.backward()
    group = learner._groups[0]
    moments = [x.abs().square().sum((1, 2)).mean() for x in (group.true, group.fake)]
    torch.testing.assert_close(prior.theta.grad, 0.5 * (moments[0] - moments[1]) / 16)


def test_chains_persist_and_are_refreshed_as_asked():
    prior, source, generator = QuadraticPrior(), GaussianProblems(), torch.Generator().manual_seed(0)
    lasting, fresh = trainer(refresh=0.0, pool=2), trainer(refresh=1.0, pool=2)
    for learner in (lasting, fresh):
        for step in range(2):
            learner.loss(prior, source, step, generator)
        learner.before = learner._groups[0].true.clone()
        learner.loss(prior, source, 2, generator)
    assert len(lasting._groups) == 2
    assert torch.equal(lasting._groups[0].true, lasting.before)
    assert not torch.equal(fresh._groups[0].true, fresh.before)


@pytest.mark.parametrize("form", ["residual", "published"])
def test_memory_does_not_grow_with_the_chain(form):
    """The graph that an update holds is the same whether the chain has 1 step or 12."""
    kept = {}
    for steps in (1, 12):
        torch.manual_seed(0)
        prior = make_prior("deepen", weights="none", form=form, widths=[4]).requires_grad_(True)
        learner = trainer(chain_steps=steps, batch=2, langevin={"epsilon": 0.01, "step": 0.5})

        class Source(GaussianProblems):
            def images(self, count, generator):
                return complex_noise((count, 8, 8), 0.3, generator)

        loss = learner.loss(prior, Source(), 0, torch.Generator().manual_seed(0)).value
        assert loss.requires_grad and not learner._groups[0].fake.requires_grad
        kept[steps] = _graph_size(loss.grad_fn)
    assert kept[1] == kept[12] > 0


def _graph_size(node):
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return len(seen)


def test_warm_start_then_likelihood_with_score_matching_beside_it():
    prior = make_prior("deepen", weights="none", widths=[4], blocks=1).requires_grad_(True)
    learner = trainer(warm_start=1, dsm_weight=0.5, batch=2, langevin={"epsilon": 0.01})

    class Source(GaussianProblems):
        def images(self, count, generator):
            return complex_noise((count, 8, 8), 0.3, generator)

    generator = torch.Generator().manual_seed(0)
    first, second = (learner.loss(prior, Source(), step, generator) for step in range(2))
    assert set(first.log) == {"dsm"}
    assert set(second.log) == {"gap", "energy", "fake_error", "dsm"}
    assert second.value.item() == pytest.approx(second.log["gap"] + 0.5 * second.log["dsm"], rel=1e-5)


def test_learning_rate_has_one_cosine_per_stage():
    learner = make_trainer("maximum-likelihood", steps=3000, warm_start=1000)
    rates = [learner.learning_rate_factor(step) for step in (0, 100, 999, 1000, 2999)]
    assert rates[0] == pytest.approx(0.01) and rates[1] == pytest.approx(0.977, abs=0.01)
    assert rates[2] == pytest.approx(0.05, abs=1e-3)
    assert rates[3] == pytest.approx(0.15) and rates[4] == pytest.approx(0.0075, abs=1e-4)
