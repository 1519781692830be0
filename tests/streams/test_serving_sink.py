"""What a served view's sink notices of a store that lost something, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count as counting
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from redis.crc import key_slot

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import ChangedBucketsError, FullStoreError, LostTailError, OnlineStoreError
from featurestore.event_time import Mark
from featurestore.kernel import Events
from featurestore.kernel.keys import group_keys
from featurestore.offline import EventLog, log_schema
from featurestore.online import NO_EVICTION, TOKEN_BYTES, Alias, Aliases, Backfilling, OneServer, OnlineStore, Run
from streams import serving_sink
from streams.bounds import Bounds
from streams.catch_up import catch_up
from streams.serving_sink import ServingSink
from tests.cluster import ValkeyCluster
from tests.evictions import evict

TOPIC = Topic("paid", schema={"user": str, "at": "timestamp"}, event_time="at", partitions=1)
VIEW = FeatureView("by_user", Entity("user", key="user"), TOPIC, features={"n": count()})


class Restarted(OnlineStore):
    """A store whose server says as often as it is told to that it was started anew."""

    starts = 1

    def runs(self) -> list[Run]:
        return [Run(str(self.starts), NO_EVICTION, 0)]


class Told(OnlineStore):
    """A store of which the tests say which run its server has, and what that has evicted."""

    run = Run("first", NO_EVICTION, 0)

    def runs(self) -> list[Run]:
        return [self.run]


class Flushed(OnlineStore):
    """A store that is flushed right after it has said for the so-manyth time where buckets stand."""

    flushed_at = 0

    def marks(self, view_id: str, topic: str) -> dict[int, list[Mark | None]]:
        stood = super().marks(view_id, topic)
        self.flushed_at -= 1
        if self.flushed_at == 0:
            [client] = self._clients()
            client.flushall()
        return stood


def apply(sink: ServingSink, first: int, end: int) -> None:
    offsets = np.arange(first, end)

    def events(chosen: np.ndarray, row: np.ndarray) -> Events:
        return Events(row, offsets[chosen], np.zeros(len(chosen), dtype=np.int32), offsets[chosen], {})

    grouped = group_keys([pa.array(["u"] * len(offsets))])
    sink.apply(grouped, np.zeros(len(offsets), dtype=np.int32), offsets, {0: Mark(end, end)}, events)


def test_rows_that_the_store_took_and_lost_again_before_that_was_learned_are_missed(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = Restarted(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: 1)
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    sink.look()
    saved = {name: redis_client.dump(name) for name in redis_client.scan_iter(f"{store.name('')[:-1].decode()}*")}
    apply(sink, 10, 20)
    work = sink._inner._work
    assert work is not None
    [commit] = work.commits
    # The store has answered, and nobody has looked at the answer.
    commit.result()
    for name, dumped in saved.items():
        redis_client.restore(name, 0, dumped, replace=True)
    store.starts = 2
    with pytest.raises(LostTailError):
        sink.look()
    sink.open(0)
    assert sink.settled(0) == 10


def test_a_worker_that_lives_through_a_flush_writes_down_again_how_many_buckets_there_are(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("serving")
    store, other = (OnlineStore(OneServer(redis_client), namespace=name, buckets=buckets) for buckets in (2, 3))
    store.ensure_ready()
    # Nothing was ever applied, so nothing else is missed.
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 0)}, lambda: 1)
    sink.open(0)
    redis_client.flushall()
    sink.look()
    with pytest.raises(ChangedBucketsError, match=r"buckets is 3, .* in 2"):
        other.ensure_ready()
    # Another one was faster.
    redis_client.flushall()
    other.ensure_ready()
    with pytest.raises(ChangedBucketsError, match=r"buckets is 2, .* in 3"):
        sink.look()


@pytest.mark.parametrize("has_alias", [False, True])
def test_rows_that_were_flushed_right_after_they_were_found_complete_are_not_called_ready(
    has_alias: bool, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = Flushed(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    aliases = Aliases(store)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: 1)
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    if not has_alias:
        redis_client.hdel(store.name("aliases"), VIEW.id)
    # A look asks twice: for what was lost, and for what is complete.
    store.flushed_at = 2
    sink.look()
    assert store.flushed_at == 0
    assert aliases.get(VIEW.id) is None
    with pytest.raises(LostTailError):
        sink.look()
    alias = aliases.get(VIEW.id)
    assert alias is not None
    assert not alias.is_ready


def logged(folder: Path, end: int) -> None:
    """The events of offsets before `end`, as an engine's own log has them."""
    offsets = np.arange(end)
    moments = dict.fromkeys(("offset", "event_us", "effective_us", "arrival_us"), offsets)
    others = {"partition": np.zeros(end, dtype=np.int32), "late_by_us": 0 * offsets, "date": ["1970-01-01"] * end}
    own = {"user": ["u"] * end, "at": pa.array(offsets, pa.timestamp("us", tz="UTC"))}
    EventLog(folder, TOPIC).append(pa.table(moments | others | own, log_schema(TOPIC)), {0: Mark(end, end)})


