"""Events of this very second, and how soon a lookup sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featurestore.client import FeatureStore
from featurestore.errors import FeatureStoreError
from streams.producer import EventProducer

_VISIBLE_S = 15.0
_VIEW, _TOPIC, _VALUE = "aircraft_departures", "flight-departures", "aircraft_departures__last_delay"


@dataclass(frozen=True, slots=True)
class Seen:
    """One live event: the delay it carried, its freshness (acknowledged to visible), and the row that showed it."""

    delay: float
    freshness_s: float
    row: dict[str, Any]


def depart(store: FeatureStore, producer: EventProducer, tailnum: str, seconds: float) -> Iterator[Seen]:
    """Let one aircraft depart again and again, each time with a delay of its own, and wait until it is served.

    Raises FeatureStoreError when an acknowledged event is not visible in time.
    """
    topic = store.repository.topic(_TOPIC)
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        number += 1
        delay = number % 60 + 0.25
        producer.send(
            topic,
            {
                "tailnum": tailnum,
                "carrier": "UA",
                "flight": number,
                "origin": "JFK",
                "dest": "BOS",
                "departed_at": time.time_ns() // 1_000,
                "dep_delay": delay,
                "distance": 187.0,
            },
        )
        producer.flush()
        acknowledged = time.perf_counter()
        while True:
            row = store.get(_VIEW, {"tailnum": tailnum}, watermark=True)
            took = time.perf_counter() - acknowledged
            if row[_VALUE] == delay:
                break
            if took > _VISIBLE_S:
                raise FeatureStoreError(
                    f"a live event of {tailnum!r} was acknowledged but not served within {_VISIBLE_S:.0f} s: "
                    f"delay {delay} was sent, {row[_VALUE]} is served; see the worker's log"
                )
            # A lookup each millisecond measures to the millisecond, and leaves the cores to the worker.
            time.sleep(0.001)
        yield Seen(delay, took, row)
