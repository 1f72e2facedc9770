"""The loop: log, checkpoints, resuming, time limit, the best weights."""

import csv
import math
import signal
import time
from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from mriinv import InverseProblem, Loss, ProblemSource, Trainer, make_prior
from mriinv.errors import InputError, MriinvError, SettingsError, WeightsError
from mriinv.training.loop import LoopOptions, _moving_average, train
from mriinv.weights import read_metadata


class Images(ProblemSource):
    """Random images, a little larger with every call: a stream with a state of its own."""

    calls = 0

    def images(self, count, generator):
        self.calls += 1
        noise = torch.randn(count, 8, 8, dtype=torch.complex64, generator=generator)
        return (1 + 0.01 * self.calls) * noise

    def problem(self, images, generator) -> InverseProblem:
        raise AssertionError("not asked for")

    def state_dict(self):
        return {"calls": torch.tensor(self.calls)}

    def load_state_dict(self, state):
        self.calls = int(state["calls"])


class ShrinkEnergy(Trainer):
    """Minimises the energy of random images: every update draws from the generator and adds to the images before."""

    name = "shrink"
    steps = 12

    def __init__(self):
        super().__init__()
        self.before = torch.zeros(2, 8, 8, 2)

    def parameter_groups(self, prior):
        return [{"params": list(prior.parameters()), "lr": 1e-3}]

    def learning_rate_factor(self, step):
        return 1.0 - step / 24

    def loss(self, prior, source, step, generator):
        images = source.images(2, generator) + 0.5 * torch.view_as_complex(self.before)
        self.before = torch.view_as_real(images)
        return Loss(prior.energy(images).mean(), {"size": float(step)})

    def state_dict(self):
        return {"before": self.before}

    def load_state_dict(self, state):
        self.before = state["before"]


def new_prior():
    torch.manual_seed(0)
    return make_prior("deepen", weights="none", widths=[4], blocks=1).requires_grad_(True)


def parameters(prior):
    return torch.cat([p.detach().flatten() for p in prior.parameters()])


def rows(folder):
    with open(folder / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("drawn", [False, True])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path, drawn):
    whole, parts = new_prior(), new_prior()
    train(whole, ShrinkEnergy(), Images(), LoopOptions(tmp_path / "whole", log_every=3))

    class Interrupted(ShrinkEnergy):
        def loss(self, prior, source, step, generator):
            loss = super().loss(prior, source, step, generator) if drawn or step != 7 else None
            if step == 7:
                raise KeyboardInterrupt
            return loss

    options = LoopOptions(tmp_path / "parts", log_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(parts, Interrupted(), Images(), options)
    resumed = new_prior()
    progress = train(resumed, ShrinkEnergy(), Images(), options)
    assert progress.step == 12
    assert torch.equal(parameters(whole), parameters(resumed))
    assert not torch.equal(parameters(new_prior()), parameters(resumed))
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["3", "6", "9", "12"]


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("parameter_groups", [{"params": []}], "shrink: parameter_groups: found a group without lr; expected a base"),
        ("loss", torch.zeros(()), "shrink: loss: found Tensor; expected a Loss"),
    ],
)
def test_what_a_trainer_does_wrong_is_named(tmp_path, monkeypatch, method, returned, message):
    monkeypatch.setattr(ShrinkEnergy, method, lambda *_: returned)
    with pytest.raises(InputError, match=message):
        train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path))


def test_an_interruption_in_the_middle_of_an_update_waits_for_its_end(tmp_path, monkeypatch):
    whole, options = new_prior(), LoopOptions(tmp_path / "parts", checkpoint_every=4)
    train(whole, ShrinkEnergy(), Images(), LoopOptions(tmp_path / "whole"))
    step, count = torch.optim.Adam.step, 0

    def interrupted(optimizer):
        nonlocal count
        count += 1
        if count == 7:
            signal.raise_signal(signal.SIGINT)
        step(optimizer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupted)
        train(new_prior(), ShrinkEnergy(), Images(), options)
    assert count == 7 and read_metadata(tmp_path / "parts/weights.safetensors")["card"]["updates"] == 7
    resumed = new_prior()
    assert train(resumed, ShrinkEnergy(), Images(), options).step == 12
    assert torch.equal(parameters(whole), parameters(resumed))


