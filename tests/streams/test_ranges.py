"""Commits past an unfinished batch: none in any history; and what Faust's own bookkeeping gets wrong, one by one."""

from __future__ import annotations

import pytest

from streams.transport.ranges import Ranges
from tests.histories import broken
from tests.transport_histories import PLACES, made

PLACE = PLACES[0]


def ranges(start: int = 0) -> Ranges:
    made = Ranges()
    made.assign({PLACE: start})
    return made


def test_a_finished_batch_behind_an_unfinished_one_is_not_committed() -> None:
    # F1 and F2: right after the start, or with one batch between, Faust commits past what is in flight.
    made = ranges(31)
    made.read(PLACE, 33)
    first, second = made.hand(PLACE, 32), made.hand(PLACE, 33)
    made.settle(PLACE, 33)
    made.finish(second)
    assert made.to_commit() == {PLACE: 31}
    made.finish(first)
    assert made.to_commit() == {PLACE: 33}


def test_a_hole_belongs_to_the_batch_after_it_and_costs_nothing() -> None:
    # F3 and F4: a transaction's marker or a compacted stretch is no gap, whatever its length.
    made = ranges(12)
    made.read(PLACE, 13)
    before = made.hand(PLACE, 13)
    made.read(PLACE, 5_000_000_000_000)
    after = made.hand(PLACE, 5_000_000_000_000)
    assert (after.first, after.end) == (13, 5_000_000_000_000)
    made.settle(PLACE, 5_000_000_000_000)
    made.finish(after)
    assert made.to_commit() == {PLACE: 12}
    made.finish(before)
    assert made.to_commit() == {PLACE: 5_000_000_000_000}


def test_a_batch_whose_body_failed_holds_the_commit() -> None:
    # F5: an exception acknowledges nothing; nor does a batch that was dropped from a queue.
    made = ranges()
    made.read(PLACE, 20)
    failed, dropped = made.hand(PLACE, 10), made.hand(PLACE, 20)
    made.begin(failed)
    assert made.take_back(PLACE) == [dropped]
    made.finish(dropped)
    made.settle(PLACE, 20)
    assert made.to_commit() == {PLACE: 0}


def test_a_refused_commit_is_told_again() -> None:
    # F6: a commit that the group refused ("already rebalanced") has told it nothing.
    made = ranges()
    made.read(PLACE, 10)
    made.finish(made.hand(PLACE, 10))
    made.settle(PLACE, 10)
    assert made.to_commit() == {PLACE: 10}
    assert made.to_commit() == {}
    made.refused(PLACE, 10)
    assert made.to_commit() == {PLACE: 10}
    made.told(PLACE, 10)
    assert made.to_commit() == {}


def test_a_seek_is_done_once_and_never_after_the_partition_changed_hands() -> None:
    # Trap 13: seeks come in the middle of a rebalance and again; batches at work before them stay.
    made = ranges()
    made.read(PLACE, 30)
    early, late = made.hand(PLACE, 10), made.hand(PLACE, 20)
    epoch = made.epoch(PLACE)
    assert made.seek_back(PLACE, 10, epoch)
    assert not made.seek_back(PLACE, 10, epoch)
    assert made.expected(PLACE) == 10
    assert made.begin(early)
    assert not made.begin(late)
    made.revoke([PLACE])
    assert not made.seek_back(PLACE, 5, epoch)
    made.assign({PLACE: 25})
    assert not made.seek_back(PLACE, 5, epoch)
    assert made.expected(PLACE) == 25


# The first two hundred are by themselves: `make mutants` plants faults that these must find.
@pytest.mark.parametrize("seeds", [range(200), range(200, 20_000)], ids=["the-first-200", "the-others"])
def test_no_history_commits_past_an_unfinished_batch(seeds: range) -> None:
    assert broken(made, seeds) == []
