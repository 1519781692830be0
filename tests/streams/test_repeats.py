"""Repeats equal their definition, whatever the batches, and whatever is judged again or after a restart."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Topic
from featurestore.errors import DefinitionError, TooManyIdsError, UnknownColumnError
from featurestore.event_time import REPEATED_US, SECOND_US
from streams.repeats import Repeats, Seen
from streams.watermark import judge

WITHIN_US = 10
SCHEMA = {"user": str, "at": "timestamp", "id": str, "number": int, "amount": float}
TOPIC = Topic("sent", SCHEMA, event_time="at", key="user", nullable=("id",), dedupe="id", within=WITHIN_US)
Event = tuple[str | None, int]
EVENTS = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(["a", "b", "", "é"])), st.integers(0, 60)), max_size=40
)


def naive(events: list[Event], within_us: int = WITHIN_US) -> list[bool]:
    out: list[bool] = []
    taken: list[tuple[str, int]] = []
    newest_us = 0
    for name, event_us in events:
        newest_us = max(newest_us, event_us)
        repeat = name is not None and any(n == name and newest_us - at <= within_us for n, at in taken)
        if name is not None and not repeat:
            taken.append((name, newest_us))
        out.append(repeat)
    return out


class Held:
    """The log of one partition, in memory."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def between(self, partition: int, first: int, end: int, columns: list[str]) -> pa.Table:
        some = [row for row in self.rows if first <= row["offset"] < end]  # type: ignore[operator]
        types = {"id": pa.string()}
        return pa.table({name: pa.array([r[name] for r in some], types.get(name, pa.int64())) for name in columns})

    def between_within(
        self, partition: int, first: int, end: int, columns: list[str], bytes_max: int | None
    ) -> pa.Table | None:
        table = self.between(partition, first, end, columns)
        return None if bytes_max is not None and table.nbytes > bytes_max else table


class Worker:
    """Judges one partition from where its log ends, as the engine does: time first, then repeats."""

    def __init__(self, events: list[Event], log: Held) -> None:
        self._events, self._log, self._at = events, log, len(log.rows)
        self._newest_us = max((e for _, e in events[: self._at]), default=0)
        # So few that all that is read of the log is cut, in every way.
        self._repeats = Repeats(TOPIC, log, look_back=1 + self._at % 3, read_bytes_max=20 + 7 * self._at)
        self._repeats.open(0, self._at, self._newest_us)

    def judge(self, count: int, keep: bool = True) -> list[bool]:
        part = self._events[self._at : self._at + count]
        event_us = np.array([e for _, e in part], dtype=np.int64)
        offsets = np.arange(self._at, self._at + len(part))
        judged = judge(event_us, event_us, self._newest_us)
        columns = {"id": pa.array([name for name, _ in part], pa.string())}
        marked = self._repeats.mark(0, columns, judged)
        if keep:
            self._repeats.keep(0)
            self._at += len(part)
            self._newest_us = int(judged.newest_us[-1]) if len(part) else self._newest_us
            for index, offset in enumerate(offsets.tolist()):
                moments = dict.fromkeys(("event_us", "effective_us", "arrival_us"), int(event_us[index]))
                row = {"offset": offset, **moments, "id": part[index][0]}
                self._log.rows.append({**row, "late_by_us": int(marked.late_by_us[index])})
        return (marked.late_by_us == REPEATED_US).tolist()


# The first example loads compiled loops.
@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 7), max_size=30), st.data())
def test_any_batches_some_judged_again_and_any_restarts_give_the_definition(
    events: list[Event], cuts: list[int], data: st.DataObject
) -> None:
    wanted, log = naive(events), Held()
    worker, at = Worker(events, log), 0
    for count in [*cuts, len(events)]:
        match data.draw(st.sampled_from(["go on", "again", "restart"])):
            case "again":
                # A batch that was not applied, since a commit of before failed, comes again with other edges.
                worker.judge(data.draw(st.integers(0, 9)), keep=False)
            case "restart":
                # What the log did not get any more is judged again.
                at = data.draw(st.integers(0, at))
                del log.rows[at:]
                worker = Worker(events, log)
        assert worker.judge(count) == wanted[at : at + count]
        at = min(at + count, len(events))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), st.integers(0, 60)), max_size=40))
def test_numbers_are_ids_as_they_are(events: list[tuple[int, int]]) -> None:
    moments = np.maximum.accumulate(np.array([e for _, e in events], dtype=np.int64)) if events else np.zeros(0, int)
    found = Seen(WITHIN_US).judge(pa.array([n for n, _ in events], pa.int64()), moments)
    assert found.tolist() == naive([(str(n), e) for n, e in events])


