"""Dropping what lies under one id."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from featurestore.event_time import Mark
from featurestore.kernel import Pieces
from featurestore.online import Applied, Commit, Move, OneServer, OnlineStore


@pytest.mark.parametrize("entity", [b"x}:by_user@1:hello", b"x}:by_user@1:row:hello", b"bob"])
def test_rows_of_another_view_stay_whatever_their_entities_are_called(
    entity: bytes, redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("drop"), buckets=4)
    store.ensure_ready()

    def put(view: str, key: bytes) -> None:
        moves = (Move("t/0", None, Mark(1, 1)),)
        commit = Commit.onto(store.read(view, [key]), Pieces.of([b"payload"]), [moves])
        assert store.commit(view, commit) == [Applied()]

    put("other@2", entity)
    assert (store.rows("by_user@1"), store.drop("by_user@1")) == (0, 0)
    put("by_user@1", b"alice")
    store.note_evicted("by_user@1", {})
    # Its row, and how far its bucket has come.
    assert (store.rows("by_user@1"), store.drop("by_user@1"), store.rows("by_user@1")) == (1, 2, 0)
    assert store.payloads([("other@2", [entity])]) == [[b"payload"]]
    assert store.noted() == []


def test_a_drop_that_ends_half_way_leaves_no_watermark_and_the_next_one_ends_it(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("drop"), buckets=4)
    store.ensure_ready()
    keys = [b"alice", b"bob", b"carol", b"dave"]
    commit = store.read("v@1", keys)
    moves = [(Move("t/0", None, Mark(1, 1)),)] * len(commit.buckets)
    store.commit("v@1", Commit.onto(commit, Pieces.of([b"payload"] * len(keys)), moves))
    store.note_evicted("v@1", {})
    answers = iter([True, False])
    assert store.drop("v@1", may=lambda: next(answers)) == len(commit.buckets)
    assert (store.marks("v@1", "t"), store.rows("v@1"), store.noted()) == ({}, len(keys), ["v@1"])
    assert store.drop("v@1") == len(keys)
    assert (store.rows("v@1"), store.noted()) == (0, [])


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\\\", "[a-z]"])
def test_a_namespace_may_have_what_a_pattern_is_made_of(
    name: str, redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    first = unique("drop")
    stores = [OnlineStore(OneServer(redis_client), namespace=f"{first}{each}", buckets=4) for each in (name, "a1")]
    for store in stores:
        store.ensure_ready()
        commit = Commit.onto(store.read("v@1", [b"bob"]), Pieces.of([b"payload"]), [(Move("t/0", None, Mark(1, 1)),)])
        assert store.commit("v@1", commit) == [Applied()]
    assert [stores[0].rows("v@1"), stores[0].drop("v@1")] == [1, 2]
    assert [store.rows("v@1") for store in stores] == [0, 1]