def is_ready(store: OnlineStore) -> bool:
    alias = Aliases(store).get(VIEW.id)
    return alias is not None and alias.is_ready


def looked_until_sent_back(sink: ServingSink, store: OnlineStore, deadline: float) -> None:
    """The fill ends, and nothing is called ready before."""
    while time.monotonic() < deadline:
        try:
            sink.look()
        except LostTailError:
            return
        assert not is_ready(store)
        time.sleep(0.01)
    raise AssertionError("the fill has no end")


@pytest.mark.parametrize("logged_end", [10, 6])
def test_an_empty_store_is_not_called_ready_where_only_the_log_has_the_events(
    logged_end: int, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    bounds, turn, clock = {0: Bounds(0, 0)}, threading.Lock(), counting(1)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: bounds, lambda: next(clock), turn)
    sink.open(0)
    bounds[0] = Bounds(0, 10)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    logged(tmp_path, logged_end)
    sink.look()
    assert is_ready(store)
    bounds[0] = Bounds(10, 10)
    redis_client.flushall()
    store.ensure_ready()
    # Another view is filled first.
    with turn:
        sink.look()
        assert not is_ready(store)
    deadline = time.monotonic() + 30
    looked_until_sent_back(sink, store, deadline)
    assert is_ready(store) == (logged_end == 10)
    # The engine writes what waits before it opens the partition again.
    logged(tmp_path, 10)
    sink.open(0)
    if logged_end < 10:
        assert sink.settled(0) == logged_end
        assert not is_ready(store)
        # As the engine does it.
        for _ in catch_up(EventLog(tmp_path, TOPIC), TOPIC, [sink], 0, Mark(logged_end, logged_end), Mark(10, 10)):
            assert not is_ready(store)
        sink.heartbeat({0: Mark(10, 10)})
        sink.look()
    assert is_ready(store)
    assert sink.settled(0) == 10


@pytest.mark.parametrize("at_once_max", [3, 100])
def test_rows_that_came_back_older_between_a_fill_and_what_is_read_next_are_not_called_ready(
    at_once_max: int,
    redis_client: redis.Redis,
    unique: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    bounds, clock = {0: Bounds(0, 6)}, counting(1)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: bounds, lambda: next(clock))
    sink.open(0)
    apply(sink, 0, 6)
    sink.heartbeat({0: Mark(6, 6)})
    sink.look()
    assert is_ready(store)
    saved = {name: redis_client.dump(name) for name in redis_client.scan_iter("*")}
    bounds[0] = Bounds(0, 10)
    apply(sink, 6, 10)
    sink.heartbeat({0: Mark(10, 10)})
    logged(tmp_path, 10)
    redis_client.flushall()
    looked_until_sent_back(sink, store, time.monotonic() + 30)
    for name, dumped in saved.items():
        redis_client.restore(name, 0, dumped, replace=True)
    assert is_ready(store)
    monkeypatch.setattr(serving_sink, "AT_ONCE_MAX", at_once_max)
    sink.open(0)
    assert not is_ready(store)
    if at_once_max == 3:
        # However short ago they were filled, so many events are filled again, and not left to the engine.
        looked_until_sent_back(sink, store, time.monotonic() + 30)
        sink.open(0)
    else:
        apply(sink, 6, 10)
        sink.heartbeat({0: Mark(10, 10)})
        sink.look()
        assert is_ready(store)
    assert sink.settled(0) == 10


