"""A function over many items, in processes that may crash or hang.

A decoder written in C can end its process, or never return. A pebble pool replaces such
a process, so that only the item it worked on is lost.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any, NamedTuple

from pebble import ProcessPool


class Outcome(NamedTuple):
    """The result of a call: its ``value``, or the ``problem`` and its ``kind``.

    ``kind``: ``ok``, ``error`` (an exception, whose message is the problem), ``crash``
    (the process ended) or ``timeout`` (the time limit was exceeded); an exception that
    has a ``kind``, such as ``VideoError``, says it itself.
    """

    kind: str
    value: Any = None
    problem: str = ""


@lru_cache(maxsize=1)
def _context() -> Any:
    """How processes start: as copies of one that has imported torch, where possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["glscl.data.frames"])
    return context


def _pool() -> ProcessPool:
    return ProcessPool(1, initializer=_silence, context=_context())


def _silence() -> None:
    """Drop what decoders print on standard error: the outcome states the problem."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _call(function: Callable[[Any], Any], item: Any) -> Outcome:
    """Runs in the worker. Exceptions become text: not all of them can be pickled."""
    try:
        return Outcome("ok", function(item))
    except (Exception, SystemExit) as error:
        kind = getattr(error, "kind", "error")
        return Outcome(kind, problem=str(error) or type(error).__name__)


def _outcome(call: Future, timeout: float) -> Outcome:
    """The outcome of a call that ended, or whose pool broke."""
    error = call.exception() if call.done() else BrokenProcessPool()
    if error is None:
        return call.result()
    if isinstance(error, TimeoutError):
        return Outcome("timeout", problem=f"No answer within {timeout:g} s.")
    # A process that ends before pebble knows its item breaks the pool: no status then.
    status = getattr(error, "exitcode", "unknown")
    return Outcome("crash", problem=f"The decoder crashed (status {status}).")


def outcomes(
    function: Callable[[Any], Any],
    items: Sequence[Any],
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
    waiting = iter(enumerate(items))
    # Pools of one worker and one call: if a pool breaks, its item is the cause.
    pools = [_pool() for _ in range(workers)]
    running: dict[int, tuple[Any, int]] = {}  # by pool: its call, the item's number
    try:
        while True:
            idle = [slot for slot in range(workers) if slot not in running]
            for slot, (number, item) in zip(idle, waiting, strict=False):
                if not pools[slot].active:
                    pools[slot].join()
                    pools[slot] = _pool()
                call = pools[slot].schedule(_call, (function, item), timeout=timeout)
                running[slot] = call, number
            if not running:
                return
            wait([call for call, _ in running.values()], 1.0, FIRST_COMPLETED)
            for slot in list(running):
                if running[slot][0].done() or not pools[slot].active:
                    call, number = running.pop(slot)
                    yield number, _outcome(call, timeout)
    finally:
        for pool in pools:
            pool.stop()
        for pool in pools:
            pool.join()