def test_slow_updates_are_stored_by_the_clock(tmp_path, monkeypatch):
    stored = []

    def look(step, values):
        stored.append((tmp_path / "checkpoint.safetensors").exists())

    monkeypatch.setattr("mriinv.training.loop.CHECKPOINT_SECONDS", 0.0)
    train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path), monitor=look)
    assert stored == [False] + 11 * [True]


def test_another_configuration_is_not_resumed(tmp_path):
    first = {"data": {"coils": 8}, "trainer": {"settings": {"steps": 5}}}
    train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, max_time=0.0, configuration=first))
    longer = {"data": {"coils": 8}, "trainer": {"settings": {"steps": 12}}}
    other = {"data": {"coils": 2}, "trainer": {"settings": {"steps": 12}}}
    with pytest.raises(SettingsError, match=r"data.coils = 8, this one 2; use another --out"):
        train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, configuration=other))
    assert train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, configuration=longer)).step == 12


def test_a_training_of_other_defaults_is_not_resumed(tmp_path):
    """The configuration, which states what is not a default, is the same."""
    train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, max_time=0.0))
    other = new_prior()
    other.settings = other.settings.model_copy(update={"noise_range": (0.01, 0.3)})
    found = r"checkpoint.safetensors: the training there has prior.settings.noise_range = .*, this one \[0.01, 0.3\]"
    with pytest.raises(SettingsError, match=found):
        train(other, ShrinkEnergy(), Images(), LoopOptions(tmp_path))


def test_weights_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match="weights without a checkpoint"):
        train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path))
    assert (tmp_path / "weights.safetensors").read_bytes() == b"mine"


def test_the_average_of_a_short_training_is_not_of_its_initial_weights(tmp_path):
    """Constant gradients move a weight by the same amount each time: the default average lags by few of 200 updates."""

    class Push(ShrinkEnergy):
        steps = 200

        def learning_rate_factor(self, step):
            return 1.0

        def loss(self, prior, source, step, generator):
            return Loss(sum(p.sum() for p in prior.parameters()), {})

    prior, before = new_prior(), parameters(new_prior())
    train(prior, Push(), Images(), LoopOptions(tmp_path))
    averaged = parameters(make_prior("deepen", weights=str(tmp_path / "weights.safetensors")))
    lag = (averaged - parameters(prior)) / (before - parameters(prior))
    assert lag.max() < 0.02

    whole = AveragedModel(new_prior(), multi_avg_fn=_moving_average(0.998))
    for _ in range(400):
        whole.update_parameters(prior)
    torch.testing.assert_close(parameters(whole.module), parameters(prior), rtol=1e-4, atol=1e-5)


def test_averaged_weights_and_their_card_are_written(tmp_path):
    prior = new_prior()
    train(prior, ShrinkEnergy(), Images(), LoopOptions(tmp_path, averaging=0.5, card={"command": "x"}))
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert metadata["card"]["command"] == "x" and metadata["card"]["updates"] == 12
    averaged = make_prior("deepen", weights=str(tmp_path / "weights.safetensors"))
    distance = [(parameters(averaged) - parameters(p)).norm() for p in (prior, new_prior())]
    assert 0 < distance[0] < distance[1]


def test_time_limit_stops_and_the_next_run_goes_on(tmp_path):
    options = LoopOptions(tmp_path, max_time=0.0)
    assert train(new_prior(), ShrinkEnergy(), Images(), options).step == 0
    assert train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path)).step == 12


def test_best_validated_weights_are_kept(tmp_path):
    scores = iter([1.0, 3.0, 2.0])
    seen = []

    def validation(prior):
        seen.append(parameters(prior))
        return {"score": next(scores)}

    train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, validate_every=4), validation=validation)
    best = make_prior("deepen", weights=str(tmp_path / "best.safetensors"))
    assert len(seen) == 3 and torch.equal(parameters(best), seen[1])
    assert [row["score"] for row in rows(tmp_path)] == ["1", "3", "2"]