def test_a_fill_leaves_few_events_to_the_engine_however_many_a_record_has(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    topic = Topic("packed", TOPIC.schema, event_time="at", format="arrow", partitions=1)
    view = FeatureView("by_user", Entity("user", key="user"), topic, features={"n": count()})

    def log(first: int, end: int, events_each: int) -> None:
        number = (end - first) * events_each
        columns = {name: np.zeros(number, dtype=np.int64) for name in log_schema(topic).names}
        columns["offset"] = np.repeat(np.arange(first, end), events_each)
        columns["position"] = np.tile(np.arange(events_each), end - first)
        texts = {"date": ["1970-01-01"] * number, "user": ["u"] * number}
        EventLog(tmp_path, topic).append(pa.table(columns | texts).cast(log_schema(topic)), {0: Mark(end, 0)})

    log(0, 2, 1)
    sink = ServingSink(store, view, EventLog(tmp_path, topic), dict[int, Bounds], lambda: 1)
    grown = [lambda: log(2, 5, 50_000), lambda: log(5, 7, 10)]
    # The log grows while it is filled, by more events than the engine folds at once, then by fewer.
    assert sink._fill(view.id, 0, "", lambda offset: grown.pop(0)() if grown else None) == 5


@pytest.mark.parametrize("came_back_older", [False, True])
def test_rows_that_came_back_older_while_no_worker_was_there_are_not_called_ready_by_the_next(
    came_back_older: bool, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()

    def worker(end: int) -> ServingSink:
        return ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, end)}, lambda: 1)

    first = worker(20)
    first.open(0)
    apply(first, 0, 20)
    first.heartbeat({0: Mark(20, 20)})
    first.look()
    assert is_ready(store)
    before = {name: redis_client.dump(name) for name in redis_client.scan_iter(f"{store.name('')[:-1].decode()}*")}
    # One of the two buckets is touched: the other one lags, as it may.
    apply(first, 20, 30)
    first.finish()
    logged(tmp_path, 30)
    if came_back_older:
        for name, dumped in before.items():
            redis_client.restore(name, 0, dumped, replace=True)

    second = worker(30)
    mark = second.open(0)
    assert mark == Mark(20, 20)
    assert is_ready(store) == (not came_back_older)
    apply(second, 20, 30)
    second.heartbeat({0: Mark(30, 30)})
    second.look()
    assert is_ready(store)


def test_a_loss_is_told_over_what_another_worker_has_seen_before_it(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    aliases, clock = Aliases(store), counting(1)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 20)}, lambda: next(clock))
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    seen = aliases.get(VIEW.id)
    assert seen is not None
    for bucket in range(2):
        redis_client.delete(store._state_key(VIEW.id, bucket))
    with pytest.raises(LostTailError):
        sink.look()
    assert not aliases.point(VIEW.id, seen, Alias(VIEW.id, True, 99))


