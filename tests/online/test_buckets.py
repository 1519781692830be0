"""How many buckets a project has, and in which logs its events are, is written into the store once, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from featurestore.errors import ChangedBucketsError, OtherLogError
from featurestore.online import Alias, Aliases, OneServer, OnlineStore
from tests.cluster import ValkeyCluster

VIEW = "view@1"
Make = Callable[[int], OnlineStore]


@pytest.fixture(params=["one server", "a cluster"])
def store_of(
    request: pytest.FixtureRequest, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> Iterator[Make]:
    """Stores of one project with so many buckets."""
    name = unique("buckets")
    if request.param == "one server":
        yield lambda buckets: OnlineStore(OneServer(redis_client), namespace=name, buckets=buckets)
        return
    cluster = ValkeyCluster(tmp_path / "cluster")
    yield lambda buckets: OnlineStore.at(cluster.url, namespace=name, buckets=buckets)
    cluster.stop()


def test_another_number_of_buckets_is_refused_to_who_writes_and_to_who_reads(store_of: Make) -> None:
    # Nothing is there to be missed, and readers write nothing down.
    Aliases(store_of(5)).read([(VIEW, [b"k"])])
    store_of(8).ensure_ready()
    store_of(8).ensure_ready()
    Aliases(store_of(8)).read([(VIEW, [b"k"])])
    other = store_of(4)
    asks = (other.ensure_ready, lambda: other.marks(VIEW, "t"), lambda: Aliases(other).read([(VIEW, [b"k"])]))
    for ask in asks:
        with pytest.raises(ChangedBucketsError, match=r"buckets is 4, .* 'buckets-.*' in 8; set buckets back to 8"):
            ask()


def test_aliases_are_read_beside_the_number_of_buckets(store_of: Make) -> None:
    store = store_of(8)
    store.ensure_ready()
    aliases = Aliases(store)
    assert aliases.point(VIEW, None, Alias(VIEW, True, 7))
    assert [served.is_ready for served in aliases.read([("other@1", [b"k"]), (VIEW, [b"k"])])] == [False, True]


def test_a_reader_that_was_there_before_the_store_was_emptied_sees_that_rows_lie_elsewhere_now(store_of: Make) -> None:
    store = store_of(8)
    store.ensure_ready()
    reader = Aliases(store_of(8))
    reader.read([(VIEW, [b"k"])])
    for client in store._clients():
        client.flushall()
    store_of(4).ensure_ready()
    with pytest.raises(ChangedBucketsError):
        reader.read([(VIEW, [b"k"])])


def test_workers_of_one_project_have_one_log_a_topic(store_of: Make) -> None:
    worker, other = store_of(8), store_of(8)
    worker.ensure_ready()
    worker.share_logs({"paid": "log-1", "sent": "log-2"})
    with pytest.raises(OtherLogError, match=r"topic 'paid' in .* log-1, .* is log-3: .* share one offline_path"):
        other.share_logs({"paid": "log-3"})
    # A topic that a view reads since now.
    other.share_logs({"sent": "log-2", "seen": "log-4"})
    for log in ("log-3", ""):
        with pytest.raises(OtherLogError):
            store_of(8).refuse_other_log("paid", log)
    store_of(8).refuse_other_log("paid", "log-1")
    store_of(8).refuse_other_log("of nobody", "log-9")
    for client in worker._clients():
        client.flushall()
    # Workers that live write it down again, before another one begins.
    worker.claim()
    with pytest.raises(OtherLogError):
        other.share_logs({"paid": "log-3"})
    assert (other.forget_log("paid"), other.forget_log("paid")) == ("log-1", None)
    store_of(8).share_logs({"paid": "log-3", "sent": "log-2"})
    # Nobody may write the log of before any more.
    with pytest.raises(OtherLogError, match=r"log-3, .* is log-1"):
        worker.claim()