def test_the_table_grows_forgets_and_stays_right_over_many_ids() -> None:
    draw = np.random.default_rng(11)
    count, within_us = 400_000, 60_000
    ids, moments = draw.integers(0, 150_000, count), np.arange(count)
    seen, found = Seen(within_us), []
    for first in range(0, count, 7_000):
        found.append(seen.judge(pa.array(ids[first : first + 7_000]), moments[first : first + 7_000]))
        seen.keep()
    taken: dict[int, int] = {}
    wanted = np.zeros(count, dtype=np.bool_)
    for index, name in enumerate(ids.tolist()):
        wanted[index] = name in taken and index - taken[name] <= within_us
        if not wanted[index]:
            taken[name] = index
    assert np.array_equal(np.concatenate(found), wanted)


def test_more_ids_than_are_remembered_are_refused_and_old_ones_make_room() -> None:
    seen = Seen(100, ids_max=50_000)
    for first in range(0, 400_000, 10_000):
        ids = pa.array(np.arange(first, first + 10_000))
        assert not seen.judge(ids, np.full(10_000, first)).any()
        seen.keep()
    crowded = Seen(SECOND_US, ids_max=50_000)
    with pytest.raises(TooManyIdsError, match="at most 50000 are remembered"):
        crowded.judge(pa.array(np.arange(60_000)), np.zeros(60_000, dtype=np.int64))
    assert not crowded.judge(pa.array([1]), np.zeros(1, dtype=np.int64)).any(), "what was refused was not judged"


def test_what_was_seen_is_learnt_from_as_much_of_the_log_as_the_horizon_needs() -> None:
    log, asked = Held(), []
    for offset in range(100):
        log.rows.append({"offset": offset, "effective_us": offset, "late_by_us": 0, "id": f"e{offset}"})

    class Asked:
        def between_within(
            self, partition: int, first: int, end: int, columns: list[str], bytes_max: int | None
        ) -> pa.Table | None:
            asked.append((first, end, columns[-1]))
            return log.between_within(partition, first, end, columns, bytes_max)

    Repeats(TOPIC, Asked(), look_back=4).open(0, 100, 99)
    assert asked == [(96, 100, "offset"), (80, 96, "offset"), (89, 100, "id")]


@pytest.mark.parametrize("is_sparse", [False, True])
def test_learning_what_was_seen_holds_a_part_of_it_at_a_time(is_sparse: bool) -> None:
    gap, most, read = (10**9 if is_sparse else 1), 4_000, []
    log = Held()
    for number in range(3_000):
        # Tiny ids, then large ones, and one that is larger than all that is allowed. A gap, then many without one.
        name = f"e{number}".ljust(9_000 if number == 2_000 else 300 if number > 1_500 else 2, "-")
        offset = number if number < 500 else number + gap
        log.rows.append({"offset": offset, "effective_us": number // 250, "late_by_us": 0, "id": name})

    class Read(Held):
        def between_within(
            self, partition: int, first: int, end: int, columns: list[str], bytes_max: int | None
        ) -> pa.Table | None:
            table = log.between_within(partition, first, end, columns, bytes_max)
            if table is not None:
                assert table.nbytes <= most or end - first == 1
                read.append((columns[-1], len(table)))
            return table

    repeats = Repeats(TOPIC, Read(), look_back=64, read_bytes_max=most)
    repeats.open(0, 3_000 + gap, 11)
    # Of the first 250 events it is longer ago.
    assert sum(rows for column, rows in read if column == "id") == 2_750
    ids = pa.array([row["id"] for row in log.rows], pa.string())
    found = repeats._seen[0].judge(ids, np.full(3_000, 11, dtype=np.int64))
    assert found.tolist() == [False] * 250 + [True] * 2_750
    assert len(read) < 400


def test_texts_have_the_same_identity_wherever_they_lie_in_an_array() -> None:
    names = [None if number % 7 == 3 else f"\u00e9{number}" for number in range(40_000)]
    seen = Seen(WITHIN_US)
    seen.remember(pa.array(names, pa.string()).slice(100, 30_000), np.zeros(30_000, dtype=np.int64))
    found = seen.judge(pa.array(names, pa.large_string()), np.zeros(40_000, dtype=np.int64))
    assert found.tolist() == [name is not None and 100 <= n < 30_100 for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"dedupe": "id"}, DefinitionError, "needs dedupe and within together"),
        ({"within": "1h"}, DefinitionError, "needs dedupe and within together"),
        ({"dedupe": "idd", "within": "1h", "key": "user"}, UnknownColumnError, "'idd'"),
        ({"dedupe": "amount", "within": "1h", "key": "user"}, DefinitionError, "an id is a str or an int"),
        ({"dedupe": "id", "within": "1h"}, DefinitionError, "must come to the same one; set key"),
        ({"dedupe": "id", "within": "0s", "key": "user"}, DefinitionError, "longer than no time"),
    ],
)
def test_a_topic_that_could_not_keep_the_promise_cannot_be_defined(
    said: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Topic("sent", SCHEMA, event_time="at", **said)