def test_rows_that_one_node_of_a_cluster_lost_are_missed_while_nothing_comes(tmp_path: Path) -> None:
    cluster = ValkeyCluster(tmp_path / "cluster")
    try:
        store = OnlineStore.at(cluster.url, namespace="part", buckets=16)
        store.ensure_ready()
        clock = counting(1)
        sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: next(clock))
        sink.open(0)
        apply(sink, 0, 10)
        sink.heartbeat({0: Mark(10, 10)})
        sink.look()
        assert is_ready(store)
        holder = cluster.node_of(key_slot(store.name("aliases")))
        next(node for node in cluster.nodes[:3] if node is not holder).client.flushall()
        with pytest.raises(LostTailError):
            sink.look()
        assert not is_ready(store)
    finally:
        cluster.stop()


def test_a_partition_that_the_broker_does_not_list_yet_is_filled_from_the_log(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    logged(tmp_path, 10)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), dict[int, Bounds], lambda: 1)
    sink.open(0)
    looked_until_sent_back(sink, store, time.monotonic() + 30)
    sink.open(0)
    assert sink.settled(0) == 10


@pytest.mark.parametrize(("is_seen_at_work", "is_full"), [(True, False), (False, False), (True, True), (False, True)])
def test_rows_of_a_store_that_evicted_keys_are_not_believed_and_filled_anew(
    is_seen_at_work: bool, is_full: bool, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name, clock = unique("serving"), counting(1)
    store = OnlineStore(OneServer(redis_client), namespace=name, buckets=2)
    store.ensure_ready()

    def sink_of() -> ServingSink:
        return ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: next(clock))

    def row() -> bytes:
        [key] = redis_client.scan_iter(f"{name}:*:row:*")
        return redis_client.get(key)[TOKEN_BYTES:]

    sink = sink_of()
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    logged(tmp_path, 10)
    sink.look()
    assert is_ready(store)
    complete = row()
    [key] = redis_client.scan_iter(f"{name}:*:row:*")
    # Another policy would take this as well, and ids that were in use would come again.
    used = Aliases(store).new_generation(VIEW.id)
    redis_client.delete(store.name("generations"))
    # All watermarks stay.
    evict(redis_client, key, is_full=is_full)
    deadline = time.monotonic() + 30
    if not is_seen_at_work:
        sink = sink_of()
    if is_full:
        # Also where no worker of this release has been there before.
        redis_client.function_flush()

        def fill_where_there_is_no_room() -> None:
            OnlineStore(OneServer(redis_client), namespace=name, buckets=2).ensure_ready()
            sink.look() if is_seen_at_work else sink.open(0)
            looked_until_sent_back(sink, store, deadline)

        try:
            Aliases(store).save_backfill("other", Backfilling("other.g2-0", 0, "abandoned"))
            with pytest.raises(FullStoreError, match="raise that with CONFIG SET"):
                fill_where_there_is_no_room()
            assert not is_ready(store), "rows that it evicted are served"
        finally:
            redis_client.config_set("maxmemory", 0)
        sink = sink_of()
        is_seen_at_work = False
    if not is_seen_at_work:
        sink.open(0)
        assert not is_ready(store)
    looked_until_sent_back(sink, store, deadline)
    sink.open(0)
    assert is_ready(store)
    assert row() == complete
    # Another worker that starts finds nothing wrong with what was filled.
    alias = Aliases(store).get(VIEW.id)
    assert alias is not None
    assert alias.id != used
    sink_of().open(0)
    assert Aliases(store).get(VIEW.id) == alias


