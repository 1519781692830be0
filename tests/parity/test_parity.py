"""Online values, the point-in-time join and the definition itself agree bit for bit, over the real stores.

Events in any order, with any delay and any batch edges go through the engine; what a plain list of the same
events says is compared with what the online store serves and with what the join gives.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import redis

from featurestore import (
    Entity,
    FeatureView,
    Topic,
    before,
    calendar,
    count,
    counts,
    decayed_sum,
    distinct,
    first,
    gap_mean,
    last,
    last_n,
    mean,
    newest,
    ratio,
    session,
    since_last,
    std,
    trend,
    tumbling,
    values,
)
from featurestore import max as most
from featurestore import min as least
from featurestore import sum as total
from featurestore.event_time import FUTURE_MAX_US, HOUR_US, MINUTE_US
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.offline import EventLog, point_in_time_join
from featurestore.online import OneServer, OnlineStore
from featurestore.spec import ViewSelection
from streams.dead_letters import DeadLetterBox
from streams.engine import Engine
from streams.letters import DeadLetter
from streams.online_sink import OnlineSink
from streams.transport import Batch
from tests.kernel import naive

TOPIC = Topic(
    "events",
    schema={
        "user": str,
        "shop": int,
        "at": "timestamp",
        "amount": float,
        "kind": str,
        "price": "decimal(18, 2)",
        "seen": "timestamp",
    },
    event_time="at",
    partitions=2,
    nullable=("amount", "kind", "shop", "price", "seen"),
)
BIG = pl.col("amount") > 1
FEATURES = {
    "n": count().over("1m", "1h"),
    "n_all": count(),
    "paid": total("amount").over("1m", "1h"),
    "mean": mean("amount").over("1h"),
    "std": std("amount").over("1h"),
    "least": least("amount").over("1h"),
    "most": most("amount").over("1m"),
    "kind": last("kind"),
    "amount": last("amount").over("1h"),
    "oldest": first("amount").over("1h"),
    "kinds": distinct("kind").over("1h"),
    "quiet": since_last(),
    "gap": gap_mean().over("1h"),
    "big": count(where=BIG).over("1h", calendar("day", "Asia/Kathmandu")),
    "kinds_newest": last_n("kind", 3, distinct=True),
    "amounts": last_n("amount", 4).over(newest(6)),
    "by_kind": counts("kind").over(session("10m")),
    "paid_before": total("amount").over(before("10m", "1h")),
    "paid_hour": total("amount").over(tumbling("1h", ago=1)),
    "half": mean("half").over("1h"),
    "fading": decayed_sum("half", "10m"),
    "slope": trend("half").over("1h"),
    "spent": total("price").over("1m", "1h"),
    "spent_all": total("price", where=BIG),
    "price_mean": mean("price").over("1h"),
    "price_std": std("price").over("1h"),
    "cheapest": least("price").over("1h"),
    "price": last("price"),
    "prices": values("price").over("1h"),
    "by_price": counts("price").over(session("10m")),
    "price_newest": last_n("price", 3, distinct=True),
    "different": distinct("price").over("1h"),
    "dear": most("dear").over("1h"),
    "price_each": ratio(total("price"), count()).over("1h"),
    "seen": last("seen"),
    "kind_least": least("kind").over("1h"),
    "kind_most": most("kind").over(newest(4)),
    "longest_ago": least("seen").over("1h"),
    "moments": last_n("seen", 2),
}
# Twice the price has up to 19 digits: what does not fit 18 is null.
HALF = {"half": (pl.col("amount") / 2).clip(-100, 100), "dear": pl.col("price") * 2}
PATIENT = FeatureView("patient", Entity("user", key="user"), TOPIC, FEATURES, lateness="30m", columns=HALF)
STRICT = FeatureView("strict", Entity("user-shop", key=("user", "shop")), TOPIC, FEATURES, "1m", columns=HALF)
BASE_US = 1_767_225_600_000_000


class Letters(DeadLetterBox):
    """Keeps letters where the test can count them; the broker is not what is tried here."""

    def __init__(self) -> None:
        self.held: dict[bytes, DeadLetter] = {}

    def put(self, letters: Sequence[DeadLetter]) -> None:
        self.held.update({letter.key: letter for letter in letters})

    def flush(self) -> None:
        """Nothing waits."""


def drawn_events(draw: random.Random, count: int) -> list[tuple[dict[str, Any], int]]:
    """Events of one partition with their arrivals, in offset order."""
    out = []
    arrival_us = BASE_US
    for _ in range(count):
        arrival_us += draw.choice([0, 1, 1_000, MINUTE_US, 5 * MINUTE_US])
        delay_us = draw.choice([0, 0, 0, -1_000, MINUTE_US, 20 * MINUTE_US, 3 * HOUR_US, -FUTURE_MAX_US - 1_000_000])
        event = {
            "user": draw.choice(["ann", "bob", "", "\u00e9\U0001f600"]),
            "shop": draw.choice([1, -(2**63), None]),
            "at": arrival_us - delay_us,
            "amount": draw.choice([None, 0.1, -0.0, 1e300, -1e300, 5e-324, draw.uniform(-5, 5)]),
            "kind": draw.choice(
                [None, "", "x", "y" * 300, "\u00e9\U0001f600", "z" * 65_536 if draw.random() < 0.2 else "z"]
            ),
            # Text or a number; what a float would have rounded on the way, and the ends of 18 digits.
            "price": draw.choice(
                [None, "0.10", "-0.00", 1.25, 7, "9999999999999999.99", "-9999999999999999.99", "1e2"]
            ),
            "seen": draw.choice(
                [None, 0, "2038-01-19T03:14:08Z", 2**31 * 1_000_000 - 1, "9999-12-31T23:59:59.999999Z"]
            ),
        }
        out.append((event, arrival_us))
    return out


def judged(
    events: list[tuple[dict[str, Any], int]], partition: int, lateness_us: int
) -> list[tuple[dict, naive.Event]]:
    """What a view takes of a partition, by the definition of lateness."""
    out, newest_us = [], 0
    for offset, (event, arrival_us) in enumerate(events):
        effective_us = min(event["at"], arrival_us)
        if event["at"] > arrival_us + FUTURE_MAX_US:
            continue
        if newest_us - effective_us <= lateness_us:
            out.append((event, naive.Event(0, effective_us, partition, offset, plain_values(event))))
        newest_us = max(newest_us, effective_us)
    return out


def plain_values(event: dict[str, Any]) -> dict[str, Any]:
    """The event as its topic types it."""
    price, seen = event["price"], event["seen"]
    if isinstance(seen, str):
        seen = (datetime.fromisoformat(seen) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return {**event, "price": None if price is None else Decimal(str(price)).quantize(Decimal("0.01")), "seen": seen}


def value(view: FeatureView, output: str, events: list[naive.Event], moment_us: int) -> Any:
    [found] = [one for one in view.plan.outputs if one.name == output]
    feature = FEATURES[max((name for name in FEATURES if output == name or output.startswith(f"{name}_")), key=len)]
    chosen = naive.in_window(events, 0, moment_us, found.window)
    if feature.where is not None:
        chosen = [e for e in chosen if e.values["amount"] is not None and e.values["amount"] > 1]
    if feature.column == "half":
        halves = [None if e.values["amount"] is None else min(max(e.values["amount"] / 2, -100), 100) for e in chosen]
        chosen = [replace(e, values={**e.values, "half": half}) for e, half in zip(chosen, halves, strict=True)]
    if feature.column == "dear":
        twice = [None if e.values["price"] is None else 2 * e.values["price"] for e in chosen]
        fits = [price if price is not None and abs(price) < 10**16 else None for price in twice]
        chosen = [replace(e, values={**e.values, "dear": price}) for e, price in zip(chosen, fits, strict=True)]
    if feature.parts:
        spent = naive.value("sum", "price", TOPIC.schema["price"], chosen)
        return None if spent is None else float(Fraction(spent) / len(chosen))
    kinds = {**TOPIC.schema, "half": "float64", "dear": "decimal(18, 2)", None: "int64"}
    dtype = kinds[feature.column]
    assert isinstance(feature.function, str)
    size_us, argument = found.window.size_us, feature.argument
    return naive.value(feature.function, feature.column, dtype, chosen, moment_us, size_us, argument)


def same(left: Any, right: Any, output: str = "") -> bool:
    if output == "fading" and left is not None and right is not None:
        # The twin weighs by powers of two that are rounded otherwise.
        return abs(left - right) <= 1e-12 * max(1, abs(right)) * 100
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(right, dict):
        return dict(left or ()) == right
    if isinstance(left, datetime):
        left = (left - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(left, float) and isinstance(right, float):
        return math.copysign(1, left) == math.copysign(1, right) and left == right
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("seed", range(12))
def test_online_join_and_definition_agree(
    seed: int, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    draw = random.Random(seed)
    store = OnlineStore(OneServer(redis_client), namespace=unique("parity"), buckets=3)
    store.ensure_ready()
    log, letters = EventLog(tmp_path, TOPIC), Letters()
    events = {partition: drawn_events(draw, draw.randrange(1, 120)) for partition in (0, 1)}
    views = (PATIENT, STRICT)

    def engine() -> Engine:
        sinks = [OnlineSink(store, view, slice_events=5) for view in views]
        return Engine(TOPIC, "id", sinks, PATIENT.lateness_us, log, letters, lambda: BASE_US)

    running = engine()
    stands = {partition: running.open(partition) for partition in events}
    while any(stands[partition] < len(events[partition]) for partition in events):
        partition = draw.choice([p for p in events if stands[p] < len(events[p])])
        if draw.random() < 0.1:
            # A crash: what waited for the log is gone, and reading begins where the sinks stand.
            running = engine()
            stands = {each: running.open(each) for each in events}
            continue
        first = stands[partition]
        end = min(len(events[partition]), first + draw.randrange(1, 30))
        part = events[partition][first:end]
        payloads: list[bytes | None] = [json.dumps(event).encode() for event, _ in part]
        arrivals = np.array([arrival for _, arrival in part], dtype=np.int64)
        running.apply(Batch(TOPIC.name, partition, first, end, payloads, np.arange(first, end), arrivals))
        stands[partition] = end
    running.flush()
    newest_us = max(arrival for each in events.values() for _, arrival in each)
    for view in views:
        taken = [one for partition in events for one in judged(events[partition], partition, view.lateness_us)]
        entities: dict[tuple[Any, ...], list[naive.Event]] = {}
        for event, plain in taken:
            key = tuple(event[name] for name in view.entity.keys)
            if None not in key:
                entities.setdefault(key, []).append(plain)
        keys = [*entities, ("nobody", 5)[: len(view.entity.keys)]]
        columns = {
            name: pa.array([key[place] for key in keys], pa.int64() if name == "shop" else pa.string())
            for place, name in enumerate(view.entity.keys)
        }
        [payloads] = store.payloads([(view.id, encode_keys(list(columns.values())))])
        for moment_us in (
            newest_us,
            newest_us + 1,
            newest_us + MINUTE_US,
            newest_us + HOUR_US,
            newest_us + 9 * HOUR_US,
        ):
            online = roll_up(payloads, moment_us, view.plan)
            check(view, keys, entities, columns, online, log, moment_us)
        for moment_us in draw.sample(range(BASE_US, newest_us + 1), k=min(3, newest_us - BASE_US)):
            check(view, keys, entities, columns, None, log, moment_us)
    assert {letter.offset for letter in letters.held.values() if letter.partition == 0} == {
        offset
        for offset in range(len(events[0]))
        if offset not in {plain.offset for _, plain in judged(events[0], 0, PATIENT.lateness_us)}
    }


def check(
    view: FeatureView,
    keys: list[tuple[Any, ...]],
    entities: dict[tuple[Any, ...], list[naive.Event]],
    columns: dict[str, pa.Array],
    online: dict[str, pa.Array] | None,
    log: EventLog,
    moment_us: int,
) -> None:
    moments = pa.array([moment_us] * len(keys), pa.int64())
    spine = pa.table({**columns, "event_timestamp": moments})
    joined = point_in_time_join(spine, [ViewSelection(view, tuple(view.outputs))], lambda topic: log)
    for place, key in enumerate(keys):
        for output in view.outputs:
            wanted = value(view, output, entities.get(key, []), moment_us)
            offline = joined[f"{view.name}__{output}"][place].as_py()
            assert same(offline, wanted, output), (view.name, key, output, moment_us, offline, wanted)
            if online is not None:
                served = online[output][place].as_py()
                assert same(served, wanted, output), (view.name, key, output, moment_us, served, wanted)
                assert repr(served) == repr(offline), (view.name, key, output, moment_us, served, offline)
