"""Tasks in this process or in several: what one of them meets does not end the others, and Ctrl-C ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mriinv.data.workers import tie_to_parent
from mriinv.files import reason

Task = TypeVar("Task")
_working = False


def run_all(work: Callable[[Task], None], tasks: Sequence[Task], processes: int) -> Iterator[tuple[Task, str]]:
    """Do `work` on every task; give each when it is done, with its error in words, "" for none.

    Parameters
    ----------
    processes : 1 works here, with the threads that there are; more have one thread each
    """
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, _attempt(work, task)
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # the threads of torch do not survive a fork
    pool = ProcessPoolExecutor(min(processes, len(tasks)), context, _start)
    try:
        waiting: dict[Future[str], Task] = {pool.submit(_attempt_in_worker, work, task): task for task in tasks}
        for done in as_completed(waiting):
            try:
                yield waiting[done], done.result()
            except BrokenProcessPool:
                yield waiting[done], "its process ended (out of memory?); go on with fewer processes"
    except BaseException:  # what runs is interrupted, so that trainings store where they are
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(work: Callable[[Any], None], task: Any) -> str:
    try:
        work(task)
    except Exception as error:
        return reason(error)
    return ""


def _attempt_in_worker(work: Callable[[Any], None], task: Any) -> str:
    global _working
    _working = True
    try:
        return _attempt(work, task)
    except KeyboardInterrupt:
        os._exit(1)  # everything is stored
    finally:
        _working = False


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    signal.signal(signal.SIGTERM, _end)
    tie_to_parent()


def _end(*_: Any) -> None:
    if _working:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool sends another when the first worker has ended
        raise KeyboardInterrupt
    os._exit(1)
