"""A function over many items, in processes that may crash or hang.

A decoder written in C can bring down its process, or never come back. Each worker holds
one item at a time, so whatever happens to it is the fault of that item alone: the
worker is replaced and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from queue import SimpleQueue
from threading import Lock
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
START_SECONDS = 120.0  # a new process imports torch, on a machine that may be busy


class Outcome(NamedTuple):
    """What a call gave: its ``value``, or the ``problem`` and its ``kind``.

    ``kind``: ``ok``, ``error`` (an exception, whose message is the problem), ``crash``
    (the process ended) or ``timeout`` (it did not).
    """

    kind: str
    value: Any = None
    problem: str = ""


class _Worker:
    """A process that answers one call after the other, started when first needed.

    One thread calls and stops it; another may ``dismiss`` it at any moment, after which
    it starts no process again and a call that waits comes back.
    """

    def __init__(self, function: Callable[[Any], Any], timeout: float):
        self.function = function
        self.timeout = timeout
        self.process: Any = None
        self.wanted = True
        self.lock = Lock()  # held where the process comes and goes

    def call(self, item: Any) -> Outcome:
        if self.process is None and not self._start():
            return Outcome("crash", problem="No worker process could be started.")
        try:
            self.pipe.send(item)
            if self.pipe.poll(self.timeout):
                return self.pipe.recv()
        except (EOFError, OSError):
            process = self.process
            process.join(10)
            status = process.exitcode
            self.stop()
            return Outcome("crash", problem=f"The decoder crashed (status {status}).")
        self.stop()
        return Outcome("timeout", problem=f"No answer within {self.timeout:g} s.")

    def _start(self) -> bool:
        context = _context()
        with self.lock:
            if not self.wanted:
                return False
            self.pipe, other = context.Pipe()
            self.process = context.Process(
                target=_serve, args=(self.function, other), daemon=True
            )
            self.process.start()
            other.close()
        try:
            if self.pipe.poll(START_SECONDS):
                self.pipe.recv()
                return True
        except (EOFError, OSError):
            pass
        self.stop()
        return False

    def stop(self) -> None:
        with self.lock:
            if self.process is not None:
                self.process.kill()
                self.process.join()
                self.pipe.close()
                self.process = None

    def dismiss(self) -> None:
        with self.lock:
            self.wanted = False
            if self.process is not None:
                # The pipe stays open: the thread that waits on it sees its end.
                self.process.kill()


@lru_cache(maxsize=1)
def _context() -> Any:
    """How processes are made: copies of one that has imported torch, where possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["glscl.data.frames"])
    return context


def _serve(function: Callable[[Any], Any], pipe: Any) -> None:
    """The life of a worker process: say that it is there, then answer.

    What decoders print on standard error is dropped: the answer says what went wrong.
    """
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            outcome = Outcome("ok", function(item))
        except Exception as error:  # whatever it is, it is the answer for this item
            outcome = Outcome("error", problem=str(error) or type(error).__name__)
        pipe.send(outcome)


def outcomes(
    function: Callable[[Item], Any],
    items: Sequence[Item],
    workers: int = 2,
    timeout: float = 60.0,
) -> Iterator[tuple[int, Outcome]]:
    """Call ``function`` on each item; yield item numbers and outcomes as they come.

    ``function`` must be importable by name; ``timeout``: seconds for one item.
    """
    if workers < 1 or not timeout > 0:
        raise ValueError(
            f"workers and timeout must be positive, got {workers} and {timeout}."
        )
    crew = [_Worker(function, timeout) for _ in range(min(workers, len(items)))]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in crew:
        free.put(worker)

    def run(item: Item) -> Outcome:
        worker = free.get()
        try:
            return worker.call(item)
        finally:
            free.put(worker)

    try:
        with ThreadPoolExecutor(max(1, len(crew))) as threads:
            number = {threads.submit(run, item): i for i, item in enumerate(items)}
            try:
                for done in as_completed(number):
                    yield number[done], done.result()
            finally:
                for future in number:
                    future.cancel()
                for worker in crew:
                    worker.dismiss()
    finally:
        for worker in crew:
            worker.stop()
