"""Stores against the oracle, bit for bit: rows, log, letters, watermarks."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import deltalake
import pyarrow as pa
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from featurestore.client import FeatureStore
from tests.campaign.oracle import Event, Expected, View, value
from tests.campaign.sinks import Standing
from tests.campaign.verdict import expect

_ENTITIES_A_CALL = 5_000


def bits(one: Any) -> Any:
    """A value so that equal means equal in every bit; a decimal and a fraction are the number that they stand for."""
    if isinstance(one, Decimal | Fraction):
        return "exact", Fraction(one)
    return ("float", struct.pack("<d", one)) if isinstance(one, float) else (type(one).__name__, one)


def check_values(store: FeatureStore, expected: Expected, online_us: Sequence[int], past_us: Sequence[int]) -> int:
    """Every entity of every view: online at each of the later moments, the join at those and at earlier ones.

    Returns how many values were compared.
    """
    compared = 0
    for view in expected.contract.views:
        entities = expected.entities(view)
        names = [*sorted(entities), "nobody-\u00e9"]
        for moment_us in online_us:
            served = _online(store, view, names, moment_us)
            compared += _compare(f"online {view.name}", view, names, entities, served, moment_us)
        for moment_us in (*online_us, *past_us):
            moments = pa.array([moment_us] * len(names), pa.int64())
            spine = pa.table({view.key: pa.array(names, pa.string()), "event_timestamp": moments})
            joined = store.point_in_time(view.name, spine)
            columns = {name: joined[f"{view.name}__{name}"].to_pylist() for name in view.outputs}
            compared += _compare(f"offline {view.name}", view, names, entities, columns, moment_us)
    return compared


def wrong_status(store: FeatureStore, expected: Expected) -> str:
    """What lookups of now call otherwise than the oracle does: PRESENT what has events, NOT_FOUND what has none."""
    for view in expected.contract.views:
        names = [*sorted(expected.entities(view)), "nobody-\u00e9"]
        for first in range(0, len(names), _ENTITIES_A_CALL):
            some = names[first : first + _ENTITIES_A_CALL]
            said = store.get_many(view.name, {view.key: some})[f"{view.name}__status"].to_pylist()
            for name, status in zip(some, said, strict=True):
                wanted = "NOT_FOUND" if name == names[-1] else "PRESENT"
                if status != wanted:
                    return f"{view.name} says {status} of {name[:40]!r}, must be {wanted}"
    return ""


def _online(store: FeatureStore, view: View, names: list[str], moment_us: int) -> dict[str, list[Any]]:
    then = FeatureStore(store.settings, store.repository, clock_us=lambda: moment_us)
    out: dict[str, list[Any]] = {name: [] for name in view.outputs}
    for first in range(0, len(names), _ENTITIES_A_CALL):
        table = then.get_many(view.name, {view.key: names[first : first + _ENTITIES_A_CALL]})
        for name in view.outputs:
            out[name] += table[f"{view.name}__{name}"].to_pylist()
    return out


def _compare(
    what: str,
    view: View,
    names: list[str],
    entities: dict[str, list[Event]],
    given: dict[str, list[Any]],
    moment_us: int,
) -> int:
    wrong = []
    for place, name in enumerate(names):
        for feature, output in view.outputs.items():
            wanted, seen = value(output, entities.get(name, []), moment_us), given[feature][place]
            if bits(wanted) != bits(seen):
                wrong.append(f"{feature} of {name[:40]!r} is {seen!r}, must be {wanted!r}")
    expect(not wrong, f"{what} at {moment_us}: {len(wrong)} values are wrong: {'; '.join(wrong[:3])}")
    return len(names) * len(view.outputs)


def check_log(path: str, expected: Expected) -> None:
    """The log has every event of the oracle once, with its times."""
    columns = ["partition", "offset", "event_us", "effective_us", "arrival_us", "late_by_us"]
    table = deltalake.DeltaTable(path).to_pyarrow_table(columns=columns) if expected.logged else pa.table({})
    rows = list(zip(*(table[name].to_pylist() for name in columns), strict=True)) if expected.logged else []
    held = Counter((one[0], one[1]) for one in rows)
    twice = [place for place, times in held.items() if times > 1]
    expect(not twice, f"the log has {len(twice)} rows more than once, such as {twice[:3]}")
    _same_places("the log", set(held), set(expected.logged))
    for one in rows:
        event = expected.logged[one[0], one[1]]
        wanted = (event.event_us, event.effective_us, event.arrival_us, event.late_by_us)
        expect(one[2:] == wanted, f"times of {one[:2]} in the log are {one[2:]}, must be {wanted}")


def check_letters(bootstrap: str, project: str, topic: str, expected: Expected) -> int:
    """Every dead record has its letter, with its own bytes and the right kind of reason, and no other has one.

    Returns how many were written more than once: a replay may do that.
    """
    letters, repeats = read_letters(bootstrap, f"{topic}.{project}.dead")
    _same_places("the dead letters", set(letters), set(expected.dead))
    for place, kind in expected.dead.items():
        reason, payload = letters[place]
        given = reason if reason in ("future", "too_late") else "refused"
        expect(given == kind, f"the letter of {place} says {reason!r}, the oracle says {kind!r}")
        expect(payload == expected.payloads[place], f"the letter of {place} has other bytes than the record")
    return repeats


def _same_places(what: str, held: set[tuple[int, int]], wanted: set[tuple[int, int]]) -> None:
    missing, extra = sorted(wanted - held), sorted(held - wanted)
    expect(not missing, f"{what} lack {len(missing)} records, such as {missing[:3]}")
    expect(not extra, f"{what} have {len(extra)} records that do not belong there, such as {extra[:3]}")


def read_letters(bootstrap: str, topic: str) -> tuple[dict[tuple[int, int], tuple[str, bytes | None]], int]:
    """Place -> (reason, payload) of every letter, and how many are repeats; a record holds one or a list."""
    out: dict[tuple[int, int], tuple[str, bytes | None]] = {}
    repeats = 0
    for message in read_all(bootstrap, topic):
        held = json.loads(message.value())
        for said in held if isinstance(held, list) else [held]:
            payload = None if said["payload"] is None else base64.b64decode(said["payload"])
            place = (said["partition"], said["offset"])
            repeats += place in out
            out[place] = (said["reason"], payload)
    return out, repeats


def read_all(bootstrap: str, topic: str) -> Iterable[Any]:
    """Every record that a topic has now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "campaign-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 8 << 20,
            "log_level": 0,
        }
    )
    try:
        found = consumer.list_topics(topic, timeout=20.0).topics[topic].partitions
        reading = set()
        places = []
        for partition in found:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20.0)
            if low < high:
                places.append(TopicPartition(topic, partition, low))
                reading.add(partition)
        consumer.assign(places)
        while reading:
            message = consumer.poll(20.0)
            if message is None:
                raise TimeoutError(f"{topic} could not be read to its end")
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard(message.partition())
            else:
                raise KafkaException(error)
    finally:
        consumer.close()


