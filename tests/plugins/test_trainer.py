"""Maximum likelihood against the closed-form Gaussian case, and its promises on memory."""

import pytest
import torch

from mriinv import InverseProblem, MriinvError, ProblemSource, SettingsError, complex_noise, make_prior, make_trainer
from mriinv.testing.analytic import QuadraticPrior
from support import Identity, graph_size

PRECISION = 3.0


class GaussianProblems(ProblemSource):
    """x with precision τ per real component, b = x + n with unit noise: the true energy is ½τ‖x‖²."""

    def images(self, count, generator):
        return complex_noise((count, 4, 4), PRECISION**-0.5, generator, torch.complex128)

    def problem(self, images, generator):
        data = images + complex_noise(images.shape, 1.0, generator, images.dtype)
        return InverseProblem(Identity(), data, 1.0, torch.ones(len(images)))


class Images(GaussianProblems):
    """In single precision, and large enough for a network."""

    def images(self, count, generator):
        return complex_noise((count, 8, 8), 0.3, generator)


def trainer(**settings):
    chain = {"form": "eq11", "epsilon": 0.25}
    defaults = {
        "warm_start": 0,
        "likelihood_of": "network",
        "dsm_weight": 0,
        "pool": 4,
        "batch": 64,
        "true_noise_std": 0.0,
    }
    chains = {"sampler": "langevin", "chain": chain, "chain_precision": "float32"}
    return make_trainer("maximum-likelihood", **(defaults | chains | settings))


def fixed_point(variance, alpha):
    """θ at which true and fake images have the same second moment, for a chain of eq. 16 with the step `alpha`.

    b = x + n with unit noise, T = 1: the chain has mean b/h and variance 1/(h(1 − αh/2)), h = 1 + θ.
    """
    low, high = 0.0, 1.9 / alpha - 1 if alpha else 100.0
    for _ in range(60):
        h = 1 + (theta := (low + high) / 2)
        moment = (variance + 1) / h**2 + 1 / (h * (1 - alpha * h / 2))
        low, high = (theta, high) if moment > variance else (low, theta)
    return low


@pytest.mark.parametrize(
    ("start", "sampler", "chain", "steps", "alpha", "true_noise_std"),
    [
        (8.0, "langevin", {"form": "eq11", "epsilon": 0.25}, 20, 0.25**2 / 2, 0.0),
        (1.0, "langevin", {"form": "eq16", "step_size": 0.05}, 20, 0.05, 0.5),
        (8.0, "preconditioned-langevin", {"persistence": 0.0}, 3, 0.0, 0.0),
    ],
)
def test_learns_the_precision_of_a_gaussian_prior(start, sampler, chain, steps, alpha, true_noise_std):
    """Conditional maximum likelihood is consistent: θ → τ up to the step of the chain, whose effect is exact here."""
    prior, source = QuadraticPrior(theta=start), GaussianProblems()
    learner = trainer(refresh=0.1, sampler=sampler, chain=chain, chain_steps=steps, true_noise_std=true_noise_std)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    path = []
    for step in range(260):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 120 else 0.02
        optimizer.zero_grad()
        learner.loss(prior, source, step, generator).value.backward()
        optimizer.step()
        path.append(prior.theta.item())
    expected = fixed_point(1 / PRECISION + true_noise_std**2, alpha)
    assert sum(path[-100:]) / 100 == pytest.approx(expected, rel=0.035)
    assert abs(expected - 1 / (1 / PRECISION + true_noise_std**2)) < 0.1 * expected  # the step is a correction


class Scaled(QuadraticPrior):
    """½e^sθ‖x‖², whose denoiser leaves images as they are."""

    provides = frozenset({"energy", "gradient", "denoiser"})

    def __init__(self, scale, theta):
        super().__init__(theta=theta)
        self.log_scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64).log())

    def energy(self, image, noise_level=None):
        return self.log_scale.exp() * super().energy(image)

    def denoise(self, image, noise_level, *, create_graph=False):
        return image * self.theta / self.theta.detach()


@pytest.mark.parametrize("asked", [None, "scale"])
def test_likelihood_learns_the_scale_alone(asked):
    prior, source, generator = Scaled(2.5, theta=2.0), GaussianProblems(), torch.Generator().manual_seed(0)
    learner = trainer(
        likelihood_of=asked,
        dsm_weight=0.0 if asked else 1.0,
        sampler="preconditioned-langevin",
        chain={"persistence": 0.0},
        chain_steps=3,
    )
    optimizer, path = torch.optim.Adam(prior.parameters(), lr=0.03), []
    for step in range(160):
        optimizer.zero_grad()
        loss = learner.loss(prior, source, step, generator)
        loss.value.backward()
        optimizer.step()
        path.append(prior.log_scale.exp().item())
    assert prior.theta.item() == 2.0 and prior.theta.grad is None and prior.theta.requires_grad
    assert "dsm" not in loss.log
    assert sum(path[-60:]) / 60 == pytest.approx(PRECISION / 2.0, rel=0.05)


