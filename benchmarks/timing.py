"""Comparing times on a machine that other work shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch


def clock_name() -> str:
    """Which clock is read.

    ``"CPU time"`` of the process where it has one thread, since it does not contain
    other work; ``"wall time"`` with several threads, whose CPU times add up, and with an
    accelerator.
    """
    single = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return "CPU time" if single else "wall time"


def finish() -> None:
    """Wait until an accelerator has done all that was queued."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def rounds(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm: bool = True,
    wall: bool = False,
) -> dict[str, list[float]]:
    """Seconds (see ``clock_name``) of ``repeats`` runs of each function.

    The functions take turns, so other work on the machine affects all of them. Each is
    run once before, without timing, unless ``warm`` is False (for long runs, in which a
    cold start does not matter). ``wall``: always by wall time, where other processes
    work for a function.
    """
    if warm:
        for function in functions.values():
            function()
    alone = clock_name() == "CPU time" and not wall
    clock = time.process_time if alone else time.perf_counter
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
    """The fastest of the ``rounds`` of each function, which other work affected least."""
    return {k: min(s) for k, s in rounds(functions, repeats, warm).items()}


def typical_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over rounds of ``seconds`` / ``reference``, both of the same round.

    For functions so short that the fastest run of one may have met a higher clock rate
    than any run of the other.
    """
    return median(x / y for x, y in zip(seconds, reference, strict=True))
