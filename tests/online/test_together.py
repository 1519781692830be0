"""Small buckets that go in one call end as they do when each goes by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore.event_time import Mark
from featurestore.kernel import Pieces
from featurestore.online import Applied, Commit, Conflict, Duplicate, Move, OneServer, OnlineStore, Outcome, StoredRows

VIEW, BUCKETS = "view@1", 4
KEYS = [b"k%d" % number for number in range(20)]


class Singly(OneServer):
    """A server that is sent one bucket a call, as a cluster's node is."""

    has_all = False


class Counted(OneServer):
    """Counts the calls that write, and those that read."""

    commits = reads = 0

    def execute(self, calls):  # type: ignore[no-untyped-def]
        self.commits += sum(call[0] == "FCALL" for call in calls)
        self.reads += sum(call[0] == "EXEC" for call in calls)
        return super().execute(calls)


@dataclass(frozen=True)
class Step:
    """A worker reads some rows, or writes what it read last; where its buckets stand, it believes to know.

    trust  how many of its buckets it knows well, from the first on; of the others it expects what it was told at first
    """

    worker: int
    keys: tuple[bytes, ...]
    trust: int


steps = st.builds(
    Step,
    st.integers(0, 1),
    st.lists(st.sampled_from(KEYS), min_size=1, unique=True).map(tuple),
    st.integers(0, BUCKETS),
)