def test_likelihood_of_the_network_trains_all_of_it():
    prior = Scaled(2.5, theta=2.0)
    loss = trainer(likelihood_of="network").loss(prior, GaussianProblems(), 0, torch.Generator().manual_seed(0))
    loss.value.backward()
    assert prior.theta.grad is not None and prior.log_scale.grad is not None


def test_the_default_updates_and_rates_find_a_scale_that_was_a_guess():
    prior, source, generator = Scaled(0.3, theta=2.0), GaussianProblems(), torch.Generator().manual_seed(0)
    settings = {"warm_start": None, "sampler": "preconditioned-langevin", "chain": {"persistence": 0.0}}
    learner = trainer(likelihood_of="scale", chain_steps=3, **settings)
    _, scale = learner.parameter_groups(prior)
    optimizer = torch.optim.Adam(scale["params"])
    for step in range(5800, learner.steps):
        optimizer.param_groups[0]["lr"] = scale["lr"] * learner.learning_rate_factor(step)
        optimizer.zero_grad()
        learner.loss(prior, source, step, generator).value.backward()
        optimizer.step()
    assert learner.steps == 6000 and prior.log_scale.exp().item() == pytest.approx(PRECISION / 2.0, rel=0.05)


def test_what_leaves_nothing_to_train_or_biases_the_scale_is_refused():
    with pytest.raises(SettingsError, match=r"likelihood_of: found scale; prior 'quadratic' has no learned scale"):
        trainer(likelihood_of="scale").parameter_groups(QuadraticPrior())
    with pytest.raises(SettingsError, match="dsm_weight: with likelihood_of=scale nothing is left"):
        trainer(likelihood_of="scale", dsm_weight=1.0)
    for asked in (None, "scale"):
        with pytest.raises(SettingsError, match="curvature_weight: needs likelihood_of=network"):
            trainer(likelihood_of=asked, curvature_weight=1.0).parameter_groups(Scaled(1.0, theta=2.0))


def test_denoising_trains_one_view_unless_asked_for_their_mean():
    losses = []
    for views, one_view in ((1, True), (4, True), (4, False)):
        torch.manual_seed(0)
        prior = make_prior("deepen", weights="none", widths=[4], blocks=1, views=views).requires_grad_(True)
        learner = trainer(warm_start=1, batch=2, one_view=one_view)

        losses.append(learner.loss(prior, Images(), 0, torch.Generator().manual_seed(0)).value.item())
    assert losses[0] == losses[1] != losses[2]


def test_the_scale_of_the_energy_has_a_learning_rate_of_its_own():
    prior = make_prior("deepen", weights="none", widths=[4], blocks=1)
    rest, scale = trainer(learning_rate=0.01, scale_learning_rate_factor=7).parameter_groups(prior)
    assert len(scale["params"]) == 1 and scale["params"][0] is prior.log_scale
    assert (rest["lr"], scale["lr"]) == (0.01, pytest.approx(0.07))
    assert len(rest["params"]) == len(list(prior.parameters())) - 1


def test_gradient_is_the_difference_of_the_moments():
    """∂L'/∂θ = ½(E‖x⁺‖² − E‖x⁻‖²)/(T·pixels): eq. 13 with nothing from the chain."""
    prior, learner = QuadraticPrior(theta=2.0), trainer()
    learner.loss(prior, GaussianProblems(), 0, torch.Generator().manual_seed(0)).value.backward()
    chains = learner.state_dict()
    moments = [chains[name].square().sum((1, 2, 3)).mean() for name in ("true.0", "fake.0")]
    torch.testing.assert_close(prior.theta.grad, 0.5 * (moments[0] - moments[1]) / 16)


def test_chains_persist_and_are_refreshed_as_asked():
    prior, source, generator = QuadraticPrior(), GaussianProblems(), torch.Generator().manual_seed(0)
    for refresh in (0.0, 1.0):
        learner = trainer(refresh=refresh, pool=2)
        for step in range(2):
            learner.loss(prior, source, step, generator)
        before = learner.state_dict()["true.0"].clone()
        learner.loss(prior, source, 2, generator)
        chains = learner.state_dict()
        assert "true.1" in chains and "true.2" not in chains
        assert torch.equal(chains["true.0"], before) == (refresh == 0)


