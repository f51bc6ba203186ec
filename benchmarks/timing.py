"""Comparing times on a machine that other work shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def fastest(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True
) -> dict[str, float]:
    """Seconds of the fastest of ``repeats`` runs of each function.

    The functions take turns, so a burst of other work hits all of them, and the
    fastest run is the one that it hit least. One run of each goes before, uncounted,
    unless ``warm`` is False (for runs so long that a cold start is nothing).
    """
    if warm:
        for function in functions.values():
            function()
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best
