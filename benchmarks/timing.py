"""Comparing times on a machine that other work shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch


def clock_name() -> str:
    """``"CPU time"`` of the process with one thread, which other work does not enter;
    ``"wall time"`` with several, whose CPU times add up, and with an accelerator."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return "CPU time" if alone else "wall time"


def finish() -> None:
    """Wait for what an accelerator has been told to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def rounds(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds (see ``clock_name``) of ``repeats`` runs of each function.

    The functions take turns, so a burst of other work hits all of them. One run of each
    goes before, uncounted, unless ``warm`` is False (for runs so long that a cold start
    is nothing).
    """
    if warm:
        for function in functions.values():
            function()
    clock = time.process_time if clock_name() == "CPU time" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            finish()
            begin = clock()
            function()
            finish()
            seconds[name].append(clock() - begin)
    return seconds


def fastest(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True
) -> dict[str, float]:
    """The fastest of the ``rounds`` of each function: the one least disturbed."""
    return {k: min(s) for k, s in rounds(functions, repeats, warm).items()}


def typical_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over rounds of ``seconds`` / ``reference``, both of the same round.

    For things so short that the fastest run of one may fall into a burst of the clock
    that the other never met.
    """
    return median(x / y for x, y in zip(seconds, reference, strict=True))