def test_divergence_is_reported(tmp_path):
    class Diverging(ShrinkEnergy):
        def loss(self, prior, source, step, generator):
            return Loss(super().loss(prior, source, step, generator).value * math.inf, {})

    with pytest.raises(MriinvError, match="diverged at update 0"):
        train(new_prior(), Diverging(), Images(), LoopOptions(tmp_path))


def test_checkpoint_of_another_architecture_or_a_damaged_one_is_refused(tmp_path):
    train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path))
    other = make_prior("deepen", weights="none", widths=[6], blocks=1).requires_grad_(True)
    with pytest.raises(SettingsError, match=r"the training there has prior.settings.widths = \[4\], this one \[6\]"):
        train(other, ShrinkEnergy(), Images(), LoopOptions(tmp_path))
    other.settings = new_prior().settings  # as of a version that built other networks
    with pytest.raises(WeightsError, match="another architecture"):
        train(other, ShrinkEnergy(), Images(), LoopOptions(tmp_path))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"garbage"


def test_one_training_at_a_time_writes_a_folder(tmp_path):
    options = LoopOptions(tmp_path, log_every=4)

    def second(step, _):
        with pytest.raises(InputError, match="another training that writes it; expected its end, or another --out"):
            train(new_prior(), ShrinkEnergy(), Images(), options)

    assert train(new_prior(), ShrinkEnergy(), Images(), options, monitor=second).step == 12
    assert [row["step"] for row in rows(tmp_path)] == ["4", "8", "12"]


def test_a_validation_that_was_interrupted_is_made_up_for(tmp_path):
    options = LoopOptions(tmp_path, validate_every=6)

    def interrupted(prior):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(new_prior(), ShrinkEnergy(), Images(), options, validation=interrupted)
    seen = []
    for _ in range(2):  # the second time nothing is left to do
        train(new_prior(), ShrinkEnergy(), Images(), options, validation=lambda _: {"score": seen.append(1) or 1.0})
    assert len(seen) == 2 and [row["step"] for row in rows(tmp_path) if row["score"]] == ["6", "12"]
    assert (tmp_path / "best.safetensors").exists()


def test_scores_of_another_validation_are_not_compared(tmp_path, caplog):
    class Longer(ShrinkEnergy):
        steps = 8

    for trainer, score, on in ((Longer(), 30.0, "one scan"), (ShrinkEnergy(), 20.0, "another")):
        options = LoopOptions(tmp_path, validate_every=4, validated_on=on)
        progress = train(new_prior(), trainer, Images(), options, validation=lambda _, score=score: {"score": score})
    assert progress.best == 20 and "validated on something else before" in caplog.text
    assert read_metadata(tmp_path / "best.safetensors")["card"]["updates"] == 8  # validated again where it goes on
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "best, after 8" in card and "30" not in card.partition("## Validation")[2].partition("## Curves")[0]
    options = LoopOptions(tmp_path, validate_every=4, validated_on="a third")  # of a training that has ended
    caplog.clear()
    for _ in range(2):
        progress = train(new_prior(), ShrinkEnergy(), Images(), options, validation=lambda _: {"score": 10.0})
    assert progress.best == 10 and caplog.text.count("validated on something else before") == 1
    assert "| 10 | 10 |" in (tmp_path / "MODEL_CARD.md").read_text()


def test_best_weights_that_could_not_be_stored_are_validated_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    options = LoopOptions(tmp_path, validate_every=6)
    monkeypatch.setattr("mriinv.training.loop._Folder.keep_best", killed)
    with pytest.raises(KeyboardInterrupt):
        train(new_prior(), ShrinkEnergy(), Images(), options, validation=lambda _: {"score": 1.0})
    monkeypatch.undo()
    scores = iter([1.0, 0.5])
    train(new_prior(), ShrinkEnergy(), Images(), options, validation=lambda _: {"score": next(scores)})
    assert read_metadata(tmp_path / "best.safetensors")["card"]["updates"] == 6


