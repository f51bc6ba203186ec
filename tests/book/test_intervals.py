"""Intervals against tables, plain loops and simulations of what they should cover."""

import numpy as np
import pytest

from book.kit import intervals

# Two-sided 5 % and 1 % points of Student's t, as printed in tables.
TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 4: (2.776, 4.604), 9: (2.262, 3.250)}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_of_t_are_those_of_the_tables(freedom):
    for p, printed in zip((0.975, 0.995), TABLE[freedom], strict=True):
        found = intervals.t_quantile(p, freedom)
        assert abs(found - printed) < 6e-4
        assert intervals.t_tail(found, freedom) == pytest.approx(2 * (1 - p))


def test_the_interval_and_the_test_agree_at_the_border():
    x = np.array([0.3, 1.9, -0.4, 2.2, 0.8])
    low, high = intervals.t_interval(x)
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert intervals.t_test(x - low) == pytest.approx(0.05, abs=1e-6)
    assert intervals.t_test(np.full(3, 2.0)) == 0
    assert intervals.t_test(np.zeros(3)) == 1


def test_the_crossed_bootstrap_is_the_plain_loop():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(3, 7))
    groups = np.array([0, 0, 1, 1, 1, 2, 3])
    draw = np.random.default_rng(4)
    seeds = draw.multinomial(3, np.full(3, 1 / 3), 50)
    videos = draw.multinomial(4, np.full(4, 1 / 4), 50)
    means = []
    for s, v in zip(seeds, videos, strict=True):
        rows = np.repeat(np.arange(3), s)
        columns = [
            q for g in np.repeat(np.arange(4), v) for q in np.where(groups == g)[0]
        ]
        means.append(y[np.ix_(rows, columns)].mean())
    expected = np.quantile(means, [0.025, 0.975])
    found = intervals.crossed_bootstrap(y, groups, samples=50, seed=4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_seeds_that_differ_widen_the_crossed_interval_and_not_that_over_videos():
    video = np.random.default_rng(0).normal(size=200)
    apart = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None] + video
    crossed = np.diff(intervals.crossed_bootstrap(apart))
    alone = np.diff(intervals.crossed_bootstrap(apart.mean(axis=0, keepdims=True)))
    assert crossed > 3 * alone


def test_a_share_has_the_interval_of_wilson():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    found = intervals.share_interval(81, 263)
    np.testing.assert_allclose(found, (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(intervals.share_interval(0, 20), (0, 0.1611), atol=5e-5)


def test_holm_steps_down():
    found = intervals.holm({"a": 0.03, "b": 0.01, "c": 0.04})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(found) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.t_interval([1.0]), "at least 2 seeds"),
        (lambda: intervals.t_quantile(0.2, 4), "at least ½"),
        (lambda: intervals.crossed_bootstrap([1.0, 2.0]), r"\(seeds, queries\)"),
        (lambda: intervals.crossed_bootstrap([[1.0, 2.0]], [0]), "groups must be"),
        (lambda: intervals.share_interval(3, 2), "3 of 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n", [3, 6])
def test_one_more_run_lies_within_the_margin_as_often_as_it_says(n):
    draw, runs = np.random.default_rng(n), 4000
    values = draw.normal(48.0, 0.6, (runs, n))
    more = draw.normal(48.0, 0.6, runs)
    margins = np.array([intervals.prediction_margin(row) for row in values])
    share = (abs(more - values.mean(axis=1)) <= margins).mean()
    assert share == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / runs) ** 0.5)