@pytest.mark.parametrize("form", ["residual", "published"])
def test_memory_does_not_grow_with_the_chain(form):
    """The graph that an update holds is the same whether the chain has 1 step or 12."""
    kept = {}
    for steps in (1, 12):
        torch.manual_seed(0)
        prior = make_prior("deepen", weights="none", form=form, widths=[4]).requires_grad_(True)
        learner = trainer(chain_steps=steps, batch=2, chain={"epsilon": 0.01, "step_size": 0.5})

        loss = learner.loss(prior, Images(), 0, torch.Generator().manual_seed(0)).value
        assert loss.requires_grad and not learner.state_dict()["fake.0"].requires_grad
        kept[steps] = graph_size(loss.grad_fn)
    assert kept[1] == kept[12] > 0


def test_warm_start_then_likelihood_with_score_matching_beside_it():
    prior = make_prior("deepen", weights="none", widths=[4], blocks=1).requires_grad_(True)
    learner = trainer(warm_start=1, dsm_weight=0.5, batch=2, chain={"epsilon": 0.01})

    generator = torch.Generator().manual_seed(0)
    first, second = (learner.loss(prior, Images(), step, generator) for step in range(2))
    assert set(first.log) == {"dsm"}
    assert set(second.log) == {"gap", "energy", "fake_error", "chain_gradient", "curvature", "dsm"}
    assert second.value.item() == pytest.approx(second.log["gap"] + 0.5 * second.log["dsm"], rel=1e-5)


def test_learning_rate_has_one_cosine_per_stage():
    learner = make_trainer("maximum-likelihood", steps=3000, warm_start=1000)
    rates = [learner.learning_rate_factor(step) for step in (0, 100, 999, 1000, 2999)]
    assert rates[0] == pytest.approx(0.01) and rates[1] == pytest.approx(0.977, abs=0.01)
    assert rates[2] == pytest.approx(0.05, abs=1e-3)
    assert rates[3] == pytest.approx(0.15) and rates[4] == pytest.approx(0.0075, abs=1e-4)


def test_chains_start_where_they_are_told_to():
    class Source(GaussianProblems):
        def images(self, count, generator):
            return torch.full((count, 4, 4), 100.0, dtype=torch.complex128)

    def first(**settings):
        learner = trainer(pool=1, batch=300, true_noise_std=0.0, **settings)
        chain = learner._visit(QuadraticPrior(), Source(), 0, torch.Generator().manual_seed(0))
        distance = (chain.fake - chain.true).abs().flatten(1).mean(1)
        truth, noise = distance == 0, (chain.fake.abs().flatten(1).mean(1) < 5)
        return [float(found.double().mean()) for found in (truth, noise, ~truth & ~noise)]  # the rest is SENSE

    assert first() == [0, 0, 1] and first(truth_starts=1.0) == [1, 0, 0] and first(noise_starts=1.0) == [0, 1, 0]
    assert first(noise_starts=0.5, truth_starts=0.25) == pytest.approx([0.25, 0.5, 0.25], abs=0.1)


class AtLevels(QuadraticPrior):
    """½θ‖x‖²/σ², and a record of the levels that it is evaluated at."""

    provides = frozenset({"energy", "gradient", "noise-conditional"})
    noise_range = (0.1, 1.0)

    def __init__(self):
        super().__init__()
        self.seen = set()

    def energy(self, image, noise_level=None):
        self.seen.add(noise_level)
        return super().energy(image) / (1.0 if noise_level is None else noise_level) ** 2


def test_every_group_of_chains_has_a_noise_level():
    """The true images of a group have the noise of its level; chain and energies are evaluated at it."""

    class Zero(GaussianProblems):
        def images(self, count, generator):
            return torch.zeros((count, 4, 4), dtype=torch.complex128)

    prior, generator = AtLevels(), torch.Generator().manual_seed(0)
    chain = {"form": "eq11", "epsilon": 0.05}
    learner = trainer(pool=4, levels=[0.2, 0.6], true_noise_std=None, refresh=0.0, chain=chain)
    learner.parameter_groups(prior)
    for step in range(6):
        prior.seen.clear()
        learner.loss(prior, Zero(), step, generator)
        assert prior.seen == {(0.2, 0.6)[step % 2]}
        std = learner.state_dict()[f"true.{step % 4}"].square().mean().sqrt().item()
        assert std == pytest.approx((0.2, 0.6)[step % 2], rel=0.1)
    prior.noise_range = (0.3, 1.0)
    with pytest.raises(SettingsError, match=r"trainer.levels: found 0.2; .* are from 0.3 to 1"):
        learner.parameter_groups(prior)