@pytest.mark.parametrize("damage", ["older", "unreadable"])
def test_weights_behind_their_checkpoint_are_written_again(tmp_path, damage):
    options, weights = LoopOptions(tmp_path, checkpoint_every=4), tmp_path / "weights.safetensors"
    stored = {}
    train(
        new_prior(),
        ShrinkEnergy(),
        Images(),
        options,
        monitor=lambda step, _: stored.update({step: step > 5 and weights.read_bytes()}),
    )
    whole = parameters(make_prior("deepen", weights=str(weights)))
    weights.write_bytes(stored[8] if damage == "older" else b"damaged")
    train(new_prior(), ShrinkEnergy(), Images(), options)
    assert torch.equal(parameters(make_prior("deepen", weights=str(weights))), whole)
    assert read_metadata(weights)["card"]["updates"] == 12


def test_a_call_that_trains_nothing_leaves_what_the_card_says(tmp_path):
    for command in ("the one that trained", "one that only draws"):
        train(new_prior(), ShrinkEnergy(), Images(), LoopOptions(tmp_path, card={"command": command}, plot=True))
    assert "the one that trained" in (tmp_path / "MODEL_CARD.md").read_text()
    assert read_metadata(tmp_path / "weights.safetensors")["card"]["command"] == "the one that trained"


def test_a_kill_between_two_files_loses_no_row_of_the_log(tmp_path, monkeypatch):
    def killed(*_):
        raise SystemExit

    options = LoopOptions(tmp_path, log_every=2, checkpoint_every=4)
    train(new_prior(), ShrinkEnergy(), Images(), replace(options, max_time=0.0))
    monkeypatch.setattr("mriinv.training.loop.save_weights", killed)
    with pytest.raises(SystemExit):
        train(new_prior(), ShrinkEnergy(), Images(), options)
    monkeypatch.undo()
    train(new_prior(), ShrinkEnergy(), Images(), options)
    assert [row["step"] for row in rows(tmp_path)] == ["2", "4", "6", "8", "10", "12"]


def test_gradients_are_clipped_to_the_norm(tmp_path):
    prior = new_prior()
    train(prior, ShrinkEnergy(), Images(), LoopOptions(tmp_path, clip=1e-4))
    assert float(rows(tmp_path)[-1]["gradient_norm"]) > 1e-3
    left = torch.cat([p.grad.flatten() for p in prior.parameters()])
    assert left.norm().item() == pytest.approx(1e-4, rel=0.02)


def test_the_first_update_is_averaged_with_nothing(tmp_path):
    """The first update is averaged with nothing."""

    class Once(ShrinkEnergy):
        steps = 1

    prior = new_prior()
    train(prior, Once(), Images(), LoopOptions(tmp_path, averaging=0.5))
    averaged = make_prior("deepen", weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(parameters(averaged), parameters(prior))
    assert not torch.equal(parameters(prior), parameters(new_prior()))


def test_seconds_add_up_over_calls(tmp_path):
    class Half(ShrinkEnergy):
        steps = 6

    options = LoopOptions(tmp_path)
    first = train(new_prior(), Half(), Images(), options, monitor=lambda *_: time.sleep(0.1))
    done = train(new_prior(), ShrinkEnergy(), Images(), options)
    assert done.seconds > first.seconds > 0.5


def test_the_seed_decides(tmp_path):
    found = []
    for seed in (0, 0, 1):
        prior = new_prior()
        train(prior, ShrinkEnergy(), Images(), LoopOptions(tmp_path / str(len(found)), seed=seed))
        found.append(parameters(prior))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_factor_on_the_learning_rate_counts(tmp_path):
    class Still(ShrinkEnergy):
        def learning_rate_factor(self, step):
            return 0.0

    prior = new_prior()
    train(prior, Still(), Images(), LoopOptions(tmp_path))
    assert torch.equal(parameters(prior), parameters(new_prior()))
