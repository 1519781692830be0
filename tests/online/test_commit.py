"""The commit protocol, answer by answer: each test makes one of them happen on a real server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import redis

from featurestore.errors import OnlineStoreError, SettingError
from featurestore.event_time import Mark
from featurestore.kernel import Pieces
from featurestore.kernel.keys import bucket_of
from featurestore.online import (
    Applied,
    Commit,
    Conflict,
    Duplicate,
    LostTail,
    Move,
    OneServer,
    OnlineStore,
    Outcome,
    Run,
    StoredRows,
    Straddle,
)

VIEW, PLACE = "view@1", "topic/0"
KEY = b"k"


@pytest.fixture
def store(redis_client: redis.Redis, unique: Callable[[str], str]) -> OnlineStore:
    made = OnlineStore(OneServer(redis_client), namespace=unique("commit"), buckets=4)
    made.ensure_ready()
    return made


def commit(
    store: OnlineStore, expected: int | None, end: int, payload: bytes, *, read_first: bool = True, place: str = PLACE
) -> Outcome:
    read = store.read(VIEW, [KEY])
    if not read_first:
        read = unread([KEY], read.buckets[0])
    return put(store, read, (Move(place, expected, Mark(end, end)),), [payload])


def unread(keys: Sequence[bytes], bucket: int) -> StoredRows:
    """Rows of one bucket as somebody sees them who knows of none."""
    return StoredRows([bucket], [0, len(keys)], [b""], Pieces.of(keys), [None] * len(keys))


def put(
    store: OnlineStore,
    read: StoredRows,
    moves: tuple[Move, ...],
    payloads: Sequence[bytes],
    expire_ms: int | None = None,
) -> Outcome:
    """Commit to the one bucket that was read."""
    [outcome] = store.commit(VIEW, Commit.onto(read, Pieces.of(payloads), [moves], expire_ms))
    return outcome


def served(store: OnlineStore) -> bytes | None:
    [[payload]] = store.payloads([(VIEW, [KEY])])
    return payload


def test_rows_and_watermark_move_together(store: OnlineStore) -> None:
    assert commit(store, None, 5, b"five") == Applied()
    assert served(store) == b"five"
    assert store.marks(VIEW, "topic")[0][bucket_of(KEY, 4)] == Mark(5, 5)
    assert commit(store, 5, 9, b"nine") == Applied()
    assert served(store) == b"nine"


def test_a_duplicate_changes_nothing_and_says_where_the_bucket_stands(store: OnlineStore) -> None:
    commit(store, None, 5, b"five")
    assert commit(store, None, 5, b"again") == Duplicate(Mark(5, 5))
    commit(store, 5, 9, b"nine")
    assert commit(store, 2, 7, b"old") == Duplicate(Mark(9, 9))
    assert served(store) == b"nine"


def test_a_straddle_changes_nothing_and_says_where_to_cut(store: OnlineStore) -> None:
    commit(store, None, 5, b"five")
    assert commit(store, 3, 8, b"three to eight") == Straddle(Mark(5, 5))
    assert commit(store, None, 8, b"start to eight") == Straddle(Mark(5, 5))
    assert served(store) == b"five"


def test_a_lost_tail_is_seen(store: OnlineStore, redis_client: redis.Redis) -> None:
    commit(store, None, 5, b"five")
    assert commit(store, 9, 12, b"beyond") == LostTail(Mark(5, 5))
    assert served(store) == b"five"
    redis_client.flushall()
    assert commit(store, 5, 9, b"nine") == LostTail(None)
    assert served(store) is None


def test_the_first_records_of_a_partition_take_the_watermark_back(store: OnlineStore) -> None:
    assert store.newest_us(VIEW, "topic", [KEY]) == [None]
    commit(store, None, 9, b"nine")
    # Of another partition nothing is known: it may be empty for ever.
    assert store.newest_us(VIEW, "topic", [KEY]) == [9]
    commit(store, None, 5, b"five", place="topic/1")
    assert store.newest_us(VIEW, "topic", [KEY]) == [5]
    commit(store, 5, 12, b"twelve", place="topic/1")
    assert store.newest_us(VIEW, "topic", [KEY]) == [9]


def test_rows_that_another_worker_changed_are_a_conflict(store: OnlineStore) -> None:
    commit(store, None, 5, b"five")
    read = store.read(VIEW, [KEY])
    assert read.rows != [None]
    assert commit(store, None, 3, b"other", place="topic/1") == Applied()
    assert put(store, read, (Move(PLACE, 5, Mark(9, 9)),), [b"stale"]) == Conflict()
    assert served(store) == b"other"
    assert commit(store, 5, 9, b"fresh") == Applied()


def test_another_writer_in_the_bucket_is_no_conflict_when_the_row_stood_still(store: OnlineStore) -> None:
    commit(store, None, 5, b"five")
    read = store.read(VIEW, [KEY])
    assert read.rows != [None]
    [bucket] = read.buckets
    neighbour = next(key for key in (b"%d" % n for n in range(99)) if bucket_of(key, 4) == bucket)
    assert put(store, store.read(VIEW, [neighbour]), (Move("topic/1", None, Mark(1, 1)),), [b"n"]) == Applied()
    assert put(store, read, (Move(PLACE, 5, Mark(9, 9)),), [b"nine"]) == Applied()
    assert served(store) == b"nine"


def test_a_call_is_all_or_nothing_over_many_rows(store: OnlineStore) -> None:
    keys = tuple(key for key in (b"%d" % n for n in range(12_000)) if bucket_of(key, 4) == 1)
    assert len(keys) > 2_000
    rows = tuple(b"row " + key for key in keys)
    assert put(store, unread(keys, 1), (Move(PLACE, None, Mark(5, 5)),), rows) == Applied()
    # One changed row at the very end refuses them all.
    read = store.read(VIEW, keys)
    assert put(store, store.read(VIEW, keys[-1:]), (Move("topic/1", None, Mark(1, 1)),), [b"x"]) == Applied()
    assert put(store, read, (Move(PLACE, 5, Mark(9, 9)),), [b"y"] * len(keys)) == Conflict()
    [payloads] = store.payloads([(VIEW, keys)])
    assert payloads == [*rows[:-1], b"x"]


@pytest.mark.parametrize("partitions", [1_999, 4_500, 9_000])
def test_a_bucket_of_very_many_partitions_is_written_whole(store: OnlineStore, partitions: int) -> None:
    places = [f"topic/{number}" for number in range(partitions)]
    first = tuple(Move(place, None, Mark(5, 5)) for place in places)
    assert put(store, store.read(VIEW, [KEY]), first, [b"five"]) == Applied()
    then = tuple(Move(place, 5, Mark(9, 9)) for place in places)
    assert put(store, store.read(VIEW, [KEY]), then, [b"nine"]) == Applied()
    assert served(store) == b"nine"
    bucket = bucket_of(KEY, 4)
    assert {number: marks[bucket] for number, marks in store.marks(VIEW, "topic").items()} == dict.fromkeys(
        range(partitions), Mark(9, 9)
    )
    assert put(store, store.read(VIEW, [KEY]), then, [b"again"]) == Duplicate(Mark(9, 9), 0)
    last = (*(Move(place, 9, Mark(12, 12)) for place in places[:-1]), Move(places[-1], 7, Mark(12, 12)))
    assert put(store, store.read(VIEW, [KEY]), last, [b"twelve"]) == Straddle(Mark(9, 9), partitions - 1)


def test_watermarks_of_several_partitions_move_together_or_not_at_all(store: OnlineStore) -> None:
    def both(left: Move, right: Move, payload: bytes) -> Outcome:
        return put(store, store.read(VIEW, [KEY]), (left, right), [payload])

    other, bucket = "topic/1", bucket_of(KEY, 4)
    assert both(Move(PLACE, None, Mark(5, 5)), Move(other, None, Mark(7, 7)), b"one") == Applied()
    assert [store.marks(VIEW, "topic")[part][bucket] for part in (0, 1)] == [Mark(5, 5), Mark(7, 7)]
    # The second one refuses: it is named, and the first has not moved.
    assert both(Move(PLACE, 5, Mark(9, 9)), Move(other, None, Mark(7, 7)), b"two") == Duplicate(Mark(7, 7), 1)
    assert both(Move(PLACE, 5, Mark(9, 9)), Move(other, 3, Mark(8, 8)), b"two") == Straddle(Mark(7, 7), 1)
    assert both(Move(PLACE, 5, Mark(9, 9)), Move(other, 8, Mark(9, 9)), b"two") == LostTail(Mark(7, 7), 1)
    assert both(Move(PLACE, 5, Mark(9, 9)), Move("topic/2", 8, Mark(9, 9)), b"two") == LostTail(None, 1)
    assert [store.marks(VIEW, "topic")[part][bucket] for part in (0, 1)] == [Mark(5, 5), Mark(7, 7)]
    assert served(store) == b"one"


def test_functions_that_are_gone_are_loaded_again_and_nothing_is_done_twice(
    store: OnlineStore, redis_client: redis.Redis
) -> None:
    commit(store, None, 5, b"five")
    redis_client.function_flush()
    assert commit(store, 5, 9, b"nine") == Applied()
    assert served(store) == b"nine"


def test_a_server_that_may_evict_rows_is_refused(store: OnlineStore, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(OnlineStoreError, match="noeviction"):
            store.ensure_ready()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    # Whoever comes once the server has been started anew does not believe that it evicted nothing.
    later = OnlineStore(OneServer(redis_client), namespace=store.name("").decode()[:-1], buckets=1)
    [run] = store.runs()
    assert later.evicted([])[run.id] > run.evicted
    # Until then its own count tells.
    assert later.evicted([run]) == {run.id: run.evicted}
    # Of a replay that was refused nothing stays behind its `--drop`.
    store.unclaim()
    assert store.beside() == {}


def test_what_a_run_has_evicted_counts_when_it_is_gone(store: OnlineStore, redis_client: redis.Redis) -> None:
    good, bad = (lambda name, keys, policy=policy: Run(name, policy, keys) for policy in ("noeviction", "allkeys-lru"))
    assert store.evicted([good("a", 0), bad("b", 2)]) == {"a": 0, "b": 2}
    # What b did until it ended nobody knows.
    gone = store.evicted([good("c", 0)])["b"]
    assert gone > 1 << 60
    store.note_evicted(VIEW, store.evicted([good("c", 0)]))
    assert store.evicted_before(VIEW, "topic") == {"b": gone, "c": 0}
    # c is mended while it is there, so that its end tells nothing new.
    assert store.evicted([bad("c", 0)]) == {"b": gone, "c": 0}
    assert store.evicted([good("c", 1)]) == {"b": gone, "c": 1}
    assert store.evicted([good("d", 0)]) == {"b": gone, "c": 1, "d": 0}
    # The store comes back older; who has seen it tells the next.
    redis_client.delete(store.name("aliases"))
    assert store.evicted([]) == {"b": gone, "c": 1}
    later = OnlineStore(OneServer(redis_client), namespace=store.name("").decode()[:-1], buckets=1)
    assert later.evicted([]) == {"b": gone, "c": 1}


def test_rows_of_which_nothing_says_what_was_evicted_when_they_began_may_have_lost_some(store: OnlineStore) -> None:
    now = store.evicted(store.runs())
    assert store.evicted_before(VIEW, "topic") == now
    commit(store, None, 1, b"row")
    assert store.evicted_before(VIEW, "topic") == now
    # Evictions took the aliases, and what was noted beside them.
    store.ask("UNLINK", store.name("aliases"))
    assert store.evicted_before(VIEW, "topic") is None
    # Who leaves rows does not know either, and whoever fills them again does.
    store.note_evicted(VIEW, None)
    assert store.point(VIEW, None, b"ready", {VIEW: now})
    assert store.evicted_before(VIEW, "topic") == now


def test_a_user_who_may_not_ask_how_a_server_is_learns_which_right_is_lacking(
    store: OnlineStore, redis_client: redis.Redis
) -> None:
    redis_client.acl_setuser("few", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-info"])
    port = redis_client.connection_pool.connection_kwargs["port"]
    try:
        with (
            redis.Redis(port=port, username="few", password="p") as client,
            pytest.raises(OnlineStoreError, match="'info' command; give the user"),
        ):
            OnlineStore(OneServer(client), namespace="few", buckets=1).ensure_ready()
    finally:
        redis_client.acl_deluser("few")


def test_a_server_that_is_away_is_an_error_of_ours() -> None:
    away = OnlineStore.at("redis://127.0.0.1:1/0", namespace="away", buckets=4)
    for ask in (away.ping, away.ensure_ready, lambda: away.payloads([(VIEW, [KEY])]), lambda: away.marks(VIEW, "t")):
        with pytest.raises(OnlineStoreError, match="does not answer"):
            ask()


@pytest.mark.parametrize("url", ["redis://db/0?foo=hidden", "redis+cluster://me:hidden@a:1,b:2?foo=hidden"])
def test_an_option_that_no_client_has_is_told_before_it_is_used(url: str) -> None:
    with pytest.raises(SettingError, match=r"^setting redis_url cannot be used: .*'foo'; write one such as") as refused:
        OnlineStore.at(url, namespace="away", buckets=4)
    assert "hidden" not in str(refused.value)


def test_rows_expire_and_a_watermark_does_not(store: OnlineStore, redis_client: redis.Redis) -> None:
    assert put(store, store.read(VIEW, [KEY]), (Move(PLACE, None, Mark(5, 5)),), [b"five"], 60_000) == Applied()
    lives = {name.rpartition(b":")[2]: redis_client.pttl(name) for name in redis_client.scan_iter()}
    assert 0 < lives[b"k"] <= 60_000
    assert lives[b"state"] == -1


@pytest.mark.parametrize("allowed", ["+@all", "+@all -msetex -config"])
def test_rows_expire_whether_or_not_the_server_sets_many_at_once_and_tells_its_configuration(
    redis_client: redis.Redis, unique: Callable[[str], str], allowed: str
) -> None:
    name = unique("expiry")
    redis_client.acl_setuser(name, enabled=True, nopass=True, keys=["*"], channels=["*"])
    redis_client.execute_command("ACL", "SETUSER", name, *allowed.split())
    address = redis_client.connection_pool.connection_kwargs
    with redis.Redis(host=address["host"], port=address["port"], username=name, password="any") as client:
        store = OnlineStore(OneServer(client), namespace=name, buckets=1)
        store.ensure_ready()
        # More than one call's worth.
        keys = tuple(b"k%d" % number for number in range(1_001))
        new, rows = Mark(1, 1), tuple(b"row " + key for key in keys)
        for outcome in (Applied(), Duplicate(new)):
            assert put(store, unread(keys, 0), (Move(PLACE, None, new),), rows, 60_000) == outcome
        assert store.payloads([(VIEW, keys)]) == [list(rows)]
        left = {client.pttl(key) for key in client.scan_iter(f"{name}:*:row:*", count=2_000)}
        assert 0 < min(left) <= max(left) <= 60_000
        # What the function learned of this user is not for the others.
        OnlineStore(OneServer(redis_client), namespace=name, buckets=1).ensure_ready()