def check_standing(
    store: FeatureStore, client: redis.Redis, expected: Expected, standing: Standing, path: str, moment_us: int
) -> int:
    """In the middle of things, while no worker runs: every sink holds exactly what its watermark says, no hole in it.

    Rows: an entity's value counts the events below its bucket's watermark in each partition, and no others.
    Log: it has every event below its own end offset, and no others. Group: it was told no more than all sinks hold.
    Returns how many rows were compared.
    """
    for partition, told in standing.group.items():
        lowest = standing.lowest(partition)
        expect(told <= lowest, f"the group was told {told} of partition {partition}, but a sink holds only {lowest}")
    logged = {place for place in expected.logged if place[1] < standing.log.get(place[0], 0)}
    table = deltalake.DeltaTable(path).to_pyarrow_table(columns=["partition", "offset"])
    rows = list(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
    expect(len(rows) == len(set(rows)), "the log has rows more than once")
    _same_places("the log below its marks", set(rows), logged)
    compared = 0
    for view in expected.contract.views:
        entities = expected.entities(view)
        bucket_of = _buckets(client, store, view, list(entities))
        buckets = [ends for (name, _), ends in standing.online.items() if name == view.name]
        claimed = {place[0]: min(ends.get(place[0], 0) for ends in buckets) for place in expected.payloads}
        held = {}
        for name, events in entities.items():
            # An entity without a row may lie in any bucket: what all of them claim must be in it.
            ends = standing.online[view.name, bucket_of[name]] if name in bucket_of else claimed
            held[name] = [event for event in events if event.offset < ends.get(event.partition, 0)]
        names = sorted(held)
        served = _online(store, view, names, moment_us)
        _compare(f"rows of {view.name} below their marks", view, names, held, served, moment_us)
        compared += len(names)
    return compared


def _buckets(client: redis.Redis, store: FeatureStore, view: View, names: list[str]) -> dict[str, int]:
    """Entity -> bucket, from the keys that the store has."""
    wanted = {name.encode(): name for name in names}
    # After a backfill the rows are those of another generation.
    view_id = re.escape(store.repository.view(view.name).id.encode())
    pattern = re.compile(rb".*\{b(\d+)\}:" + view_id + rb"(?:\.g\d+-\w+)?:row:s....(.*)", re.DOTALL)
    out = {}
    for key in client.scan_iter(count=1_000):
        found = pattern.fullmatch(key)
        if found is not None and found[2] in wanted:
            out[wanted[found[2]]] = int(found[1])
    return out
