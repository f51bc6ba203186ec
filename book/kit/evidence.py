"""The kinds of evidence for a claim; each measures, and says what the data decide.

``identity``: two computations agree to a tolerance. ``difference``: one mean is above
another, over seeds and videos. ``count``: a number of cases that was counted in full.
``share``: a share of cases that stand for others. ``ordering``: a whole ranking of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from book.kit import intervals

HOLDS = "holds"
FAILS = "does not hold"
CLOSE = "too close to call"
UNTESTED = "not tested at this size"
VERDICTS = (HOLDS, FAILS, CLOSE, UNTESTED)
#: A difference over fewer seeds gets no verdict.
MIN_SEEDS = 5


@dataclass(frozen=True)
class Measured:
    """One measured value with its unit and, where chance plays a part, its intervals."""

    what: str
    value: float
    unit: str
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Evidence:
    """What was measured, on how much, and what it decides."""

    kind: str
    verdict: str
    measured: tuple[Measured, ...]
    n: Mapping[str, int]
    method: str


def identity(
    found: ArrayLike,
    expected: ArrayLike,
    tolerance: float,
    unit: str,
    what: str = "largest difference",
) -> Evidence:
    """``found`` equals ``expected`` up to ``tolerance``, in the unit of both."""
    one, two = np.asarray(found, float), np.asarray(expected, float)
    gap = np.abs(one - two)
    if not gap.size or not np.isfinite(gap).all():
        raise ValueError(f"{what}: only finite values can be compared.")
    verdict = HOLDS if gap.max() <= tolerance else FAILS
    measured = Measured(what, float(gap.max()), unit, {})
    method = f"absolute difference, at most {tolerance:g} {unit}"
    return Evidence("identity", verdict, (measured,), {"values": gap.size}, method)


def count(found: int, of: int, what: str, **expected: int) -> Evidence:
    """``found`` of ``of`` cases, all of which were looked at.

    One of ``equals``, ``at_least`` and ``at_most`` says what the claim expects.
    """
    tests = {
        "equals": found.__eq__,
        "at_least": found.__ge__,
        "at_most": found.__le__,
    }
    if len(expected) != 1 or not expected.keys() <= tests.keys():
        raise ValueError(f"{what}: give one of {', '.join(tests)}, got {expected}.")
    ((how, wanted),) = expected.items()
    verdict = HOLDS if tests[how](wanted) else FAILS
    measured = Measured(what, float(found), f"of {of}", {})
    method = f"counted in full; expected: {how.replace('_', ' ')} {wanted}"
    return Evidence("count", verdict, (measured,), {"cases": of}, method)


def share(
    hits: ArrayLike,
    what: str,
    above: float | None = None,
    below: float | None = None,
    cases: str = "cases",
) -> Evidence:
    """The share of true ``hits`` (N,), independent cases, lies above or below a share.

    ``above`` or ``below`` is in percent; the interval is Wilson's.
    """
    yes = np.asarray(hits, bool).ravel()
    if (above is None) == (below is None):
        raise ValueError(f"{what}: give either above or below.")
    interval = intervals.share_interval(int(yes.sum()), len(yes))
    low, high = (100 * x for x in interval)
    if above is not None:
        verdict = _decide([(low - above, high - above)])
    elif below is not None:
        verdict = _decide([(below - high, below - low)])
    method = f"95 % interval of Wilson against {above if below is None else below:g} %"
    measured = Measured(what, 100 * yes.mean(), "%", {"Wilson": (low, high)})
    return Evidence("count", verdict, (measured,), {cases: len(yes)}, method)


def difference(
    one: ArrayLike,
    two: ArrayLike,
    unit: str,
    what: str,
    groups: ArrayLike | None = None,
    cases: str = "videos",
) -> Evidence:
    """The mean of ``one`` is above that of ``two``, both (S, A): seeds and queries.

    Row by row the same seed, column by column the same query; ``groups`` (A,) has the
    video of each query, and ``cases`` names what they are. One row: fixed models, so
    chance is in the videos alone. One column: a number per seed, so chance is in the
    seeds alone. From two to four seeds there is no verdict.
    """
    gap = np.atleast_2d(np.asarray(one, float)) - np.atleast_2d(np.asarray(two, float))
    if not np.isfinite(gap).all():
        raise ValueError(f"{what}: only finite values can be compared.")
    S, A = gap.shape
    if S == A == 1:
        raise ValueError(f"{what}: one number alone has no interval; use ordering.")
    found: dict[str, tuple[float, float]] = {}
    n: dict[str, int] = {}
    if S > 1:
        found["t over seeds"] = intervals.t_interval(gap.mean(axis=1))
        n["seeds"] = S
    if A > 1:
        videos = np.arange(A) if groups is None else np.asarray(groups)
        name = "crossed bootstrap" if S > 1 else f"bootstrap over {cases}"
        found[name] = intervals.crossed_bootstrap(gap, videos)
        n[cases] = len(np.unique(videos))
    verdict = UNTESTED if 1 < S < MIN_SEEDS else _decide(list(found.values()))
    measured = Measured(what, float(gap.mean()), unit, found)
    return Evidence(
        "difference", verdict, (measured,), n, f"95 %: {' and '.join(found)}"
    )


def differences(
    pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    unit: str,
    groups: ArrayLike | None = None,
) -> dict[str, Evidence]:
    """``difference`` of every pair of (S, A), with Holm's correction for their number.

    A difference that the correction takes back is too close to call.
    """
    p_values = {
        name: intervals.t_test((one - two).mean(axis=1))
        for name, (one, two) in pairs.items()
    }
    found = {}
    for name, p in intervals.holm(p_values).items():
        alone = difference(*pairs[name], unit, name, groups)
        taken_back = p > 1 - intervals.LEVEL and alone.verdict in (HOLDS, FAILS)
        found[name] = replace(
            alone,
            verdict=CLOSE if taken_back else alone.verdict,
            method=f"{alone.method}; Holm over {len(pairs)}: p = {p:.2g}",
        )
    return found


def opposite(found: Evidence) -> Evidence:
    """A difference read the other way round: of the second minus the first."""
    turned = {HOLDS: FAILS, FAILS: HOLDS}
    measured = tuple(
        Measured(
            f"opposite of {one.what}",
            -one.value,
            one.unit,
            {name: (-high, -low) for name, (low, high) in one.intervals.items()},
        )
        for one in found.measured
    )
    verdict = turned.get(found.verdict, found.verdict)
    return replace(found, verdict=verdict, measured=measured)


def ordering(
    values: Mapping[str, ArrayLike],
    unit: str,
    groups: ArrayLike | None = None,
) -> Evidence:
    """The means come in this order, largest first; each ``values`` is as in ``difference``.

    Every neighbour must be above the next one. Numbers without chance, one each, are
    compared as they are; else the differences are a family with Holm's correction.
    """
    arrays = {name: np.atleast_2d(np.asarray(x, float)) for name, x in values.items()}
    measured = tuple(
        Measured(name, float(x.mean()), unit, {}) for name, x in arrays.items()
    )
    if all(x.size == 1 for x in arrays.values()):
        rising = all(a.value > b.value for a, b in pairwise(measured))
        verdict = HOLDS if rising else FAILS
        return Evidence("ordering", verdict, measured, {}, "compared as they are")
    steps = {f"{a} − {b}": (arrays[a], arrays[b]) for a, b in pairwise(arrays)}
    seeds = len(next(iter(arrays.values())))
    if seeds > 1:
        found = differences(steps, unit, groups)
    else:
        found = {k: difference(*x, unit, k, groups) for k, x in steps.items()}
    verdicts = [step.verdict for step in found.values()]
    verdict = next((v for v in (UNTESTED, FAILS, CLOSE) if v in verdicts), HOLDS)
    gaps = tuple(step.measured[0] for step in found.values())
    last = next(iter(found.values()))
    return Evidence("ordering", verdict, measured + gaps, last.n, last.method)


def _decide(found: Sequence[tuple[float, float]]) -> str:
    """Holds if every interval is above zero, does not hold if every one is below."""
    if all(low > 0 for low, _ in found):
        return HOLDS
    return FAILS if all(high < 0 for _, high in found) else CLOSE
