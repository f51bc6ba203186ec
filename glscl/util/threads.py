"""Work that waits for decoders, in several threads that nobody has to wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def streams(
    work: Callable[[Item], Iterable[Result]], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """What ``work`` gives for every item, here or in ``workers`` threads at a time.

    The results of one item come in order; those of several may alternate, and no more
    than a few wait to be taken. An error of ``work`` is raised here. When it is left
    early, as by Ctrl-C, the threads end after their present result.
    """
    if not workers:
        for item in items:
            yield from work(item)
        return
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(2 * workers)
    left = threading.Event()

    def run(first: int) -> None:
        try:
            for item in items[first::workers]:
                for result in work(item):
                    ready.put(("result", result))
                    if left.is_set():
                        return
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    for first in range(workers):
        threading.Thread(target=run, args=(first,), daemon=True).start()
    try:
        running = workers
        while running:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                running -= 1
            else:
                yield value
    finally:
        left.set()
        while not ready.empty():  # so that no thread waits for a place
            ready.get_nowait()
