"""Rendering of training slices, in this process or ahead of demand in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
import torch

from mriinv.core.types import ImageSlice
from mriinv.errors import MriinvError

AHEAD = 2  # slices per worker that wait for it or are in its hands

Render = Callable[[int], ImageSlice]  # slice of a number; picklable


class SliceWindow:
    """Those slices of an endless sequence that training draws from at the moment.

    Every slice is rendered with one thread: what it looks like then depends on `render` and its number alone, on
    neither the number of threads nor that of workers.

    Parameters
    ----------
    render : returns the slice of a number
    workers : processes that render slices before they are asked for; 0 renders here, when asked
    """

    def __init__(self, render: Render, workers: int) -> None:
        self._render, self._workers = render, workers
        self._pool: ProcessPoolExecutor | None = None
        self._pending: dict[int, Future[np.ndarray]] = {}
        self._slices: dict[int, ImageSlice] = {}

    def move(self, oldest: int, newest: int) -> None:
        """Forget what is before `oldest`, and have workers render what is missing up to `newest` and a little on."""
        for index in [index for index in self._slices if index < oldest]:
            del self._slices[index]
        for index in [index for index in self._pending if index < oldest]:
            self._pending.pop(index).cancel()
        room = AHEAD * self._workers - sum(not future.done() for future in self._pending.values())
        missing = (
            index
            for index in range(newest + AHEAD * self._workers - 1, oldest - 1, -1)
            if index not in self._slices and index not in self._pending
        )
        for index, _ in zip(missing, range(room), strict=False):
            self._submit(index)

    def __getitem__(self, index: int) -> ImageSlice:
        """Return a slice, waiting for it where it is not there yet (`MriinvError` when a worker died)."""
        if index not in self._slices:
            self._slices[index] = self._from_worker(index) if self._workers else self._rendered(index)
        return self._slices[index]

    def __len__(self) -> int:
        return len(self._slices)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()

    def _rendered(self, index: int) -> ImageSlice:
        with _one_thread():
            return self._render(index)

    def _from_worker(self, index: int) -> ImageSlice:
        if index not in self._pending:
            self._submit(index)
        try:
            return torch.from_numpy(self._pending.pop(index).result())
        except BrokenProcessPool:
            raise _died() from None

    def _submit(self, index: int) -> None:
        if self._pool is None:
            # spawned, not forked: the threads of torch do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, _start_worker, (self._render,))
        try:
            with _interrupts_held_back():
                self._pending[index] = self._pool.submit(_render_in_worker, index)
        except BrokenProcessPool:
            raise _died() from None


def _died() -> MriinvError:
    return MriinvError("a process that renders training slices ended (out of memory?); go on with fewer workers")


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes that are started here never see Ctrl-C: it is for the parent, which ends its workers."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker_render: Render


def _start_worker(render: Render) -> None:
    global _worker_render
    _worker_render = render
    tie_to_parent()


def tie_to_parent() -> None:
    """Let this process, a worker, compute with one thread and end when its parent does."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _render_in_worker(index: int) -> np.ndarray:
    try:
        return _worker_render(index).numpy()
    except MriinvError as error:  # its subclasses take other arguments than their message and do not survive pickling
        raise MriinvError(str(error)) from None