def play(store: OnlineStore, history: list[Step]) -> tuple[list[list[Outcome]], list[bytes | None]]:
    """Each worker has a partition, and commits at each step what it has read at its step before."""
    out: list[list[Outcome]] = []
    read: dict[int, StoredRows] = {}
    ends: dict[tuple[int, int], int] = {}
    for number, step in enumerate(history, 1):
        if (held := read.get(step.worker)) is not None:
            place, new = f"topic/{step.worker}", Mark(number, number)
            known = [
                ends.get((step.worker, bucket)) if index < step.trust else None
                for index, bucket in enumerate(held.buckets)
            ]
            rows = Pieces.of([b"%b of step %d" % (key, number) for key in held.keys])
            outcomes = store.commit(VIEW, Commit.onto(held, rows, [(Move(place, end, new),) for end in known]))
            for bucket, outcome in zip(held.buckets, outcomes, strict=True):
                if outcome == Applied():
                    ends[step.worker, bucket] = number
            out.append(outcomes)
        read[step.worker] = store.read(VIEW, step.keys)
    return out, store.payloads([(VIEW, KEYS)])[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(history=st.lists(steps, max_size=12))
@example(history=[Step(0, tuple(KEYS), 0), Step(1, tuple(KEYS[:7]), 0), Step(1, (KEYS[0],), 4), Step(0, (KEYS[0],), 4)])
def test_buckets_that_go_together_end_as_each_by_itself(
    redis_client: redis.Redis, unique: Callable[[str], str], history: list[Step]
) -> None:
    seen = []
    for server in (OneServer(redis_client), Singly(redis_client)):
        tokens = itertools.count(1)
        store = OnlineStore(
            server,
            namespace=unique("together"),
            buckets=BUCKETS,
            new_token=lambda tokens=tokens: next(tokens).to_bytes(16, "big"),  # type: ignore[misc]
        )
        store.ensure_ready()
        seen.append(play(store, history))
    assert seen[0] == seen[1]


def test_one_bucket_that_is_refused_holds_none_of_the_others_up(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    server = Counted(redis_client)
    store = OnlineStore(server, namespace=unique("together"), buckets=BUCKETS)
    store.ensure_ready()
    moves = [(Move("topic/0", None, Mark(5, 5)),)] * BUCKETS
    read = store.read(VIEW, KEYS)
    assert read.buckets == list(range(BUCKETS))
    other = store.read(VIEW, [key for key in KEYS if key in list(read.keys.between(0, read.begins[1]))])
    theirs = Pieces.of([b"theirs"] * len(other.keys))
    assert store.commit(VIEW, Commit.onto(other, theirs, [(Move("topic/1", None, Mark(1, 1)),)])) == [Applied()]
    server.commits = 0
    mine = Commit.onto(read, Pieces.of([b"mine"] * len(KEYS)), moves)
    assert store.commit(VIEW, mine) == [Conflict(), Applied(), Applied(), Applied()]
    assert server.commits == 1
    rows = dict(zip(KEYS, store.payloads([(VIEW, KEYS)])[0], strict=True))
    assert rows == {key: b"theirs" if key in list(other.keys) else b"mine" for key in KEYS}
    assert store.commit(VIEW, mine) == [Conflict(), *[Duplicate(Mark(5, 5))] * 3]


def test_each_bucket_has_its_own_token(redis_client: redis.Redis, unique: Callable[[str], str]) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("tokens"), buckets=2)
    store.ensure_ready()
    old = store.read(VIEW, KEYS)
    first = Commit.onto(old, Pieces.of([b"first"] * len(KEYS)), [(Move("topic/1", None, Mark(1, 1)),)] * 2)
    assert store.commit(VIEW, first) == [Applied()] * 2
    # One bucket was read after that commit and the other one before: both have its token, one alone is known to.
    new, edge = store.read(VIEW, KEYS), old.begins[1]
    mixed = StoredRows([0, 1], old.begins, [new.tokens[0], b""], old.keys, [*new.rows[:edge], *old.rows[edge:]])
    assert new.tokens[0] == new.tokens[1]
    then = Commit.onto(mixed, Pieces.of([b"then"] * len(KEYS)), [(Move("topic/0", None, Mark(1, 1)),)] * 2)
    assert store.commit(VIEW, then) == [Applied(), Conflict()]


@pytest.mark.parametrize(("keys", "calls"), [(200, 1), (5_000, 16)])
def test_a_call_has_a_bound_in_rows_and_in_buckets(
    redis_client: redis.Redis, unique: Callable[[str], str], keys: int, calls: int
) -> None:
    server = Counted(redis_client)
    store = OnlineStore(server, namespace=unique("bound"), buckets=16)
    store.ensure_ready()
    read = store.read(VIEW, [b"%d" % number for number in range(keys)])
    moves = [(Move("topic/0", None, Mark(5, 5)),)] * 16
    assert store.commit(VIEW, Commit.onto(read, Pieces.of([b"row"] * keys), moves)) == [Applied()] * 16
    assert server.commits == calls
    server.commits = 0
    # Without rows, buckets are what there is to be done.
    wide = OnlineStore(server, namespace=unique("bound"), buckets=1_000)
    beats = [(Move("topic/0", None, Mark(9, 9)),)] * 1_000
    assert wide.commit(VIEW, Commit.of_no_rows(range(1_000), beats)) == [Applied()] * 1_000
    assert server.commits == 4


def test_long_names_count(redis_client: redis.Redis, unique: Callable[[str], str]) -> None:
    server = Counted(redis_client)
    store = OnlineStore(server, namespace=unique("names"), buckets=16)
    store.ensure_ready()
    read = store.read(VIEW, [b"%d" % number * 20_000 for number in range(64)])
    rows = Pieces.of([b"row"] * 64)
    assert store.commit(VIEW, Commit.onto(read, rows, [(Move("topic/0", None, Mark(5, 5)),)] * 16)) == [Applied()] * 16
    assert (server.reads, server.commits) == (16, 16)


def test_large_rows_go_apart_once_it_is_known_that_they_are(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    server = Counted(redis_client)
    store = OnlineStore(server, namespace=unique("large"), buckets=16)
    store.ensure_ready()
    keys = [b"%d" % number for number in range(64)]
    for end, calls in ((5, 1), (9, 16)):
        server.reads = server.commits = 0
        read = store.read(VIEW, keys)
        # What is read is known only once it has been.
        assert server.reads == 1
        moves = [(Move("topic/0", end - 4 if end > 5 else None, Mark(end, end)),)] * 16
        rows = Pieces.of([b"x" * (1_000 if end == 5 else 100_000)] * 64)
        assert store.commit(VIEW, Commit.onto(read, rows, moves)) == [Applied()] * 16
        assert server.commits == calls
    assert [len(row or b"") for row in store.read(VIEW, keys).rows] == [100_016] * 64
    server.reads = 0
    store.read(VIEW, keys)
    assert server.reads == 16


def test_buckets_that_move_otherwise_go_apart(redis_client: redis.Redis, unique: Callable[[str], str]) -> None:
    server = Counted(redis_client)
    store = OnlineStore(server, namespace=unique("apart"), buckets=BUCKETS)
    store.ensure_ready()
    ends = [3, 3, 5, 5]
    first = Commit.of_no_rows(range(BUCKETS), [(Move("topic/0", None, Mark(end, end)),) for end in ends])
    assert store.commit(VIEW, first) == [Applied()] * BUCKETS
    assert server.commits == 2
    assert store.marks(VIEW, "topic") == {0: [Mark(end, end) for end in ends]}
    moves = [(Move("topic/0", end, Mark(9, 9)),) for end in ends]
    assert store.commit(VIEW, replace(first, moves=moves)) == [Applied()] * BUCKETS
    assert store.marks(VIEW, "topic") == {0: [Mark(9, 9)] * BUCKETS}
