"""Rows 21 to 23: the broker killed, stopped, and at the end of a bad wire."""

from __future__ import annotations

import re
import signal
import time
from urllib.request import urlopen

from featurestore.local import free_port
from tests.campaign.proxy import Proxy
from tests.campaign.supervisor import Supervised
from tests.campaign.verdict import expect, row
from tests.campaign.world import World

_LIMIT_S = 90.0


@row(21, "broker kill -9", "SIGKILL under load, back after 1 s on its data", "resumes, nothing lost")
def killed(world: World) -> str:
    broker = world.own_broker()
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(1_000)
    time.sleep(2)
    broker.kill()
    time.sleep(1)
    broker.start()
    time.sleep(3)
    steady.stop()
    took_s = world.until_applied(_LIMIT_S)
    return f"lag gone {took_s:.0f} s after the last send; {world.check()}"


_STOPPED_S = 90


@row(22, "broker SIGSTOP", f"SIGSTOP for {_STOPPED_S} s, under load", "told at its port, recovers, exact")
def stopped(world: World) -> str:
    broker = world.own_broker()
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(500)
    applied = world.sinks.online_ends
    world.until(lambda: len(applied()) == world.partitions and min(applied().values()) > 0, 60, "rows appear")
    broker.signal(signal.SIGSTOP)
    time.sleep(_STOPPED_S - 1)
    # Who does not answer tells no end offsets: that nothing comes shows in the age of the newest event. After a session
    # without the group partitions are given up, and that there are none shows.
    ages = {place: time.time() - newest_s for place, newest_s in _told(worker, "newest_event_seconds").items()}
    held = sum(_told(worker, "partitions").values())
    time.sleep(1)
    broker.signal(signal.SIGCONT)
    # Events go on for a moment. A member that the group has taken for gone may be refused, and is started again.
    time.sleep(3)
    steady.stop()
    took_s = world.until_applied(_LIMIT_S)
    world.until(
        lambda: list(_told(worker, "lag_events").values()) == [0] * world.partitions,
        40,
        "the port says: no lag is left",
    )
    told = f"its port said: {held:.0f} partitions" + (f", newest event {min(ages.values()):.0f} s old" if ages else "")
    seen = f"{told}; lag gone {took_s:.0f} s after the last send, worker ended {world.restarts}x; {world.check()}"
    expect(not held or min(ages.values(), default=0.0) >= _STOPPED_S - 5, f"no alarm could have come of it: {seen}")
    return seen


def _told(worker: Supervised, name: str) -> dict[str, float]:
    """Topic and partition -> one metric of the worker's own port; one that is started again has another port."""
    deadline = time.monotonic() + 20
    while True:
        port = re.findall(r"metrics and health at http://127\.0\.0\.1:(\d+)", worker.said())[-1]
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    return {place: float(n) for place, n in re.findall(rf"^featurestore_{name}{{(.*?)}} (\S+)$", text, re.MULTILINE)}


@row(
    23,
    "bad wire to the broker",
    "by a proxy: cut, half-open 4 s, 500 ms delay, 5 % of the pieces stalled as if lost",
    "nothing lost",
)
def bad_wire(world: World) -> str:
    proxy = Proxy(free_port(), world.draw)
    world.on_stop(proxy.stop)
    broker = world.own_broker(proxy_port=proxy.port)
    proxy.upstream_port = broker.inner_port
    world.define(kafka_bootstrap=f"127.0.0.1:{proxy.port}")
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(1_000)
    seen = []
    for what in ("cut", "half-open", "delay", "loss"):
        time.sleep(1.5)
        before = sum(world.sinks.online_ends().values())
        if what == "cut":
            for _ in range(3):
                proxy.cut()
                time.sleep(1)
        elif what == "half-open":
            proxy.deaf = True
            time.sleep(4)
            proxy.deaf = False
            proxy.cut()
        elif what == "delay":
            proxy.delay_s = 0.5
            time.sleep(5)
            proxy.delay_s = 0.0
        else:
            proxy.stall_share = 0.05
            time.sleep(4)
            proxy.stall_share = 0.0
        seen.append(f"{what}: {sum(world.sinks.online_ends().values()) - before:,} applied meanwhile")
    steady.stop()
    world.until_applied(_LIMIT_S)
    expect(proxy.connections > 3, "the worker did not go through the proxy: nothing was tried")
    return f"{', '.join(seen)}; {proxy.connections} connections; {world.check()}"