@pytest.mark.parametrize(
    "how",
    [
        "unseen before a restart",
        "the store came back older",
        "no worker was let in",
        "what tells where it stands",
        "what tells of it",
    ],
)
def test_rows_that_a_store_kept_of_what_it_evicted_are_not_served_behind_its_next_start(
    how: str, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name, clock = unique("serving"), counting(1)

    def worker() -> tuple[Told, ServingSink]:
        store = Told(OneServer(redis_client), namespace=name, buckets=2)
        log, bounds = EventLog(tmp_path, TOPIC), {0: Bounds(0, 10)}
        return store, ServingSink(store, VIEW, log, lambda: bounds, lambda: next(clock))

    store, sink = worker()
    store.ensure_ready()
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    logged(tmp_path, 10)
    sink.look()
    [key] = redis_client.scan_iter(f"{name}:*:row:*")
    complete = redis_client.get(key)[TOKEN_BYTES:]
    if how == "unseen before a restart":
        store.run = Run("first", "allkeys-lru", 0)
        sink.look()
        redis_client.delete(key)
    elif how == "the store came back older":
        redis_client.delete(key)
        saved = {each: redis_client.dump(each) for each in redis_client.scan_iter(f"{name}:*")}
        store.run = Run("first", NO_EVICTION, 1)
        with suppress(LostTailError):
            sink.look()
        redis_client.delete(*redis_client.scan_iter(f"{name}:*"))
        for each, dumped in saved.items():
            redis_client.restore(each, 0, dumped)
        assert is_ready(store)
    elif how in ("no worker was let in", "what tells of it"):
        store, sink = worker()
        store.run = Run("first", "allkeys-lru", 0)
        with pytest.raises(OnlineStoreError, match="noeviction"):
            store.ensure_ready()
        redis_client.delete(key)
        if how == "what tells of it":
            redis_client.delete(store.name("aliases"))
        store, sink = worker()
    else:
        redis_client.delete(key.partition(b":row:")[0] + b":state")
        store, sink = worker()
    store.run = Run("second", NO_EVICTION, 0)
    deadline = time.monotonic() + 30
    if how not in ("unseen before a restart", "the store came back older"):
        sink.open(0)
    while not is_ready(store) or Aliases(store).id_of(VIEW.id) == VIEW.id:
        assert time.monotonic() < deadline, "rows of before are served"
        try:
            sink.look()
        except LostTailError:
            sink.open(0)
        time.sleep(0.01)
    [served] = Aliases(store).read([(VIEW.id, [key.partition(b":row:")[2]])])
    assert served.payloads == [complete]
    until(lambda: store.noted() == [served.id])
    assert not store.marks(VIEW.id, TOPIC.name)


def test_a_server_that_counts_evictions_from_zero_again_is_found_out_behind_that_as_well(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name, clock = unique("serving"), counting(1)

    def worker(evicted: int) -> tuple[Told, ServingSink]:
        store = Told(OneServer(redis_client), namespace=name, buckets=2)
        store.run = Run("first", NO_EVICTION, evicted)
        return store, ServingSink(
            store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 0)}, lambda: next(clock)
        )

    store, sink = worker(5)
    store.ensure_ready()
    sink.open(0)
    # CONFIG RESETSTAT, seen by one that lives and by one that comes: no key has gone.
    store.run = Run("first", NO_EVICTION, 0)
    sink.look()
    worker(0)[1].open(0)
    sink.look()
    assert Aliases(store).id_of(VIEW.id) == VIEW.id
    worker(4)[1].open(0)
    assert Aliases(store).id_of(VIEW.id) != VIEW.id


class Overtaken(Told):
    """A store of which another worker sees more than this one, right before this one's next generation is made."""

    overtakes: Callable[[], None] | None = None

    def keep(self, command: str, name: bytes, *arguments: object) -> object:
        if command == "HINCRBY" and (overtakes := self.overtakes) is not None:
            self.overtakes = None
            overtakes()
        return super().keep(command, name, *arguments)


