"""Intervals from a few seeds: Student's t, and how often they hold."""

import random
from statistics import mean

import pytest

from book.experiments.intervals import (
    mean_interval,
    prediction_margin,
    t_probability,
    t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "tabulated"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (30, 2.042)],
)
def test_quantiles_are_those_of_the_tables(degrees, tabulated):
    assert t_quantile(degrees) == pytest.approx(tabulated, abs=5e-4)
    assert t_probability(t_quantile(degrees, 0.8), degrees) == pytest.approx(0.8)
    assert t_probability(0.0, degrees) == 0


def test_many_degrees_of_freedom_are_the_normal_distribution():
    assert t_quantile(100_000) == pytest.approx(1.95996, abs=1e-4)


@pytest.mark.parametrize(("degrees", "coverage"), [(0, 0.95), (3, 1.0), (3, 0.0)])
def test_what_has_no_quantile_is_refused(degrees, coverage):
    with pytest.raises(ValueError, match="at least one degree of freedom"):
        t_quantile(degrees, coverage)


@pytest.mark.parametrize("n", [3, 6])
def test_intervals_hold_as_often_as_they_say(n):
    rng = random.Random(n)
    runs = 4000
    predicted = contained = 0
    for _ in range(runs):
        values = [rng.gauss(48.0, 0.6) for _ in range(n)]
        distance = abs(rng.gauss(48.0, 0.6) - mean(values))
        predicted += distance <= prediction_margin(values)
        low, high = mean_interval(values)
        contained += low <= 48.0 <= high
    # Three standard errors of a share of 0.95 among as many draws.
    assert predicted / runs == pytest.approx(0.95, abs=0.0104)
    assert contained / runs == pytest.approx(0.95, abs=0.0104)
