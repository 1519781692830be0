"""One topic a format on a real broker: producer SDK, worker, lookups, log and letters agree with plain Python."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from featurestore.client import FeatureStore
from featurestore.monitoring.parity import prove
from featurestore.spec import load
from featurestore.spec.contract import FORMATS
from streams.codecs.arrow import ArrowCodec
from streams.dead_letters import read_letters
from streams.ledger import ledgers
from streams.producer import EventProducer
from streams.schemas import schemas_at
from tests.project import Project
from tests.streams.codecs.conftest import rows
from tests.streams.codecs.test_evolution import ipc

SECOND_US = 1_000_000


def definitions(names: dict[str, str]) -> str:
    topics = "\n".join(
        f"""
{format}_paid = Topic({name!r}, event_time="at",
    schema={{"user": str, "at": "timestamp", "amount": float, "kind": str}},
    key="user", partitions=2, nullable=("kind",), format={format!r}, ranges={{"amount": (0, 1e6)}})
by_{format} = FeatureView("by_{format}", Entity("user", key="user"), {format}_paid, lateness="1m", features={{
    "n": count(), "paid": sum("amount").over("1h"), "newest": last("amount"), "oldest": first("amount"),
    "three": last_n("amount", 3), "of_three": sum("amount").over(newest(3)), "kinds": distinct("kind")}})"""
        for format, name in names.items()
    )
    return (
        "from featurestore import Entity, FeatureView, Topic, count, distinct, first, last, last_n, newest, sum\n"
        + topics
    )


def drawn(seed: int, moment_us: int, count: int) -> list[dict[str, Any]]:
    """Payments of which many have one event time, so that only their order tells them apart."""
    draw = random.Random(seed)
    return [
        {
            "user": f"u{draw.randrange(5)}",
            "at": moment_us + draw.randrange(4) * SECOND_US,
            "amount": draw.choice([0.1, 0.2, 7.0, 1e6, 3.25]) + number / 1024,
            "kind": draw.choice(["new", "old", None, "🛩️"]),
        }
        for number, moment_us in enumerate([moment_us] * count)
    ]


def expected(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(events, key=lambda each: each["at"]):  # stable: ties stay in the order of sending
        of[event["user"]].append(event)
    return {
        user: {
            "n": len(some),
            "newest": some[-1]["amount"],
            "oldest": some[0]["amount"],
            "three": [each["amount"] for each in some[-3:]][::-1],
            "kinds": len({each["kind"] for each in some} - {None}),
        }
        for user, some in of.items()
    }


def test_every_format_gives_the_values_of_plain_python_online_and_offline(
    project: Callable[..., Project], unique: Callable[[str], str]
) -> None:
    names = {format: unique(f"paid-{format}") for format in FORMATS}
    made = project(definitions(names))
    moment = time.time_ns() // 1_000 - 20 * SECOND_US
    parts = [[{**each, "amount": min(each["amount"], 1e6)} for each in drawn(seed, moment, 150)] for seed in (1, 2, 3)]
    worker = made.start_worker()
    made.wait_until_said("reading ")
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas_at(made.settings.schema_address)) as producer:
        for name in names.values():
            producer.send_many(made.repository.topic(name), parts[0])
        producer.flush()
        worker.kill()
        worker.wait()
        for name in names.values():
            for event in parts[1]:
                producer.send(made.repository.topic(name), event)
    worker = made.start_worker()
    file = made.folder / "events.jsonl"
    file.write_text("\n".join(json.dumps(event) for event in parts[2]))
    for format, name in names.items():
        sent = made.command("send", name, str(file))
        assert sent.returncode == 0, sent.stderr
        assert "150 events acknowledged" in sent.stdout
        assert ("records" in sent.stdout) == (format == "arrow"), "events of one user travel in one record"
    made.wait_until_applied(worker)
    wanted = expected([event for part in parts for event in part])
    tables = {}
    for format in FORMATS:
        view = f"by_{format}"
        table = made.store.get_many(view, {"user": list(wanted)})
        outputs = made.repository.views[view].outputs
        tables[format] = {name: table[f"{view}__{name}"].to_pylist() for name in outputs}
        for place, user in enumerate(wanted):
            assert {name: tables[format][name][place] for name in wanted[user]} == wanted[user], (format, user)
    for format in FORMATS:
        assert tables[format] == tables["json"]
    for one in prove(made.store, list(made.repository.views.values()), time.time_ns() // 1_000):
        assert one.not_null
        assert not one.mismatches
    assert all(one.balanced for one in ledgers(made.settings, made.repository))


def test_a_bad_row_of_a_record_is_a_letter_of_its_own_and_lateness_goes_row_by_row(
    project: Callable[..., Project], unique: Callable[[str], str]
) -> None:
    names = {"arrow": unique("rows")}
    made = project(definitions(names))
    topic = made.repository.topic(names["arrow"])
    moment = time.time_ns() // 1_000

    def record(*rows: tuple[int, float | None]) -> bytes:
        times = pa.array([moment + seconds * SECOND_US for seconds, _ in rows], pa.timestamp("us", tz="UTC"))
        return ipc(pa.table({"user": ["u1"] * len(rows), "at": times, "amount": pa.array([x for _, x in rows])}))

    # The second row of the first record is in time, since what makes it late comes after it.
    records = [
        record((-300, 1.0), (-300, 2.0), (-30, 3.0), (-300, 4.0), (-30, -1.0), (-30, 5.0), (3_600, 6.0), (-30, None)),
        record((-10, -1.0), (-400, 7.0)),
        record(),
        b"\x00",
        record((-30, 8.0)),
    ]
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for each in records:
            producer.send_raw(topic.name, b"u1", each)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    letters = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic.name])
    assert [(one.offset, one.position, one.reason) for one in letters] == [
        (0, 3, "too_late"),
        (0, 4, "out_of_range"),
        (0, 6, "future"),
        (0, 7, "missing_field"),
        (1, 0, "out_of_range"),
        (1, 1, "too_late"),
        (2, None, "no_events"),
        (3, None, "broken_arrow"),
    ]
    # A letter keeps its own row, as a record that could be sent again.
    [kept] = rows(ArrowCodec(topic).decode([letters[1].payload]))
    assert (kept["amount"], kept["at"]) == (-1.0, moment - 30 * SECOND_US)
    row = made.store.get("by_arrow", {"user": "u1"})
    assert (row["by_arrow__n"], row["by_arrow__oldest"], row["by_arrow__newest"]) == (5, 1.0, 8.0)
    assert row["by_arrow__three"] == [8.0, 5.0, 3.0]
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced
    assert (ledger.records, ledger.applied) == (5, 2)
    assert ledger.dead == {"out_of_range": 1, "no_events": 1, "broken_arrow": 1}
    [parity] = prove(made.store, list(made.repository.views.values()), time.time_ns() // 1_000)
    assert parity.not_null
    assert not parity.mismatches
    shown = made.command("dead-letters", "list", "--topic", topic.name)
    assert "0/0/4" in shown.stdout


def test_a_worker_whose_registry_does_not_answer_ends_and_its_restart_loses_nothing(
    project: Callable[..., Project], unique: Callable[[str], str]
) -> None:
    names = {"avro": unique("asked")}
    made = project(definitions(names))
    topic = made.repository.topic(names["avro"])
    schemas = schemas_at(made.settings.schema_address)
    moment = time.time_ns() // 1_000
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas) as producer:
        producer.send_many(topic, [{"user": "u1", "at": moment, "amount": 1.0}] * 10)
    ids = made.settings.offline_path.parent / "schemas" / "ids" / "1.json"
    kept = ids.read_bytes()
    # As a disk that lost its answer: there, and not to be read.
    ids.write_bytes(b"{")
    worker = made.start_worker()
    assert worker.wait(60) != 0
    assert "check the setting schema_registry" in made.said()
    ids.write_bytes(kept)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    assert made.store.get("by_avro", {"user": "u1"})["by_avro__n"] == 10
    assert not read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic.name])


def test_a_definition_that_gains_a_column_goes_on_in_the_same_log(
    project: Callable[..., Project], unique: Callable[[str], str]
) -> None:
    names = {"avro": unique("gains")}
    made = project(definitions(names))
    moment = time.time_ns() // 1_000
    schemas = schemas_at(made.settings.schema_address)
    worker = made.start_worker()
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas) as producer:
        producer.send(made.repository.topic(names["avro"]), {"user": "u1", "at": moment, "amount": 1.0})
    made.drain(worker)
    said = (
        definitions(names).replace('"kind": str', '"kind": str, "shop": str').replace('("kind",)', '("kind", "shop")')
    )
    (made.folder / "definitions" / "all.py").write_text(said)
    made.repository = load(made.folder / "definitions")
    made.store = FeatureStore(made.settings, made.repository)
    worker = made.start_worker()
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas) as producer:
        event = {"user": "u1", "at": moment + 1, "amount": 2.0, "shop": "s"}
        producer.send(made.repository.topic(names["avro"]), event)
    made.wait_until_applied(worker)
    log = made.store.event_log(made.repository.topic(names["avro"])).read(["offset", "shop"]).sort_by("offset")
    assert log["shop"].to_pylist() == [None, "s"]
    assert made.store.get("by_avro", {"user": "u1"})["by_avro__n"] == 2
