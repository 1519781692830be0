"""Rows 1 to 9: workers killed, stopped, doubled, and sent around."""

from __future__ import annotations

import os
import signal
import threading
import time

from confluent_kafka import Consumer

from tests.campaign.client import Reader
from tests.campaign.proxy import Proxy
from tests.campaign.supervisor import Supervised
from tests.campaign.verdict import FailedError, expect, row
from tests.campaign.world import World

_LIMIT_S = 60.0
_RESUME_S = 10.0
# No worker is there so soon after a kill.
_LEFT_S = 1.0


@row(
    1,
    "worker kill -9",
    "SIGKILL at 4 random moments under load",
    "within 10 s lookups count all that the broker had acknowledged at the kill; sinks truthful",
)
def killed(world: World) -> str:
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(1_500)
    slowest_s, used_s, most = 0.0, 0.0, 0
    for _ in range(3):
        time.sleep(world.draw.uniform(0.2, 2.5))
        began = time.monotonic()
        worker.kill()
        # What is there now, and nothing of what the dead one did, says when the next one has caught up: it takes
        # seconds to start.
        waited_s, behind = _until_caught_up(world, began)
        expect(behind > 0, "the dead worker had applied all that there was: nothing was tried")
        slowest_s, used_s = max((slowest_s, used_s), (waited_s, worker.processor_s))
        most = max(most, behind)
    steady.stop()
    worker.hold()
    _, rows = world.check_standing()
    worker.resume()
    world.until_applied(_LIMIT_S)
    caught = (
        f"caught up {slowest_s:.1f} s after the kill at worst ({used_s:.1f} s of a processor), {most:,} records left"
    )
    seen = f"{caught}; {rows} rows true to their marks; {world.check()}"
    expect(slowest_s < _RESUME_S, f"too slow: {seen}")
    return seen


def _until_caught_up(world: World, killed_s: float) -> tuple[float, int]:
    """Right after a kill: wait until every row holds, and lookups count, all that the broker has acknowledged by now.

    Where the dead worker had applied all of that, a moment later: until the next one reads, something comes.
    Returns the seconds since the kill, and how many of these records the dead worker had not applied.
    """
    left = 0
    while not left and time.monotonic() - killed_s < _LEFT_S:
        sent, held = world.sent(), world.sinks.row_ends()
        expected = world.expected(sent)
        left = sum(end - held.get(partition, 0) for partition, end in expected.ends.items())
    counts = {user: len(events) for user, events in expected.entities(expected.contract.views[0]).items()}

    def is_caught_up() -> bool:
        held = world.sinks.row_ends()
        if any(held.get(partition, 0) < end for partition, end in expected.ends.items()):
            return False
        given = world.store.get_many("by_user", {"user": list(counts)}).to_pylist()
        return all(
            one["by_user__n_all"] >= counts[one["user"]] and one["by_user__status"] == "PRESENT" for one in given
        )

    world.until(is_caught_up, 40, "lookups count what was acknowledged when the worker was killed")
    return time.monotonic() - killed_s, left


def _watch(world: World, wanted: str) -> None:
    """Kill the worker as soon as the stores show the moment; the caller looks whether it was that moment."""
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(1_500)
    world.until(lambda: bool(world.sinks.look().log), 30, "the log has rows")
    time.sleep(world.draw.uniform(0.1, 1.5))
    deadline = time.monotonic() + 20
    before = _log_files(world)
    while time.monotonic() < deadline:
        if wanted == "row before log":
            standing = world.sinks.look()
            highest = {p: max(ends.get(p, 0) for ends in standing.online.values()) for p in range(world.partitions)}
            if any(highest[p] > standing.log.get(p, 0) for p in highest):
                break
        elif wanted == "log before group":
            if _log_files(world)[1] > before[1]:
                break
        elif _log_files(world)[0] > before[0]:
            break
    else:
        raise FailedError(f"the moment never came: {wanted}")
    worker.hold()
    steady.stop()


def _log_files(world: World) -> tuple[int, int]:
    """Parquet files and commits of the log."""
    days = [folder for folder in world.log_path.iterdir() if folder.name != "_delta_log"]
    files = sum(name.endswith(".parquet") for folder in days for name in os.listdir(folder))
    return files, sum(name.endswith(".json") for name in os.listdir(world.log_path / "_delta_log"))


