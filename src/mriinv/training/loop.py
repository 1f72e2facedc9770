"""The loop around every trainer: Adam, clipping, averaging, log, checkpoints, time limit."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mriinv import __version__
from mriinv.core.prior import Prior
from mriinv.core.solver import Monitor
from mriinv.core.trainer import Loss, ProblemSource, Trainer
from mriinv.errors import InputError, MriinvError, WeightsError, require, require_kind
from mriinv.files import exclusive, make_folder, write_text
from mriinv.report.training_figure import training_figure
from mriinv.training.card import model_card
from mriinv.training.checkpoint import Progress, TrainingState
from mriinv.training.log import Log
from mriinv.training.processes import InFullPrecision, any_process, average_gradients, shared
from mriinv.weights import read_metadata, save_weights

logger = logging.getLogger("mriinv")
LOCK = ".lock"  # file that the training at work holds
CHECKPOINT_SECONDS = 300.0  # from one checkpoint to the next, at most
Validation = Callable[[Prior], Mapping[str, float]]


@dataclass(frozen=True)
class LoopOptions:
    """How to run a training; what is trained is the trainer's.

    Attributes
    ----------
    out : folder of ``weights.safetensors`` (averaged), ``MODEL_CARD.md``, ``checkpoint.safetensors``, ``log.csv`` and
        ``best.safetensors``
    seed : of data, noise and chains
    max_time : seconds for this run; the training goes on from its checkpoint in the next one
    averaging : decay of the exponential moving average of the weights; None: so that it reaches back over 1 % of the
        updates, 500 at most; the first updates, at which it would still be of the initial weights, count less
    clip : largest norm of the gradient
    log_every, validate_every : updates
    checkpoint_every : updates; slow ones are stored every five minutes
    configuration : what is trained on what; a checkpoint with another one is not resumed
    validated_on : what `validation` compares with what, in any words; where that changes, the best is sought anew
    card : whatever else belongs into the model card
    plot : draw ``curves.png`` at the end
    tensorboard : write the log to the folder ``tensorboard`` as well
    """

    out: Path
    seed: int = 0
    max_time: float = math.inf
    averaging: float | None = None
    clip: float = 1.0
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 1000
    configuration: Mapping[str, Any] = field(default_factory=dict)
    validated_on: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    plot: bool = False
    tensorboard: bool = False


def train(
    prior: Prior,
    trainer: Trainer,
    source: ProblemSource,
    options: LoopOptions,
    *,
    validation: Validation | None = None,
    monitor: Monitor | None = None,
    fabric: Fabric | None = None,
) -> Progress:
    """Train `prior` in place, resuming from the checkpoint in ``options.out`` when there is one.

    On the CPU an interrupted and resumed training equals an uninterrupted one bit for bit, persistent chains included.

    With `validation`, the averaged weights with the highest ``score`` it returns are kept in ``best.safetensors``.
    `fabric`, launched, stands for precision and processes; of several, one writes files.

    Raises
    ------
    InputError : another training writes the folder, or it holds weights without a checkpoint
    MriinvError : the gradient is not finite
    """
    make_folder(options.out)
    fabric = fabric or Fabric(accelerator=next(prior.parameters()).device.type, devices=1)
    with _alone(options.out, fabric):
        folder = _Folder(options, _state(prior, trainer, source, options), fabric.is_global_zero)
        return _train(folder, trainer, validation, monitor, fabric)


@contextmanager
def _alone(folder: Path, fabric: Fabric) -> Iterator[None]:
    """Let one training write a folder; of its processes one holds the lock, and all fail where it cannot."""
    with ExitStack() as held:
        refused: InputError | None = None
        if fabric.is_global_zero:
            try:
                held.enter_context(exclusive(folder, folder / LOCK, "training that writes it"))
            except InputError as error:
                refused = error
        if any_process(refused is not None, fabric):
            raise refused or InputError(folder, "", "that its first process cannot write it", "another --out")
        yield


def _state(prior: Prior, trainer: Trainer, source: ProblemSource, options: LoopOptions) -> TrainingState:
    decay = 1 - 1 / min(max(trainer.steps / 100, 1.0), 500.0) if options.averaging is None else options.averaging
    averaged = AveragedModel(prior, multi_avg_fn=_moving_average(decay))
    groups = trainer.parameter_groups(prior)
    rated = all("lr" in group for group in groups)
    require(trainer.name, ("parameter_groups", "a group without lr", rated, "a base learning rate lr in each"))
    optimizer = torch.optim.Adam([{**group, "base": group["lr"]} for group in groups])
    generator = torch.Generator(next(prior.parameters()).device).manual_seed(options.seed)
    return TrainingState(prior, averaged, optimizer, generator, source, trainer)


def _train(
    folder: _Folder, trainer: Trainer, validation: Validation | None, monitor: Monitor | None, fabric: Fabric
) -> Progress:
    options, state = folder.options, folder.state
    progress = folder.resume()
    tensorboard = options.out / "tensorboard" if options.tensorboard and fabric.is_global_zero else None
    log = Log(options.out / "log.csv", progress.step, options.log_every, tensorboard)
    folder.compare(progress, log)
    resumed_at, started = progress.seconds, time.monotonic()
    saved = started

    def validated() -> Mapping[str, float]:
        """Validate where that is due, which an interruption may have left undone."""
        due = progress.step > 0 and (progress.step % options.validate_every == 0 or progress.step == trainer.steps)
        if validation is None or not due or progress.validated == progress.step:
            return {}
        values = validation(folder.average)
        if values["score"] > progress.best:
            folder.keep_best(progress)
            progress.best = values["score"]
        progress.validated = progress.step
        return values

    try:
        if values := validated():
            log.add(progress, values, force=True)
        while progress.step < trainer.steps:
            if any_process(time.monotonic() - started >= options.max_time, fabric):
                break
            values = _take_gradient(state, progress.step, options.clip, fabric)
            with _interrupts_deferred():  # half an update would be stored, and done again
                state.optimizer.step()
                state.averaged.update_parameters(state.prior)
                progress.step += 1
            progress.seconds = resumed_at + time.monotonic() - started
            values |= validated()
            log.add(progress, values, force="score" in values or progress.step == trainer.steps)
            if monitor is not None:
                monitor(progress.step, values)
            if progress.step % options.checkpoint_every == 0 or time.monotonic() - saved > CHECKPOINT_SECONDS:
                folder.save(progress, log)
                saved = time.monotonic()
    finally:
        folder.save(progress, log, last=True)
        log.close()
    return progress


class _Folder:
    """The files of a training, which one of its processes writes."""

    def __init__(self, options: LoopOptions, state: TrainingState, writes: bool) -> None:
        self.options, self.state, self._writes = options, state, writes
        self._checkpoint, self._weights = options.out / "checkpoint.safetensors", options.out / "weights.safetensors"
        self._resumed = 0, 0

    @property
    def average(self) -> Prior:
        """The prior with the averaged weights."""
        return self.state.averaged.module  # type: ignore[return-value]

    def resume(self) -> Progress:
        """Restore the state from the checkpoint; without one, begin."""
        progress = Progress()
        if self._checkpoint.exists():
            progress = self.state.load(self._checkpoint, self.options.configuration)
        elif self._weights.exists():
            raise InputError(self.options.out, self._weights.name, "weights without a checkpoint", "an empty folder")
        return progress

    def compare(self, progress: Progress, log: Log) -> None:
        """See to it that scores are compared with scores of the same validation alone."""
        scored = [int(row["step"]) for row in log.rows if row.get("score")]
        progress.validated = max([progress.validated, *scored])
        wanted = self.options.validated_on
        if wanted and progress.validated_on and wanted != progress.validated_on:
            logger.warning("the training was validated on something else before: the best weights are sought anew")
            progress.best, progress.validated, progress.compared_from = -math.inf, 0, len(scored)
        progress.validated_on = wanted or progress.validated_on
        self._resumed = progress.step, progress.validated

    def save(self, progress: Progress, log: Log, *, last: bool = False) -> None:
        """Write everything, the log first: of a log behind the checkpoint, rows would be missing for good.

        Where nothing was trained, weights and what their card says of the training stay.
        """
        if not self._writes:
            return
        options, card = self.options, self._stored_card()
        trained = progress.step != self._resumed[0] or card.get("updates") != progress.step
        card = self._card(progress) if trained else card
        if trained or progress.validated != self._resumed[1]:
            log.write()
            self.state.save(self._checkpoint, progress, options.configuration)
            save_weights(self._weights, self.average, card)
        curves = options.out / "curves.png"
        if last and options.plot and log.rows:
            training_figure(curves, options.out / "log.csv")
        scored = [row for row in log.rows if row.get("score")][progress.compared_from :]
        write_text(options.out / "MODEL_CARD.md", model_card(self.average, card, scored, curves=curves.exists()))

    def _stored_card(self) -> dict[str, Any]:
        """Return what the weights say of themselves; nothing where there are none that can be read."""
        try:
            card: dict[str, Any] = read_metadata(self._weights)["card"]
        except WeightsError:
            return {}
        return card

    def keep_best(self, progress: Progress) -> None:
        """Store the averaged weights as the best."""
        if self._writes:
            save_weights(self.options.out / "best.safetensors", self.average, self._card(progress))

    def _card(self, progress: Progress) -> dict[str, Any]:
        versions = {"mriinv": __version__, "torch": str(torch.__version__)}
        work = {"updates": progress.step, "hours": round(progress.seconds / 3600, 3), "seed": self.options.seed}
        return {**self.options.card, "configuration": self.options.configuration, **work, **versions}


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C, and a termination that is handled, wait until the block is through."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the main thread
        return
    waiting: list[int] = []
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    handled = {one: handler for one, handler in handlers.items() if callable(handler)}
    for one in handled:
        signal.signal(one, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for one, handler in handled.items():
            signal.signal(one, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)


Tensors = tuple[Tensor, ...] | list[Tensor]


def _moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the exponential moving average as `AveragedModel` takes it, its decay rising from 0.1 to `decay`."""

    @torch.no_grad()
    def update(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + float(count)) / (10 + float(count))))

    return update


def _take_gradient(state: TrainingState, step: int, clip: float, fabric: Fabric) -> dict[str, float]:
    """Leave the gradient of one update in the parameters; when interrupted, images and random numbers as before."""
    prior, optimizer = state.prior, state.optimizer
    factor = state.trainer.learning_rate_factor(step)
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
    optimizer.zero_grad(set_to_none=True)
    before = state.draw_state()
    try:
        with fabric.autocast():
            source = InFullPrecision(state.source)
            loss = state.trainer.loss(shared(prior, fabric), source, step, state.generator)
        require_kind(state.trainer.name, "loss", loss, Loss, "a Loss")
        loss.value.backward()
        average_gradients(prior, fabric)
        norm = torch.nn.utils.clip_grad_norm_(prior.parameters(), clip)
        if not torch.isfinite(norm):
            raise MriinvError(
                f"training diverged at update {step}: the gradient is not finite; lower the learning rate"
            )
    except BaseException:
        state.restore_draws(before)
        raise
    return {"loss": float(loss.value.detach()), "gradient_norm": float(norm), **loss.log}
