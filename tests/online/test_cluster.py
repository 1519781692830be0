"""The store on a cluster answers as it does on one server, also while slots are on their way between nodes."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from redis.crc import key_slot

from featurestore.errors import OnlineStoreError
from featurestore.event_time import Mark
from featurestore.kernel import Pieces
from featurestore.kernel.keys import bucket_of
from featurestore.online import Alias, Aliases, Applied, Commit, Duplicate, Move, OnlineStore
from tests.campaign.servers import Valkey
from tests.cluster import ValkeyCluster

VIEW, PLACE, BUCKETS = "view@1", "topic/0", 16
KEYS = [b"k%d" % number for number in range(400)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    made = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture
def name(unique: Callable[[str], str]) -> str:
    return unique("cluster")


@pytest.fixture
def store(cluster: ValkeyCluster, name: str) -> OnlineStore:
    made = OnlineStore.at(cluster.url, namespace=name, buckets=BUCKETS)
    made.ensure_ready()
    return made


def put(store: OnlineStore, expected: int | None, end: int, keys: list[bytes] = KEYS) -> list[object]:
    """Commit a row of `end` for each key; every bucket moves on."""
    read = store.read(VIEW, keys)
    moves = [(Move(PLACE, expected, Mark(end, end)),)] * len(read.buckets)
    rows = Pieces.of([b"%b at %d" % (key, end) for key in read.keys])
    return list(store.commit(VIEW, Commit.onto(read, rows, moves, 60_000)))


def served(store: OnlineStore, keys: list[bytes] = KEYS) -> list[bytes | None]:
    return store.payloads([(VIEW, keys)])[0]


def served_in_time(store: OnlineStore, wanted: list[bytes]) -> bool:
    """Whether it serves these rows before long."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OnlineStoreError):
            if served(store) == wanted:
                return True
    return False


def has_copied(replica: Valkey, primary: Valkey) -> bool:
    """Whether it has everything. WAIT counts one that is still being sent the copy, where the client wrote nothing."""
    told = replica.client.info("replication")
    end = primary.client.info("replication")["master_repl_offset"]
    return told["master_link_status"] == "up" and told["slave_repl_offset"] >= end


def slot_of(name: str, bucket: int) -> int:
    return int(key_slot(f"{name}:{{b{bucket}}}".encode()))


def test_rows_lie_on_all_nodes_and_are_read_in_the_order_asked(
    cluster: ValkeyCluster, store: OnlineStore, name: str
) -> None:
    assert set(map(type, put(store, None, 5))) == {Applied}
    assert len({cluster.node_of(slot_of(name, bucket)).port for bucket in range(BUCKETS)}) == 3
    assert served(store) == [b"%b at 5" % key for key in KEYS]
    assert served(store, [b"none", *KEYS[:3], b"nobody"]) == [None, b"k0 at 5", b"k1 at 5", b"k2 at 5", None]
    assert store.marks(VIEW, "topic") == {0: [Mark(5, 5)] * BUCKETS}
    assert store.newest_us(VIEW, "topic", KEYS[:9]) == [5] * 9
    assert store.rows(VIEW) == len(KEYS)
    # A second one with the same events does nothing.
    assert put(store, None, 5) == [Duplicate(Mark(5, 5))] * BUCKETS
    assert store.drop(VIEW) == len(KEYS) + BUCKETS
    assert served(store) == [None] * len(KEYS)


def test_an_alias_and_what_lies_beside_the_rows(store: OnlineStore) -> None:
    put(store, None, 5)
    aliases = Aliases(store)
    assert aliases.point(VIEW, None, Alias(VIEW, True, 7))
    assert not aliases.point(VIEW, None, Alias(VIEW, False, 8))
    [read] = aliases.read([(VIEW, KEYS[:2])])
    assert (read.id, read.is_ready, read.payloads) == (VIEW, True, [b"k0 at 5", b"k1 at 5"])
    assert aliases.new_generation(VIEW).startswith(f"{VIEW}.g2-")


@pytest.mark.parametrize("carried", [1, 10, 10_000])
def test_a_slot_on_its_way_is_read_and_written(
    carried: int, cluster: ValkeyCluster, store: OnlineStore, name: str
) -> None:
    put(store, None, 5)
    moving = [slot_of(name, bucket) for bucket in range(0, BUCKETS, 3)]
    for slot in moving:
        cluster.begin_move(slot)
        cluster.carry(slot, carried)
    # Half of the keys here and half there: only time helps.
    done = threading.Timer(0.5, lambda: [cluster.end_move(slot) for slot in moving])
    done.start()
    new = [b"new%d" % number for number in range(50)]
    assert put(store, 5, 9, [*KEYS, *new]) == [Applied()] * BUCKETS
    done.join()
    assert served(store, [*KEYS, *new]) == [b"%b at 9" % key for key in [*KEYS, *new]]
    # Who knew the old places finds the new ones; who comes now as well.
    later = OnlineStore.at(cluster.url, namespace=name, buckets=BUCKETS)
    assert put(later, 9, 12) == [Applied()] * BUCKETS
    assert served(store) == served(later) == [b"%b at 12" % key for key in KEYS]


