"""Intervals and tests for means over training seeds and test videos.

The t distribution is computed with mpmath, which comes with PyTorch. What each interval
covers, and how often it does, is simulated in the appendix *How we know*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


@lru_cache(maxsize=64)
def t_quantile(p: float, freedom: int) -> float:
    """The value that a t variable of that many degrees of freedom exceeds with 1 − p.

    ``ValueError`` unless ½ ≤ p < 1 and ``freedom`` ≥ 1.
    """
    import mpmath

    if not 0.5 <= p < 1 or freedom < 1:
        raise ValueError(
            f"p must be at least ½ and below 1, freedom at least 1, got {p}, {freedom}."
        )
    upper = 2.0  # doubled until it is beyond the quantile
    while t_tail(upper, freedom) > 2 * (1 - p):
        upper *= 2
    found = mpmath.findroot(
        lambda t: t_tail(t, freedom) - 2 * (1 - p), (0, upper), solver="anderson"
    )
    return float(found)


def t_tail(t: float, freedom: int) -> float:
    """The chance that a t variable is further from zero than ``t``, on either side."""
    import mpmath

    if math.isinf(t):
        return 0.0
    x = freedom / (freedom + t**2)
    return float(mpmath.betainc(freedom / 2, 0.5, 0, x, regularized=True))


def t_interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the mean that the ``values`` (S,) of S ≥ 2 seeds are drawn around.

    It covers other seeds on the same test videos.
    """
    x = _seeds(values)
    half = t_quantile((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return float(x.mean() - half), float(x.mean() + half)


def prediction_margin(values: ArrayLike, level: float = LEVEL) -> float:
    """How far from the mean of n ``values`` one more run lies: t s √(1 + 1/n)."""
    x = _seeds(values)
    spread = x.std(ddof=1) * (1 + 1 / len(x)) ** 0.5
    return float(t_quantile((1 + level) / 2, len(x) - 1) * spread)


def t_test(values: ArrayLike) -> float:
    """Two-sided p value of the hypothesis that ``values`` (S,) have the mean 0."""
    x = _seeds(values)
    error = x.std(ddof=1) / len(x) ** 0.5
    if error == 0:
        return 1.0 if x.mean() == 0 else 0.0
    return t_tail(abs(x.mean()) / error, len(x) - 1)


def crossed_bootstrap(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = LEVEL,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (S, A), seeds and videos drawn again.

    ``groups`` (A,) has the video of every query; a video is drawn with all its queries,
    and every drawn seed is combined with every drawn video. It speaks about other seeds
    and other videos of the same source. ``ValueError`` for shapes that do not fit.
    """
    y = np.asarray(values, dtype=float)
    if y.ndim != 2 or 0 in y.shape:
        raise ValueError(f"values must be (seeds, queries), got shape {y.shape}.")
    groups = np.arange(y.shape[1]) if groups is None else np.asarray(groups)
    if groups.shape != y.shape[1:]:
        raise ValueError(f"groups must be {y.shape[1:]}, got {groups.shape}.")
    sums, counts = group_sums(y, groups)
    draw = np.random.default_rng(seed)
    (S, V) = sums.shape
    of_seed = draw.multinomial(S, np.full(S, 1 / S), samples)  # (samples, S)
    of_video = draw.multinomial(V, np.full(V, 1 / V), samples)  # (samples, V)
    total = np.einsum("ns,ns->n", of_seed, of_video @ sums.T)
    means = total / (S * (of_video @ counts))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def group_sums(
    values: NDArray[np.float64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums (S, V) of ``values`` (S, A) over each video's queries, and their counts (V,)."""
    _, place = np.unique(groups, return_inverse=True)
    counts = np.bincount(place)
    sums = np.zeros((len(values), len(counts)))
    np.add.at(sums.T, place, values.T)
    return sums, counts


def share_interval(hits: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share, for ``hits`` of ``of`` independent trials."""
    if not 0 <= hits <= of or of < 1:
        raise ValueError(f"hits must be between 0 and of, got {hits} of {of}.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (hits + z**2 / 2) / (of + z**2)
    half = z * math.sqrt(hits * (of - hits) / of + z**2 / 4) / (of + z**2)
    return middle - half, middle + half


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for the size of their family by Holm's step-down method.

    The chance of one or more false findings among those at most 0.05 is at most 0.05.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _seeds(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(
            f"expected the values of at least 2 seeds, got shape {x.shape}."
        )
    return x
