"""Intervals from a few seeds: of their mean, and of one more run like them.

Both assume that runs are drawn independently from one normal distribution whose standard
deviation is estimated from the same n runs, hence Student's t of n − 1 degrees of freedom
(Abramowitz and Stegun, 26.7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev


def t_probability(t: float, degrees: int) -> float:
    """P(|T| < t) of Student's t with a whole number of ``degrees`` of freedom.

    With θ = atan(t / √ν): sin θ (1 + ½ cos² θ + ½·¾ cos⁴ θ + …) for even ν, and
    2/π (θ + sin θ (cos θ + ⅔ cos³ θ + …)) for odd ν, both up to the power ν − 2.
    """
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def t_quantile(degrees: int, coverage: float = 0.95) -> float:
    """The t with P(|T| < t) = ``coverage``: 4.30 for 2 degrees of freedom, 1.96 for many.

    Raises ``ValueError`` for less than one degree, or a coverage outside (0, 1).
    """
    if degrees < 1 or not 0 < coverage < 1:
        raise ValueError(
            "t needs at least one degree of freedom and a coverage between 0 and 1, "
            f"got {degrees} and {coverage}."
        )
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < coverage:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if t_probability(middle, degrees) < coverage:
            low = middle
        else:
            high = middle
    return high


def prediction_margin(values: Sequence[float], coverage: float = 0.95) -> float:
    """How far from the mean of n ``values`` one more run lies, at most: t s √(1 + 1/n)."""
    n = len(values)
    return t_quantile(n - 1, coverage) * stdev(values) * math.sqrt(1 + 1 / n)


def mean_interval(
    values: Sequence[float], coverage: float = 0.95
) -> tuple[float, float]:
    """The t interval of the mean of n ``values``: mean ± t s / √n."""
    n = len(values)
    margin = t_quantile(n - 1, coverage) * stdev(values) / math.sqrt(n)
    return mean(values) - margin, mean(values) + margin