@pytest.mark.parametrize(("asked", "expected"), [("2eps", 0.2), ("2eps^2", 0.02), (0.3, 0.3), (None, 0.1)])
def test_noise_of_the_true_images(asked, expected):
    learner = trainer(true_noise_std=asked, chain={"form": "eq11", "epsilon": 0.1})
    assert learner._true_noise_std(AtLevels(), 0) == pytest.approx(expected)


def test_the_penalty_bounds_the_curvature():
    """½θ‖x‖² has the curvature θ everywhere: the penalty is w·(θ − limit)₊², its derivative 2w(θ − limit)."""
    settings = {"curvature_weight": 0.25, "batch": 8, "refresh": 0.0}
    for theta, excess in ((5.0, 2.0), (2.0, 0.0)):
        prior, plain = QuadraticPrior(theta=theta), QuadraticPrior(theta=theta)
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        penalised = trainer(curvature_limit=3.0, **settings).loss(prior, GaussianProblems(), 0, generators[0])
        free = trainer(**{**settings, "curvature_weight": 0.0}).loss(plain, GaussianProblems(), 0, generators[1])
        assert penalised.log["curvature"] == pytest.approx(theta) == free.log["curvature"]
        assert (penalised.value - free.value).item() == pytest.approx(0.25 * excess**2)
        penalised.value.backward()
        free.value.backward()
        assert (prior.theta.grad - plain.theta.grad).item() == pytest.approx(2 * 0.25 * excess)


def test_the_gradient_along_the_chain_is_logged():
    """With A = 1, E = ½θ‖x‖² and hardly any noise or step, ∇C stays (1 + θ)x − b."""
    learner = trainer(chain={"form": "eq11", "epsilon": 1e-6}, pool=1, refresh=0.0, batch=4)
    loss = learner.loss(QuadraticPrior(theta=2.0), GaussianProblems(), 0, torch.Generator().manual_seed(0))
    chain = learner._chains[0]
    gradient = 3 * chain.fake - chain.problem.data
    assert loss.log["chain_gradient"] == pytest.approx(gradient.abs().square().mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("processor", "asked", "lowered"),
    [
        ({"avx512_bf16": True}, None, True),
        ({"avx512_f": True, "avx512_bf16": False}, None, False),
        ({"avx512_bf16": True}, "float32", False),
        ({}, "bfloat16", True),
    ],
)
def test_chains_use_bfloat16_where_the_processor_has_it(monkeypatch, processor, asked, lowered):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    seen = []

    class Watching(QuadraticPrior):
        def energy_and_gradient(self, *arguments, **more):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().energy_and_gradient(*arguments, **more)

    learner = trainer(chain_steps=2, chain_precision=asked)
    learner.loss(Watching(), GaussianProblems(), 0, torch.Generator().manual_seed(0))
    assert (True in seen) == lowered


@pytest.mark.parametrize(("sampler", "chain"), [("langevin", {"epsilon": 0.1}), ("preconditioned-langevin", {})])
def test_a_restored_trainer_goes_on_bit_for_bit(sampler, chain):
    prior, generator = QuadraticPrior(), torch.Generator().manual_seed(0)
    settings = {"pool": 2, "batch": 3, "refresh": 0.2, "sampler": sampler, "chain": chain}
    learner = trainer(**settings)
    for step in range(11):
        learner.loss(prior, GaussianProblems(), step, generator)
    state, random = learner.state_dict(), generator.get_state()
    expected = [learner.loss(prior, GaussianProblems(), step, generator).value.item() for step in range(11, 20)]
    again = trainer(**settings)
    again.load_state_dict(state)
    generator.set_state(random)
    assert [again.loss(prior, GaussianProblems(), step, generator).value.item() for step in range(11, 20)] == expected
    assert len(set(expected)) == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_starts": 0.7, "truth_starts": 0.6}, "together at most 1"),
        ({"true_noise_std": "2eps^2", "chain": {}}, r"2eps\^2 needs chain.epsilon"),
        ({"chain": {"noise_level": 0.1}}, "set the levels of the trainer"),
        ({"sampler": "mm-cg", "chain": {}}, "found 'mm-cg'; expected a sampler with Markov chains"),
        ({"levels": [0.1]}, "true images have the noise of their level"),
        ({"levels": [0.1, 0.2, 0.3], "true_noise_std": None}, "a multiple of the number of levels"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(SettingsError, match=message):
        trainer(**settings)


def test_the_penalty_reaches_the_weights_of_a_network():
    gradients = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        prior = make_prior("deepen", weights="none", widths=[4], blocks=1).requires_grad_(True)
        settings = {"curvature_weight": weight, "curvature_limit": 1e-6, "batch": 2, "chain": {"epsilon": 0.01}}
        trainer(**settings).loss(prior, Images(), 0, torch.Generator().manual_seed(0)).value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in prior.parameters()]))
    assert gradients[1].isfinite().all() and ((gradients[1] - gradients[0]).abs() > 0).double().mean() > 0.9