@row(2, "kill -9 between row and log", "SIGKILL once Redis holds what Delta lacks", "resume at the lower of the two")
def between_row_and_log(world: World) -> str:
    world.define()
    _watch(world, "row before log")
    standing, rows = world.check_standing()
    ahead = sum(
        max(ends.get(p, 0) for ends in standing.online.values()) - standing.log.get(p, 0)
        for p in range(world.partitions)
    )
    expect(ahead > 0, f"the store was not ahead of the log ({ahead} records): nothing was tried")
    world.worker("w1")
    world.until_applied(_LIMIT_S)
    return f"Redis was {ahead} records ahead, {rows} rows true to their marks; {world.check()}"


@row(3, "kill -9 between log and group", "SIGKILL as a Delta commit appears", "0 duplicate rows")
def between_log_and_group(world: World) -> str:
    world.define()
    _watch(world, "log before group")
    standing, _ = world.check_standing()
    ahead = sum(standing.log.get(p, 0) - standing.group.get(p, 0) for p in range(world.partitions))
    expect(ahead > 0, f"the log was not ahead of the group ({ahead} records): nothing was tried")
    world.worker("w1")
    world.until_applied(_LIMIT_S)
    return f"the group was {ahead} records behind Delta; {world.check()}"


@row(4, "kill -9 inside a Delta commit", "SIGKILL as a Parquet file appears, before its commit", "an orphan file only")
def inside_commit(world: World) -> str:
    world.define(lateness="2h")
    orphans: set[str] = set()
    tries = 0
    while not orphans and tries < 5:
        tries += 1
        _watch(world, "file before commit")
        orphans = _orphans(world)
    expect(bool(orphans), f"no orphan file in {tries} tries: the moment was not met")
    world.check_standing()
    world.worker("w1")
    world.until_applied(_LIMIT_S)
    return f"{len(orphans)} orphan Parquet file after {tries} kills, not in the table; {world.check()}"


def _orphans(world: World) -> set[str]:
    import deltalake

    held = {uri.rpartition("/")[2] for uri in deltalake.DeltaTable(str(world.log_path)).file_uris()}
    return {file.name for file in world.log_path.glob("date=*/*.parquet")} - held


@row(
    5, "zombie", "SIGSTOP past the session timeout, others take over, SIGCONT", "the zombie's writes count for nothing"
)
def zombie(world: World) -> str:
    world.define(partitions=4)
    proxy = Proxy(world.valkey.port, world.draw)
    world.on_stop(proxy.stop)
    first = world.worker("w1", redis_url=f"redis://127.0.0.1:{proxy.port}/0")
    second = world.worker("w2")
    world.until_reading(first)
    world.until_reading(second)
    steady = world.send_steadily(1_000)
    tried, tries, took_s = 0, 0, 0.0
    while not tried and tries < 3:
        tries += 1
        time.sleep(2)
        # In the middle of a commit it has more on its way.
        is_writing = threading.Event()
        proxy.hears = lambda piece: is_writing.set() if _COMMIT in piece else None  # noqa: B023
        expect(is_writing.wait(_LIMIT_S), "the worker that is to be stopped writes nothing")
        first.signal(signal.SIGSTOP)
        # Its session lasts ten seconds; the other one has its partitions then.
        began = second.said().count("reading ")
        took_s = world.until(lambda: second.said().count("reading ") > began, 40, "the other worker takes over")  # noqa: B023
        time.sleep(1)
        tried = _written_by(first, proxy)
    time.sleep(4)
    steady.stop()
    world.until_applied(_LIMIT_S)
    seen = f"taken over after {took_s:.0f} s, {tried} commits of the zombie in {tries} tries; {world.check()}"
    expect(tried > 0, f"the zombie wrote nothing, so nothing was tried: {seen}")
    return seen


# Functions of the store that write rows.
_COMMIT = b"_commit"


