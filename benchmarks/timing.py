"""Comparing times on a machine that other work shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def clock_name() -> str:
    """``"CPU time"`` of the process with one thread, which other work does not enter;
    ``"wall time"`` with several, whose CPU times add up."""
    return "CPU time" if torch.get_num_threads() == 1 else "wall time"


def fastest(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True
) -> dict[str, float]:
    """Seconds (see ``clock_name``) of the fastest of ``repeats`` runs of each function.

    The functions take turns, so a burst of other work hits all of them, and the
    fastest run is the one that it hit least. One run of each goes before, uncounted,
    unless ``warm`` is False (for runs so long that a cold start is nothing).
    """
    if warm:
        for function in functions.values():
            function()
    clock = time.process_time if clock_name() == "CPU time" else time.perf_counter
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            begin = clock()
            function()
            best[name] = min(best[name], clock() - begin)
    return best