@pytest.mark.parametrize(
    ("chain", "temperature"), [({"form": "eq11", "epsilon": 0.25}, 1.0), ({"epsilon": 0.2, "step_size": 0.1}, 0.02)]
)
def test_the_gradient_is_divided_by_the_temperature_of_the_chains(chain, temperature):
    prior, learner = QuadraticPrior(theta=2.0), trainer(chain=chain)
    learner.loss(prior, GaussianProblems(), 0, torch.Generator().manual_seed(0)).value.backward()
    chains = learner.state_dict()
    moments = [chains[name].square().sum((1, 2, 3)).mean() for name in ("true.0", "fake.0")]
    torch.testing.assert_close(prior.theta.grad, 0.5 * (moments[0] - moments[1]) / 16 / temperature)


def test_curvature_and_step_are_measured_at_every_eighth_visit_of_each_level():
    """At every eighth visit of each level."""
    chain = {"form": "eq11", "epsilon": 0.05}
    learner = trainer(pool=2, batch=2, levels=[0.2, 0.6], true_noise_std=None, chain=chain, chain_steps=1)
    prior, source, generator = AtLevels(), GaussianProblems(), torch.Generator().manual_seed(0)
    measured = [step for step in range(18) if "curvature" in learner.loss(prior, source, step, generator).log]
    assert measured == [0, 1, 16, 17]


def test_curvature_is_measured_in_full_precision():
    prior, image = (
        make_prior("deepen", weights="none", widths=[4], blocks=1),
        complex_noise((2, 8, 8), 0.3, torch.Generator().manual_seed(0)),
    )
    found = []
    for lower in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            found.append(trainer()._curvature(prior, image, None, 0)[0])
    assert found[0] == found[1]


@pytest.mark.parametrize(("known", "drawn"), [((0.1, 1.0), (0.1, 1.0)), (None, (0.002, 0.06))])
def test_denoising_draws_the_levels_of_the_prior(known, drawn):
    seen = []

    class Recording(QuadraticPrior):
        noise_range = known

        def denoise(self, image, noise_level, *, create_graph=False):
            seen.append(noise_level)
            return image

    trainer(warm_start=1, batch=200).loss(Recording(), GaussianProblems(), 0, torch.Generator().manual_seed(0))
    low, high = drawn
    assert low <= seen[0].min() < 1.1 * low and 0.9 * high < seen[0].max() <= high


def test_levels_above_those_of_the_prior_are_refused():
    learner = trainer(levels=[0.2, 0.6], true_noise_std=None)
    prior = AtLevels()
    prior.noise_range = (0.1, 0.5)
    with pytest.raises(MriinvError, match=r"found 0.6; .* are from 0.1 to 0.5"):
        learner.parameter_groups(prior)


def test_a_denoiser_is_asked_for_only_where_denoising_is_trained():
    scale = {"likelihood_of": "scale"}
    asked = (({"warm_start": 1}, True), ({"dsm_weight": 1.0}, True), ({}, False), (scale, False))
    for settings, needs in asked:
        (required,) = trainer(**settings).requires
        assert ("denoiser" in required) == needs


def test_chains_of_a_training_have_squares():
    with pytest.raises(MriinvError, match=r"chain\.robust: training data have noise alone"):
        trainer(chain={"epsilon": 0.1, "robust": True})


def test_the_error_of_fake_images_is_a_root_mean_square():
    learner = trainer(pool=1, batch=4)
    loss = learner.loss(QuadraticPrior(theta=2.0), GaussianProblems(), 0, torch.Generator().manual_seed(0))
    chain = learner._chains[0]
    assert loss.log["fake_error"] == pytest.approx((chain.fake - chain.true).abs().square().mean().sqrt().item())


@pytest.mark.parametrize("chain", [{}, {"temperature": 2.0}, {"epsilon": 0.01}])
def test_a_temperature_of_the_training_alone_is_mentioned(chain, caplog):
    trainer(chain=chain)
    assert ("those of the training alone" in caplog.text) == bool(chain)
