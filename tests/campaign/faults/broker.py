"""Rows 21 to 23: the broker killed, stopped, and at the end of a bad wire."""

from __future__ import annotations

import signal
import time

from featurestore.local import free_port
from tests.campaign.proxy import Proxy
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


@row(22, "broker SIGSTOP", "SIGSTOP for 20 s (the matrix says 90 s), under load", "recovers, nothing lost")
def stopped(world: World) -> str:
    broker = world.own_broker()
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    steady = world.send_steadily(500)
    time.sleep(2)
    broker.signal(signal.SIGSTOP)
    time.sleep(20)
    broker.signal(signal.SIGCONT)
    time.sleep(2)
    steady.stop()
    took_s = world.until_applied(_LIMIT_S)
    return f"lag gone {took_s:.0f} s after the last send; {world.check()}"


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
