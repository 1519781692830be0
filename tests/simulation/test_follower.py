"""Who fills a shadow of a topic whose events are known by an id, and whose rows are ahead of the workers' log."""

from __future__ import annotations

import json
import os

import numpy as np

from featurestore.event_time import SECOND_US
from featurestore.kernel import roll_up
from streams.engine import Engine
from streams.online_sink import OnlineSink
from streams.sink import NoLetters, NoLog
from streams.transport import Batch
from tests.simulation.history import History
from tests.simulation.world import (
    START_US,
    TOPIC,
    VIEWS,
    Server,
    SimulatedLetters,
    SimulatedLog,
    SimulatedStore,
    SteppedThread,
    Table,
)

# The seventh is the fifth again.
IDS = ["a", "b", "c", "d", "e", "f", "e", "g"]
PAYLOADS: list[bytes | None] = [
    json.dumps({"user": "u0", "shop": "s", "at": START_US + number, "amount": 1.0, "id": name}).encode()
    for number, name in enumerate(IDS)
]


def batch(first: int, end: int) -> Batch:
    arrived = np.full(end - first, START_US + 20)
    return Batch("paid", 0, first, end, PAYLOADS[first:end], np.arange(first, end), arrived, 0)


def test_a_follower_that_goes_on_knows_the_ids_between_the_log_and_its_rows() -> None:
    server, table, view = Server(), Table(), VIEWS[0]
    store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")

    def worker() -> Engine:
        log, sink = SimulatedLog(table, lambda: ""), OnlineSink(store, view, SteppedThread())
        letters = SimulatedLetters({})
        return Engine(TOPIC, "id", [sink], 60 * SECOND_US, log, letters, lambda: START_US, SteppedThread())  # type: ignore[arg-type]

    def follower() -> Engine:
        sink = OnlineSink(store, view, SteppedThread(), row_id="shadow")
        mark = sink.open(0, "id")
        log = NoLog(TOPIC, {} if mark is None else {0: mark}, SimulatedLog(table, lambda: ""))  # type: ignore[arg-type]
        return Engine(TOPIC, "id", [sink], view.lateness_us, log, NoLetters(), lambda: START_US, SteppedThread())

    def apply(engine: Engine, end: int) -> None:
        engine.apply(batch(engine.open(0), end))
        engine.flush()
        engine.beat()

    apply(worker(), 3)
    # It follows further than the log has come, is killed, and begins again.
    apply(follower(), 6)
    apply(follower(), 8)
    apply(worker(), 8)
    for row_id in (view.id, "shadow"):
        assert roll_up([History._stored(store, row_id, "u0")], START_US + 10**6, view.plan)["n"][0].as_py() == 7
