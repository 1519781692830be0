"""Rows 10 to 20: the online store killed, cut, emptied, failed over, full, slow, and split."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import redis
from redis.crc import key_slot

from featurestore.errors import LocalServerError
from tests.campaign import payments
from tests.campaign.answers import UNSEEN_S, check_present
from tests.campaign.client import Reader
from tests.campaign.http import Http
from tests.campaign.proxy import Proxy
from tests.campaign.supervisor import Supervised
from tests.campaign.verdict import FailedError, expect, row
from tests.campaign.world import World
from tests.cluster import ValkeyCluster

_LIMIT_S = 60.0


def _filled(world: World, count: int = 3_000) -> Supervised:
    """A worker that has applied some payments, and told so."""
    worker = world.worker()
    world.until_reading(worker)
    world.send(count)
    world.until_applied(_LIMIT_S)
    world.until_told(world.expected())
    return worker


def _held(world: World) -> dict[str, int]:
    """User -> events that are in, while the stream stands still."""
    expected = world.expected()
    return {name: len(events) for name, events in expected.entities(expected.contract.views[0]).items()}


def _judged(
    world: World, reader: Reader, held: dict[str, int], back_us: Sequence[int] = (), *, is_told: bool = True
) -> str:
    # Only how long a worker takes to start is the machine's.
    unseen_s = UNSEEN_S * world.patience
    return check_present(reader.answers, world.expected(), held, back_us=back_us, unseen_s=unseen_s, is_told=is_told)


def _cut_tail(world: World, worker: Supervised, left_of: Callable[[int], int], *, is_seen: bool) -> tuple[int, int]:
    """Kill the store and start it again with less of its log.

    left_of  how many bytes are left of so many
    is_seen  the worker finds the store down, and ends; or it is stopped meanwhile, and goes on as if nothing had been

    Returns when it was back, and by how many records its marks are behind; raises FailedError where none is.
    """
    last = world.valkey.log_files()[-1]
    if not is_seen:
        worker.freeze()
    before = world.sinks.look().online
    world.valkey.kill()
    left = left_of(last.stat().st_size)
    with last.open("r+b") as file:
        file.truncate(left)
    time.sleep(1.0)
    # Who writes may not bring the marks up to where they were before they are looked at.
    worker.freeze()
    back_us = payments.now_us()
    world.valkey.start()
    after = world.sinks.look().online
    worker.thaw()
    lost = sum(max(end - after[place].get(p, 0), 0) for place, ends in before.items() for p, end in ends.items())
    expect(lost > 0, "every mark of the store stands where it was, or further: no tail was lost, nothing was tried")
    return back_us, lost


@row(10, "Redis kill -9", "under load; its AOF as it was a second before, back after 1 s; twice", "seeks back, exact")
def killed(world: World) -> str:
    """SIGKILL leaves what the server wrote in the page cache: what `everysec` may lose with the machine is cut off.

    A worker that finds the store down ends. Who starts then cannot know that rows were PRESENT which are gone.
    """
    world.define()
    worker = _filled(world, 1_000)
    held, backs_us, lost = _held(world), list[int](), list[int]()
    steady = world.send_steadily(1_500)
    with world.reader() as reader:
        for _ in range(2):
            before = world.sinks.online_ends()
            world.until(lambda: world.sinks.online_ends() != before, 60, "rows move")  # noqa: B023
            time.sleep(world.draw.uniform(0.0, 1.5))
            flushed = world.valkey.log_files()[-1].stat().st_size
            time.sleep(1.0)
            back_us, records = _cut_tail(world, worker, lambda size: min(flushed, size), is_seen=True)  # noqa: B023
            backs_us.append(back_us)
            lost.append(records)
        time.sleep(2)
        steady.stop()
        world.until_applied(_LIMIT_S)
        seen = world.check()
    judged = _judged(world, reader, held, backs_us, is_told=False)
    return f"marks of all buckets back by {lost} records; {judged}; {seen}"


@row(11, "Redis loses its tail", "killed, AOF cut by random bytes, started again, under load", "seen; replay exact")
def lost_tail(world: World) -> str:
    world.define()
    worker = _filled(world)
    held = _held(world)
    steady = world.send_steadily(1_500)
    share = world.draw.uniform(0.02, 0.5)
    with world.reader() as reader:
        time.sleep(2)
        back_us, lost = _cut_tail(world, worker, lambda size: int(size * (1 - share)), is_seen=False)
        time.sleep(3)
        steady.stop()
        world.until_applied(_LIMIT_S)
        seen = world.check()
    judged = _judged(world, reader, held, [back_us])
    return f"{share:.0%} of the log cut, marks of all buckets back by {lost} records; {judged}; {seen}"


def _forget_topic(world: World) -> None:
    """Kafka drops everything up to where all sinks stand: what is rebuilt then can come from Delta alone."""
    from confluent_kafka import TopicPartition

    standing = world.sinks.look()
    places = [TopicPartition(world.topic, p, standing.lowest(p)) for p in range(world.partitions)]
    for done in world.admin.delete_records(places).values():
        done.result(20.0)


@row(
    12, "Redis AOF corrupted", "bytes of a frame's head flipped; topic truncated", "refuses to load; rebuilt from Delta"
)
def corrupted(world: World) -> str:
    world.define()
    _filled(world)
    _forget_topic(world)
    world.valkey.kill()
    file = world.valkey.log_files()[-1]
    content = bytearray(file.read_bytes())
    # The head of a command somewhere in the first half: what follows it cannot be read any more.
    place = content.index(b"\r\n*", world.draw.randrange(len(content) // 2)) + 2
    content[place] ^= 0xFF
    file.write_bytes(content)
    held = _held(world)
    with world.reader() as reader:
        try:
            world.valkey.start()
        except LocalServerError:
            shutil.rmtree(file.parent)
            world.valkey.start()
        else:
            raise FailedError("the server loaded the corrupted file")
        world.send(500)
        world.until_applied(_LIMIT_S)
        seen = world.check()
    return f"the server refused its file; {_judged(world, reader, held)}; {seen}"


@row(13, "Redis FLUSHALL", "FLUSHALL while reads go on; topic truncated", "rebuilt from Delta, `stale` until then")
def flushed(world: World) -> str:
    world.define()
    _filled(world, 4_000)
    _forget_topic(world)
    held = _held(world)
    with world.reader() as reader:
        # Some before it, or nobody knows that they were PRESENT.
        world.until(lambda: reader.reads > 0, 10, "a lookup is answered")
        world.valkey.client.flushall()
        world.send(200)
        world.until_applied(_LIMIT_S)
        seen = world.check()
    return f"{_judged(world, reader, held)}; {seen}"


def _behind_proxy(world: World, **settings: object) -> Proxy:
    proxy = Proxy(world.valkey.port, world.draw)
    world.on_stop(proxy.stop)
    world.define(redis_url=f"redis://127.0.0.1:{proxy.port}/0", **settings)
    return proxy


@row(14, "failover to a lagging replica", "replica SIGSTOPped, writes go on, primary killed, promoted", "seen; exact")
def failover(world: World) -> str:
    proxy = _behind_proxy(world)
    primary, replica = world.valkey, world.new_valkey()
    link = Proxy(primary.port, world.draw)
    world.on_stop(link.stop)
    replica.client.replicaof("127.0.0.1", str(link.port))
    world.until(lambda: replica.client.info()["master_link_status"] == "up", 20, "the replica is linked")
    _filled(world)
    # What lies in its sockets when it goes on would still be taken.
    link.deaf = True
    replica.signal(signal.SIGSTOP)
    world.send(2_000)
    world.until_applied(_LIMIT_S)
    held = _held(world)
    with world.reader() as reader:
        primary.kill()
        replica.signal(signal.SIGCONT)
        replica.client.replicaof("NO", "ONE")
        back_us = payments.now_us()
        proxy.upstream_port = replica.port
        proxy.cut()
        world.look_at(replica)
        behind = sum(world.sinks.look().log.values()) - sum(world.sinks.online_ends().values())
        world.send(500)
        world.until_applied(_LIMIT_S)
        seen = world.check()
    seen = f"the replica lacked {behind} records; {_judged(world, reader, held, [back_us])}; {seen}"
    expect(behind > 0, f"nothing was lost, so nothing was tried: {seen}")
    return seen


@row(15, "split brain", "replica cut off and promoted; the old primary still written", "min-replicas stops it; exact")
def split_brain(world: World) -> str:
    world.define(partitions=4)
    old, link = world.valkey, Proxy(world.valkey.port, world.draw)
    world.on_stop(link.stop)
    new = world.new_valkey()
    new.client.replicaof("127.0.0.1", str(link.port))
    world.until(lambda: new.client.info()["master_link_status"] == "up", 20, "the replica is linked")
    old.client.config_set("min-replicas-to-write", 1)
    old.client.config_set("min-replicas-max-lag", 2)
    world.until(lambda: old.client.info()["min_slaves_good_slaves"] == 1, 20, "the replica counts")
    stays = world.worker("stays")
    world.until_reading(stays)
    steady = world.send_steadily(1_000)
    time.sleep(2)
    link.deaf = True
    new.client.replicaof("NO", "ONE")
    moved = world.worker("moved", redis_url=new.url)
    world.until_reading(moved)
    refused_s = world.until(lambda: "NOREPLICAS" in stays.said(), 40, "the old primary refuses writes")
    stays.stop()
    world.look_at(new)
    time.sleep(2)
    steady.stop()
    world.until_applied(_LIMIT_S)
    return f"old primary refused writes {refused_s:.0f} s after the new worker came; {world.check()}"


@row(
    16,
    "Redis out of memory",
    "maxmemory just above what it uses, for 6 s and the next worker, under load",
    "no partial batch while it refuses; goes on after",
)
def out_of_memory(world: World) -> str:
    world.define()
    worker = _filled(world, 1_000)
    held = _held(world)
    with world.reader() as reader:
        # A little is left, so that it is the middle of a batch that is refused.
        used = world.valkey.client.info()["used_memory"]
        world.valkey.client.config_set("maxmemory", used + world.draw.randrange(20_000, 120_000))
        steady = world.send_steadily(1_000)
        time.sleep(6)
        steady.stop()
        worker.hold()
        refused, ended = _refused(world, "OOM"), worker.restarts
        expect(refused > 0, "the store refused nothing for lack of memory: nothing was tried")
        standing, rows = world.check_standing()
        behind = sum(end - standing.lowest(partition) for partition, end in world.expected_ends().items())
        expect(behind > 0, "all was applied: nothing was refused that a batch needs")
        apart = sum(len({ends.get(p, 0) for ends in standing.online.values()}) > 1 for p in range(world.partitions))
        worker.resume()
        world.until(lambda: _refused(world, "OOM") > refused, 60, "the next worker is refused as well")
        world.valkey.client.config_set("maxmemory", 0)
        world.until_applied(_LIMIT_S)
        whole = world.check()
    reader.check_forward()
    expect(not reader.errors, f"{len(reader.errors)} lookups failed: {reader.errors[:1]}")
    expect(set(worker.codes) == {1}, f"the worker ended with {worker.codes}, must be 1 each time")
    seen = f"the worker ended {ended}x in 6 s; {rows} rows true to their marks, {behind:,} records behind"
    seen = f"{seen}, buckets apart in {apart} of {world.partitions} partitions"
    seen = f"{seen}; {_refused(world, 'OOM')} calls refused for lack of memory"
    return f"{seen}; {_judged(world, reader, held, is_told=False)}; {whole}"


def _refused(world: World, why: str) -> int:
    """How many calls the store has refused since it was started."""
    return int(world.valkey.client.info("errorstats").get(f"errorstat_{why}", {"count": 0})["count"])


@row(
    17,
    "wrong eviction policy",
    "maxmemory-policy allkeys-lru at a start, and for 3 s under a worker whose store is full, as it stays 3 s more",
    "refuses to start; STALE until all is filled anew",
)
def eviction(world: World) -> str:
    world.define()
    client = world.valkey.client
    client.config_set("maxmemory-policy", "allkeys-lru")
    worker = world.worker(restarting=False)
    code = worker.wait(_LIMIT_S * world.patience)
    said = worker.said().strip().splitlines()
    expect(code not in (None, 0) and "noeviction" in worker.said(), f"exit code {code}, said {said[-1:]}")
    client.config_set("maxmemory-policy", "noeviction")
    _filled(world, 1_000)
    held = _held(world)
    with world.reader() as reader:
        begun_us, used = payments.now_us(), client.info()["used_memory"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", used - world.draw.randrange(20_000, 100_000))
        world.send(100)
        world.until(lambda: client.info()["evicted_keys"] > 0, 20, "the store evicts keys")
        time.sleep(3)
        client.config_set("maxmemory-policy", "noeviction")
        time.sleep(3)
        evicted = client.info()["evicted_keys"]
        client.config_set("maxmemory", 0)
        world.until_applied(_LIMIT_S)
        world.until_told(world.expected())
        whole = world.check()
    judged = _judged(world, reader, held, [begun_us])
    return f"exit code {code}: {said[-1]}; then {evicted} keys evicted; {judged}; set right: {whole}"


# Others are told BUSY once it has run for so long; before that they wait.
_BUSY_MS = 1_000


@row(
    18,
    "Redis slow or blocked",
    "CLIENT PAUSE 8 s, a half-open connection 8 s, a script that loops for 8 s, under lookups",
    "answers <= 5 s, 200 or 503; nothing lost",
)
def blocked(world: World) -> str:
    proxy = _behind_proxy(world)
    worker = _filled(world, 1_000)
    http = Http(world, world.settings.redis_url)
    # The first lookup of a server loads what it computes with, which takes seconds on a busy machine.
    status, body = http.features("by_user", {"user": ["u1"]})
    expect(status == 200, f"HTTP {status} before any fault: {body[:200]!r}")
    steady = world.send_steadily(300)
    paused = http.probe(lambda: world.valkey.client.client_pause(8_000), 8.0)

    def deafen() -> None:
        proxy.deaf = True

    deaf = http.probe(deafen, 8.0)
    proxy.deaf = False
    proxy.cut()
    # Or it is still on its way out of the last one.
    world.until_applied(_LIMIT_S)
    ended = worker.restarts
    world.valkey.client.config_set("busy-reply-threshold", _BUSY_MS)
    looping = threading.Thread(target=_loop, args=(world,), daemon=True)
    busy = http.probe(looping.start, 8.0)
    world.valkey.client.script_kill()
    looping.join()
    time.sleep(1)
    steady.stop()
    world.until_applied(_LIMIT_S)
    probes = {"paused": paused, "half-open": deaf, "in a script": busy}
    seen = "; ".join(f"{what}: {probe}" for what, probe in probes.items())
    codes = worker.codes[ended:]
    seen = f"{seen}, the worker ended over it with {codes}; {world.check()}"
    expect("BUSY" in worker.said(), f"the worker was not told that the store is busy: {seen}")
    expect(set(codes) == {1}, f"a worker that is told so must end with 1: {seen}")
    expect(max(probe.slowest_s for probe in probes.values()) <= 5.0, f"an answer took too long: {seen}")
    expect(not any(probe.strange for probe in probes.values()), f"an answer was neither 200 nor 503: {seen}")
    return seen


def _loop(world: World) -> None:
    # Until it is killed: how long a script has run by its own clock depends on who else wants the processor.
    with suppress(redis.ResponseError):
        world.valkey.client.eval("while true do end", 0)


@row(19, "FUNCTION FLUSH", "twice, under load", "loaded again, nothing lost, no restart")
def functions_gone(world: World) -> str:
    world.define()
    _filled(world, 1_000)
    held = _held(world)
    steady = world.send_steadily(1_500)
    with world.reader() as reader:
        for _ in range(2):
            time.sleep(1.5)
            world.valkey.client.function_flush()
        time.sleep(1.5)
        steady.stop()
        world.until_applied(_LIMIT_S)
        seen = world.check()
    expect(world.restarts == 0, f"the worker ended {world.restarts} times")
    reader.check_forward()
    return f"{_judged(world, reader, held, is_told=False)}; {seen}"


@row(20, "cluster slot move", "3 nodes; slots migrate under load, MOVED and ASK", "nothing lost")
def cluster(world: World) -> str:
    nodes = ValkeyCluster(world.folder / "cluster")
    world.on_stop(nodes.stop)
    world.online_url = nodes.url
    world.define()
    _filled(world, 1_000)
    held = _held(world)
    steady = world.send_steadily(1_500)
    carried = 0
    with world.reader() as reader:
        for bucket in [*range(world.settings.buckets)] * 2:
            slot = key_slot(f"{world.name}:{{b{bucket}}}".encode())
            nodes.begin_move(slot)
            # A part of its keys is here and a part there for a while.
            for _ in range(4):
                carried += nodes.carry(slot, world.draw.randint(1, 20))
                time.sleep(0.1)
            carried += nodes.end_move(slot)
        steady.stop()
        world.until_applied(_LIMIT_S)
        seen = world.check()
    expect(carried > 0, "no keys were moved")
    expect(world.restarts == 0, f"the worker ended {world.restarts} times")
    reader.check_forward()
    judged = check_present(reader.answers, world.expected(), held, is_told=False)
    judged += f", {len(reader.errors)} of them failed" if reader.errors else ""
    return f"{2 * world.settings.buckets} slots with {carried} keys moved; {judged}; {seen}"


@row(50, "an older backup", "the store's files copied, writes go on, files put back", "seeks back, exact")
def older_backup(world: World) -> str:
    world.define()
    _filled(world)
    world.valkey.client.bgrewriteaof()
    world.until(lambda: not world.valkey.client.info()["aof_rewrite_in_progress"], 20, "the backup is written")
    source, backup = world.valkey.folder / "appendonlydir", world.folder / "backup"
    shutil.copytree(source, backup)
    world.send(2_000)
    world.until_applied(_LIMIT_S)
    held = _held(world)
    with world.reader() as reader:
        world.valkey.kill()
        _put_back(backup, source)
        back_us = payments.now_us()
        world.valkey.start()
        world.send(500)
        world.until_applied(_LIMIT_S)
        seen = world.check()
    return f"{_judged(world, reader, held, [back_us])}; {seen}"


def _put_back(backup: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(backup, target)


@row(
    56,
    "pipeline cut in the middle",
    "the worker's connection cut inside a commit, 5 times, and SIGKILLed twice",
    "exact",
)
def cut_mid_frame(world: World) -> str:
    """Not a row of its own in the matrix: rows 1 and 2 with the wire as the place."""
    proxy = _behind_proxy(world)
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(1_500)
    for number in range(5):
        time.sleep(world.draw.uniform(0.3, 1.0))
        proxy.cut_within(world.draw.randrange(1, 60_000), worker.kill if number in (1, 3) else None)
        world.until(lambda: proxy.was_cut, 30, "enough is written to cut it")
    steady.stop()
    world.until_applied(_LIMIT_S)
    return world.check()
