"""Work in threads: every result arrives, and nobody is waited for."""

import threading

import pytest

from glscl.util.threads import streams


def parts(item):
    for number in range(item):
        yield item, number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_all_results_arrive_those_of_one_item_in_order(workers):
    items = [3, 0, 50, 1, 2, 4]
    found = list(streams(parts, items, workers))
    for item in items:
        assert [number for one, number in found if one == item] == list(range(item))
    assert len(found) == sum(items)
    assert list(streams(parts, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_the_results_are_wanted(workers):
    def work(item):
        yield item
        raise ValueError(f"bad {item}")

    with pytest.raises(ValueError, match="bad"):
        list(streams(work, [1, 2, 3], workers))


def test_leaving_early_waits_for_nobody_and_the_threads_end():
    block, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        yield item
        block.wait(60)

    before = {*threading.enumerate()}
    found = streams(work, range(100), 2)
    next(found)
    new = {*threading.enumerate()} - before
    found.close()
    block.set()
    for thread in new:
        thread.join(10)
    assert new
    assert not any(thread.is_alive() for thread in new)
    assert len(begun) < 10