@pytest.mark.parametrize("to_spare", [False, True])
def test_what_has_been_carried_over_is_asked_for_at_its_new_node(
    to_spare: bool, cluster: ValkeyCluster, store: OnlineStore, name: str
) -> None:
    """No end is coming, so waiting for it would end in an error."""
    put(store, None, 5)
    hurried = OnlineStore.at(cluster.url, namespace=name, buckets=BUCKETS, answer_s=1.0)
    bucket = bucket_of(KEYS[0], BUCKETS)
    slot = slot_of(name, bucket)
    mine = [key for key in KEYS if bucket_of(key, BUCKETS) == bucket]
    others = [key for number in range(200) if bucket_of(key := b"none%d" % number, BUCKETS) == bucket]
    cluster.begin_move(slot, to_spare=to_spare)
    # Some are here, some there, and some nowhere.
    cluster.carry(slot, len(mine) // 2)
    for _ in range(3):
        assert served(hurried, mine + others) == [b"%b at 5" % key for key in mine] + [None] * len(others)
    while cluster.carry(slot, 100):
        pass
    # The new node may not know our functions.
    cluster.spare.client.function_flush()
    assert served(store, mine + others) == [b"%b at 5" % key for key in mine] + [None] * len(others)
    assert put(store, 5, 9, mine) == [Applied()]
    assert served(store, mine) == [b"%b at 9" % key for key in mine]
    cluster.end_move(slot)
    assert served(hurried, mine) == served(store, mine) == [b"%b at 9" % key for key in mine]
    if to_spare:
        # As it was, for the other tests.
        cluster.begin_move(slot)
        cluster.end_move(slot)
        assert put(store, 9, 12, mine) == [Applied()]


def test_functions_that_went_are_loaded_again_on_every_node(cluster: ValkeyCluster, store: OnlineStore) -> None:
    put(store, None, 5)
    for node in cluster.nodes:
        node.client.function_flush()
    assert put(store, 5, 9) == [Applied()] * BUCKETS


def test_a_node_that_comes_back_is_gone_on_with(cluster: ValkeyCluster, store: OnlineStore) -> None:
    put(store, None, 5)
    time.sleep(1.1)  # the log of a node is on its disk after a second
    before = [run.id for run in store.runs()]
    cluster.nodes[1].kill()
    # The node is started from here, since a child ends with the thread that made it.
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(put, store, 5, 9)
        time.sleep(0.5)
        cluster.nodes[1].start()
        assert done.result() == [Applied()] * BUCKETS
    assert served(store) == [b"%b at 9" % key for key in KEYS]
    assert [run.id for run in store.runs()] != before


def test_a_node_that_says_nothing_ends_a_lookup_in_time(cluster: ValkeyCluster, name: str) -> None:
    store = OnlineStore.at(cluster.url, namespace=name, buckets=BUCKETS, answer_s=0.3)
    store.ensure_ready()
    assert served(store) == [None] * len(KEYS)
    cluster.nodes[2].signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(OnlineStoreError, match="does not answer"):
            served(store)
        assert time.monotonic() - began < 5
    finally:
        cluster.nodes[2].signal(signal.SIGCONT)
    assert served(store) == [None] * len(KEYS)


def test_a_replica_that_takes_over_is_found_by_who_is_in_a_hurry(tmp_path: Path, name: str) -> None:
    # A machine that goes silent closes no connections.
    cluster = ValkeyCluster(tmp_path, "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
    try:
        replica, primary = cluster.spare, cluster.nodes[0]
        replica.client.execute_command(
            "CLUSTER", "REPLICATE", primary.client.execute_command("CLUSTER", "MYID").decode()
        )
        hurried = OnlineStore.at(cluster.url, namespace=name, buckets=BUCKETS, answer_s=0.5)
        hurried.ensure_ready()
        put(hurried, None, 5)
        # One that has not copied everything yet would take over without it.
        deadline = time.monotonic() + 60
        while not has_copied(replica, primary):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        wanted = [b"%b at 5" % key for key in KEYS]
        assert served(hurried) == wanted
        primary.signal(signal.SIGSTOP)
        assert served_in_time(hurried, wanted)
        assert put(hurried, 5, 9) == [Applied()] * BUCKETS
        # All are silent for a while, and the only one that the URL names is gone for good.
        for node in cluster.nodes[1:]:
            node.signal(signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(OnlineStoreError, match="does not answer"):
                served(hurried)
        for node in cluster.nodes[1:]:
            node.signal(signal.SIGCONT)
        wanted = [b"%b at 9" % key for key in KEYS]
        assert served_in_time(hurried, wanted)
        # Whoever is new needs one of those that are left.
        url = f"{cluster.url[:-2]},127.0.0.1:{replica.port}/0"
        other = OnlineStore.at(url, namespace=name, buckets=BUCKETS, answer_s=0.5)
        assert served_in_time(other, wanted)
    finally:
        cluster.stop()


@pytest.mark.parametrize("path", ["/0", "/3"])
def test_no_cluster_is_told_in_one_kind_of_error_and_to_many_at_once(path: str, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis+cluster://127.0.0.1:{silent.getsockname()[1]}{path}"
        store = OnlineStore.at(url, namespace=name, buckets=BUCKETS, answer_s=0.3)
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            for asked in [pool.submit(served, store) for _ in range(20)]:
                with pytest.raises(OnlineStoreError, match="does not answer"):
                    asked.result()
        # Not one after the other.
        assert time.monotonic() - began < 5
        with pytest.raises(OnlineStoreError, match="does not answer"):
            store.ping()


def test_a_plain_address_of_a_node_is_told_what_it_is(cluster: ValkeyCluster, name: str) -> None:
    store = OnlineStore.at(cluster.nodes[0].url, namespace=name, buckets=BUCKETS)
    with pytest.raises(OnlineStoreError, match=r"a node of a cluster: say redis\+cluster:// in redis_url"):
        served(store)