def test_who_learns_late_of_evictions_goes_on_with_the_rows_that_another_one_began_behind_them(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name, clock = unique("serving"), counting(1)
    stores = [kind(OneServer(redis_client), namespace=name, buckets=2) for kind in (Overtaken, Told)]
    late, other = stores
    late.ensure_ready()
    log, bounds = EventLog(tmp_path, TOPIC), {0: Bounds(0, 0)}
    sinks = [ServingSink(store, VIEW, log, lambda: bounds, lambda: next(clock)) for store in stores]
    for sink in sinks:
        sink.open(0)

    def overtakes() -> None:
        late.run = other.run = Run("first", NO_EVICTION, 2)
        with suppress(LostTailError):
            sinks[1].look()

    assert isinstance(late, Overtaken)
    late.overtakes = overtakes
    late.run = Run("first", NO_EVICTION, 1)
    with suppress(LostTailError):
        sinks[0].look()
    begun = Aliases(other).id_of(VIEW.id)
    assert begun.startswith(f"{VIEW.id}.g2-")
    for sink in sinks:
        with suppress(LostTailError):
            sink.look()
    assert Aliases(other).id_of(VIEW.id) == begun
    # Nothing stays of what was not begun, nor of what was served before.
    until(lambda: other.noted() == [begun])


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Killed(Told):
    """A store whose worker drops nothing any more."""

    def drop(self, view_id: str, at_once: int = 1_000, may: Callable[[], bool] = lambda: True) -> int:
        assert threading.current_thread() is not threading.main_thread()
        raise OnlineStoreError("killed")


def test_all_views_are_told_of_evictions_before_any_row_is_dropped_and_the_next_worker_drops_them(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name, clock = unique("serving"), counting(1)
    log, bounds = EventLog(tmp_path, TOPIC), {0: Bounds(0, 10)}
    views = [VIEW, FeatureView("also_by_user", VIEW.entity, TOPIC, features={"n": count()})]

    def sinks_of(store: OnlineStore) -> list[ServingSink]:
        return [ServingSink(store, view, log, lambda: bounds, lambda: next(clock)) for view in views]

    store = Killed(OneServer(redis_client), namespace=name, buckets=2)
    store.ensure_ready()
    sinks, aliases = sinks_of(store), Aliases(store)
    for sink in sinks:
        sink.open(0)
        apply(sink, 0, 10)
        sink.heartbeat({0: Mark(10, 10)})
    store.run = Run("first", NO_EVICTION, 1)
    for sink in sinks:
        with pytest.raises(LostTailError):
            sink.look()
    assert not {view.id for view in views} & {aliases.id_of(view.id) for view in views}
    assert [store.rows(view.id) for view in views] == [1, 1]
    later = Told(OneServer(redis_client), namespace=name, buckets=2)
    later.run = store.run
    for sink in sinks_of(later):
        sink.open(0)
    until(lambda: not any(store.rows(view.id) for view in views))
    until(lambda: sorted(store.noted()) == sorted(aliases.id_of(view.id) for view in views))


def test_rows_without_their_watermarks_are_left_for_others_also_where_events_come_live(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    sinks = [ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), dict[int, Bounds], lambda: 1) for _ in range(2)]
    sinks[0].open(0)
    apply(sinks[0], 0, 10)
    sinks[0].finish()
    redis_client.delete(*redis_client.scan_iter(f"{store.name('')[:-1].decode()}:*:state"))
    # Nothing is in the log yet.
    sinks[1].open(0)
    with pytest.raises(LostTailError):
        apply(sinks[1], 0, 10)
    assert sinks[1].open(0) is None
    apply(sinks[1], 0, 10)
    sinks[1].finish()
    assert sinks[1].settled(0) == 0
    assert Aliases(store).id_of(VIEW.id) != VIEW.id


def test_who_starts_while_a_flushed_store_is_filled_does_not_give_up_what_is_there(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = Told(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.run = Run("first", NO_EVICTION, 3)
    store.ensure_ready()
    clock = counting(1)
    # One that lives, and one that comes.
    sinks = [
        ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 20)}, lambda: next(clock))
        for _ in range(2)
    ]
    logged(tmp_path, 10)
    sinks[0].open(0)
    looked_until_sent_back(sinks[0], store, time.monotonic() + 30)
    sinks[0].open(0)
    redis_client.flushall()
    store.ensure_ready()
    looked_until_sent_back(sinks[0], store, time.monotonic() + 30)
    sinks[0].open(0)
    sinks[1].open(0)
    assert Aliases(store).id_of(VIEW.id) == VIEW.id