def _written_by(zombie: Supervised, proxy: Proxy) -> int:
    """Let it go on; how many commits it sends before it learns what it reads now, or ends."""
    told, commits = zombie.said().count("reading "), 0

    def hear(piece: bytes) -> None:
        nonlocal commits
        if zombie.said().count("reading ") == told:
            commits += piece.count(_COMMIT)

    proxy.hears, restarts = hear, zombie.restarts
    zombie.signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and zombie.said().count("reading ") == told and zombie.restarts == restarts:
        time.sleep(0.1)
    proxy.hears = lambda piece: None
    return commits


@row(6, "two workers on one partition", "two consumer groups, one project: both get all of it", "nothing counted twice")
def doubled(world: World) -> str:
    world.define(partitions=2)
    first, second = world.worker("w1"), world.worker("w2", group=f"{world.name}-twin")
    world.until_reading(first)
    world.until_reading(second)
    steady = world.send_steadily(1_500)
    for _ in range(3):
        time.sleep(2)
        world.draw.choice([first, second]).kill()
    time.sleep(4)
    steady.stop()
    world.until_applied(_LIMIT_S)
    return world.check()


@row(7, "rebalance storm", "a bare member joins or leaves every 2 s for 40 s", "progress, no hang")
def storm(world: World) -> str:
    world.define(partitions=6)
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(800)
    changes, longest_s, moved, moved_at = 0, 0.0, world.sinks.online_ends(), time.monotonic()
    ends = time.monotonic() + 40
    while time.monotonic() < ends:
        config = {"bootstrap.servers": world.broker.bootstrap, "group.id": f"{world.name}-worker", "log_level": 0}
        member = Consumer(config)
        member.subscribe([world.topic])
        for joined in (True, False):
            if not joined:
                member.close()
            changes += 1
            until = time.monotonic() + 2
            while time.monotonic() < until:
                if joined:
                    member.poll(0.2)
                else:
                    time.sleep(0.2)
                now = world.sinks.online_ends()
                if now != moved:
                    longest_s = max(longest_s, time.monotonic() - moved_at)
                    moved, moved_at = now, time.monotonic()
    steady.stop()
    world.until_applied(_LIMIT_S)
    seen = f"{changes} joins and leaves, longest pause {longest_s:.1f} s; {world.check()}"
    expect(longest_s < 15, seen)
    return seen


@row(8, "rolling restart", "two workers replaced one after another by SIGTERM, same code", "reads stay available")
def rolling(world: World) -> str:
    world.define(partitions=4)
    first, second = world.worker("w1"), world.worker("w2")
    world.until_reading(first)
    world.until_reading(second)
    steady = world.send_steadily(1_000)
    # The first records of a partition may be older than what the others have, and take the watermark back.
    world.until(lambda: len(world.sinks.online_ends()) == world.partitions, 30, "rows of all partitions appear")
    with Reader(world.store, [f"u{n}" for n in range(40)]) as reader:
        for old, new in ((first, "w3"), (second, "w4")):
            made = world.worker(new)
            world.until_reading(made)
            code = old.terminate()
            expect(code == 0, f"SIGTERM gave exit code {code}")
            time.sleep(1)
    steady.stop()
    world.until_applied(_LIMIT_S)
    expect(not reader.errors, f"{len(reader.errors)} lookups failed: {reader.errors[:1]}")
    reader.check_forward()
    return f"{reader.reads} lookups during it, none failed, none went back; {world.check()}"


@row(9, "SIGTERM mid-batch", "SIGTERM under load, 2 times", "clean drain in under 10 s")
def drained(world: World) -> str:
    world.define()
    steady = world.send_steadily(3_000)
    slowest_s = 0.0
    for number in range(2):
        worker = world.worker(f"w{number}")
        world.until_reading(worker)
        time.sleep(world.draw.uniform(0.5, 2.0))
        began = time.monotonic()
        code = worker.terminate()
        slowest_s = max(slowest_s, time.monotonic() - began)
        expect(code == 0, f"SIGTERM gave exit code {code}")
        standing, _ = world.check_standing()
        lags = [standing.lowest(p) - standing.group.get(p, 0) for p in range(world.partitions)]
        expect(not any(lags), f"the group was not told what all sinks hold, by {lags} records")
    steady.stop()
    world.worker("last")
    world.until_applied(_LIMIT_S)
    seen = f"drained in {slowest_s:.1f} s at worst, group told all of it; {world.check()}"
    expect(slowest_s < 10, seen)
    return seen
