"""The HTTP server as a client meets it: the same values as the SDK, and errors that say what to write instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from featurestore.errors import MissingEntityKeyError, WrongTypeError
from featurestore.local import LocalStack, free_port, start_server
from streams.producer import EventProducer
from tests.project import Project

DEFINITIONS = """
import polars as pl
from featurestore import Entity, FeatureService, FeatureView, Topic, count, counts, last, last_n, mean, session
from featurestore import sum as total

ride = Topic("rides", schema={"rider": str, "zone": int, "at": "timestamp", "fare": float,
             "tip": "decimal(6, 2)", "by_card": bool}, event_time="at", key="rider")
by_rider = FeatureView("by_rider", Entity("rider", key="rider"), ride, lateness="1h",
                       features={"n": count(), "fare_mean": mean("fare").over("1h"), "newest": last("at"),
                                 "tips": total("tip"), "by_card": counts("by_card"), "tip_counts": counts("tip")})
by_zone = FeatureView("by_zone", Entity("zone", key="zone"), ride, lateness="1h", max_age="1h", features={"n": count()})
habits = FeatureView("habits", Entity("rider", key="rider"), ride, columns={"cents": pl.col("fare") * 100}, features={
    "fares": last_n("fare", 2), "zones": counts("zone").over(session("30m")),
    "dear": count(where=pl.col("fare") >= 5), "cents": mean("cents")})
pricing = FeatureService("pricing", [by_rider["n", "fare_mean_1h"], by_zone], owner="rides@example.org")
bill = FeatureService("bill", [by_rider["tips", "by_card", "tip_counts"]], request={"fee": "decimal(8, 2)"},
                      derived={"due": pl.col("fee") + pl.col("by_rider__tips")})
waited = FeatureService("waited", [by_rider["n"]], request={"since": "timestamp"},
                        derived={"year": pl.col("since").dt.year()})
quote = FeatureService("quote", [by_rider["fare_mean_1h"], habits], request={"offer": float},
                       derived={"against_mean": pl.col("offer") / pl.col("by_rider__fare_mean_1h"),
                                "doubled": pl.col("against_mean") * 2,
                                "of_two": pl.col("habits__fares").list.sum() + pl.col("doubled"),
                                "in_zone_1": pl.col("habits__zones_session_30m").map.get(1)})
"""


@pytest.fixture(scope="module")
def served(
    stack: LocalStack, tmp_path_factory: pytest.TempPathFactory, unique: Callable[[str], str]
) -> Iterator[tuple[Project, httpx.Client]]:
    folder: Path = tmp_path_factory.mktemp("http")
    port = free_port()
    made = Project(stack, folder, unique("http"), DEFINITIONS, http_port=port)
    worker = made.start_worker()
    server = start_server(made.settings, folder)
    try:
        with EventProducer(made.settings.kafka_bootstrap) as producer:
            for number in range(10):
                now_us = time.time_ns() // 1_000
                event = {"rider": "ann", "zone": number % 2, "at": now_us, "fare": float(number), "by_card": number < 3}
                event["tip"] = Decimal("0.10") if number else 1.2
                producer.send(made.repository.topic("rides"), event)
        made.wait_until_applied(worker)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield made, client
    finally:
        server.stop()
        made.stop()


def test_values_are_those_of_the_sdk_and_an_unknown_key_says_so(served: tuple[Project, httpx.Client]) -> None:
    made, client = served
    entities = {"rider": ["ann", "nobody"], "zone": [1, 9]}
    answer = client.post("/v1/features", json={"service": "pricing", "entities": entities})
    assert answer.status_code == 200
    columns = answer.json()["columns"]
    sdk = made.store.get_many("pricing", entities).to_pydict()
    timeless = [name for name in sdk if not name.endswith("__age_s")]
    assert {name: columns[name] for name in timeless} == {name: sdk[name] for name in timeless}
    assert columns["by_rider__n"] == [10, 0]
    assert columns["by_rider__fare_mean_1h"] == [4.5, None]
    assert columns["by_rider__status"] == ["PRESENT", "NOT_FOUND"]
    assert columns["by_zone__status"] == ["PRESENT", "NOT_FOUND"]


def test_one_entity_by_address_has_age_and_watermark(served: tuple[Project, httpx.Client]) -> None:
    _, client = served
    row = client.get("/v1/features/pricing", params={"rider": "ann", "zone": "0"}).json()
    assert row["by_zone__n"] == 5
    assert 0 <= row["by_rider__age_s"] < 300
    assert row["by_rider__watermark"] < row["by_rider__watermark"][:4] + "-12-31T24"
    plain = client.get("/v1/features/by_rider", params={"rider": "ann"}).json()
    assert plain["by_rider__newest"].startswith("20")


def test_decimals_are_text_in_answers_and_text_or_numbers_in_questions(served: tuple[Project, httpx.Client]) -> None:
    made, client = served
    for fee in ("2.05", 2.05):
        asked = {"service": "bill", "entities": {"rider": ["ann", "nobody"], "fee": [fee, 1]}}
        columns = client.post("/v1/features", json=asked).json()["columns"]
        assert columns["by_rider__tips"] == ["2.10", None]
        assert columns["due"] == ["4.15", None]
        assert columns["by_rider__tip_counts"] == [{"0.10": 9, "1.20": 1}, None]
        assert columns["by_rider__by_card"] == [{"true": 3, "false": 7}, None]
    row = client.get("/v1/features/bill", params={"rider": "ann", "fee": "2.05"}).json()
    assert (row["due"], row["by_rider__by_card"]) == ("4.15", {"true": 3, "false": 7})
    assert made.store.get("bill", {"rider": "ann", "fee": Decimal("2.05")})["due"] == Decimal("4.15")
    for wrong in ("2.055", 0.1 + 0.2, "1e7", "two", True):
        asked = {"service": "bill", "entities": {"rider": ["ann"], "fee": [wrong]}}
        answer = client.post("/v1/features", json=asked)
        assert answer.status_code == 422
        assert "'fee' must be decimal(8, 2): " in answer.json()["error"]["message"]
    fees = pa.array([Decimal("2.05"), Decimal("1.00")], pa.decimal128(20, 2))
    moments = pa.array([datetime.now(UTC)] * 2, pa.timestamp("us", tz="UTC"))
    spine = pa.table({"rider": ["ann", "nobody"], "fee": fees, "event_timestamp": moments})
    assert made.store.point_in_time("bill", spine)["due"].to_pylist() == [Decimal("4.15"), None]


def test_moments_are_asked_for_as_events_say_them(served: tuple[Project, httpx.Client]) -> None:
    _, client = served
    # A text is rounded to its microsecond, as in an event.
    rounded_up = "2025-12-31T23:59:59.9999996Z"
    for since in ("2025-12-31T23:30:00-01:00", "2026-01-01T00:00:00Z", 1_767_225_600_000_000, rounded_up):
        asked = {"service": "waited", "entities": {"rider": ["ann"], "since": [since]}}
        assert client.post("/v1/features", json=asked).json()["columns"]["year"] == [2026]
    assert (
        client.get("/v1/features/waited", params={"rider": "ann", "since": "2025-01-01T00:00:00Z"}).json()["year"]
        == 2025
    )


def test_lists_maps_and_derived_features_are_served_and_joined_alike(served: tuple[Project, httpx.Client]) -> None:
    made, client = served
    entities = {"rider": ["ann", "nobody"], "offer": [9.0, 1.0]}
    columns = client.post("/v1/features", json={"service": "quote", "entities": entities}).json()["columns"]
    assert columns["habits__fares"] == [[9.0, 8.0], None]
    assert columns["habits__zones_session_30m"] == [{"0": 5, "1": 5}, None]
    assert columns["habits__dear"] == [5, 0]
    assert columns["habits__cents"] == [450.0, None]
    assert columns["against_mean"] == [2.0, None]
    assert (columns["doubled"], columns["of_two"], columns["in_zone_1"]) == ([4.0, None], [21.0, None], [5, None])
    for offer in ("18", "1.8e1"):
        row = client.get("/v1/features/quote", params={"rider": "ann", "offer": offer}).json()
        assert row["against_mean"] == 4.0
    assert client.get("/v1/features/quote", params={"rider": "ann", "offer": "much"}).status_code == 422
    assert "offer" in client.get("/v1/features/quote", params={"rider": "ann"}).json()["error"]["message"]
    now = datetime.now(UTC)
    spine = pa.table({**entities, "event_timestamp": pa.array([now, now], pa.timestamp("us", tz="UTC"))})
    joined = made.store.point_in_time("quote", spine)
    online = made.store.get_many("quote", entities)
    for name in made.repository.service("quote").columns:
        assert joined[name].combine_chunks() == online[name].combine_chunks(), name
    with pytest.raises(MissingEntityKeyError, match="offer"):
        made.store.point_in_time("quote", spine.drop_columns(["offer"]))


def test_what_there_is_to_look_up_is_listed(served: tuple[Project, httpx.Client]) -> None:
    _, client = served
    listed = {one["name"]: one for one in client.get("/v1/services").json()["services"]}
    assert listed["pricing"]["entity_keys"] == {"rider": "string", "zone": "int64"}
    assert listed["pricing"]["features"]["by_rider__fare_mean_1h"] == "float64"
    assert client.get("/v1/services/pricing").json() == listed["pricing"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"service": "pricng", "entities": {"rider": ["a"], "zone": [1]}}, 404, "'pricing'"),
        ({"service": "pricing", "entities": {"ridr": ["a"], "zone": [1]}}, 422, "['rider', 'zone']"),
        ({"service": "pricing", "entities": {"rider": ["a"]}}, 422, "['rider', 'zone']"),
        ({"service": "pricing", "entities": {"rider": ["a"], "zone": ["x"]}}, 422, "'zone' must be int64"),
        ({"service": "pricing", "entities": {"rider": [5], "zone": [1]}}, 422, "'rider' must be string"),
        ({"service": "pricing", "entities": {"rider": ["a", "b"], "zone": [1]}}, 422, "one length"),
        ({"service": "pricing", "entities": {"rider": ["a"], "zone": [2**70]}}, 422, "'zone' must be int64"),
        ({"service": "pricing", "entities": {"rider": ["a"], "zone": [1.5]}}, 422, "'zone' must be int64"),
        ({"service": "waited", "entities": {"rider": ["a"], "since": ["2026-01-01T00:00:00"]}}, 422, "has no zone"),
        ({"service": "waited", "entities": {"rider": ["a"], "since": ["yesterday"]}}, 422, "'since' must be timestamp"),
        (
            {"service": "waited", "entities": {"rider": ["a"], "since": ["9999-12-31T23:59:59-01:00"]}},
            422,
            "is not in the years 1 to 9999",
        ),
        (
            {"service": "waited", "entities": {"rider": ["a"], "since": [-(10**17)]}},
            422,
            "is not in the years 1 to 9999",
        ),
        ({"service": "pricing", "entities": {"rider": [None], "zone": [1]}}, 400, "body"),
        ({"service": "pricing"}, 400, "entities"),
        ({"service": "pricing", "entities": {}, "more": 1}, 400, "more"),
        ([], 400, "body"),
    ],
)
def test_a_wrong_request_is_told_what_is_right(
    served: tuple[Project, httpx.Client], body: object, status: int, says: str
) -> None:
    _, client = served
    answer = client.post("/v1/features", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert says in answer.json()["error"]["message"]


def test_other_wrong_requests(served: tuple[Project, httpx.Client]) -> None:
    made, client = served
    with pytest.raises(WrongTypeError, match=r"'rider' must be string: .* is not UTF-8"):
        made.store.get("by_rider", {"rider": "a\udcff"})
    assert client.post("/v1/features", content=b"\xff{").status_code == 400
    assert client.post("/v1/features", content=b"x" * (5 << 20)).status_code == 413
    assert "GET /v1/services" in client.get("/nowhere").json()["error"]["message"]
    assert client.delete("/v1/features").status_code == 405
    for zone in ("x", "\u00b2", "1.5", "", "1_0", "\u0661", " 1"):
        answer = client.get("/v1/features/by_zone", params={"zone": zone})
        assert answer.status_code == 422, answer.text
        assert "zone" in answer.json()["error"]["message"]
    for query, status, says in (
        ("by_rider?rider=ann&rider=bob", 422, "'rider' must be one string: it is given more than once, last as 'bob'"),
        ("by_rider?rider=a%ff", 400, "the query is not UTF-8"),
        ("by_rider?rid%ffr=a", 400, "the query is not UTF-8"),
        ("quote?rider=ann&offer=1_8", 422, "'offer' must be float64: '1_8' is no number in plain digits"),
    ):
        answer = client.get(f"/v1/features/{query}")
        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]["message"]
    answer = client.get("/v1/features/by_rydr", params={"rider": "a"})
    assert answer.status_code == 404
    assert "by_rider" in answer.json()["error"]["message"]
    many = {"service": "by_rider", "entities": {"rider": ["a"] * 10_001}}
    assert client.post("/v1/features", json=many).status_code == 422


def test_a_store_that_is_away_is_a_503_without_our_insides(tmp_path: Path, stack: LocalStack) -> None:
    made = Project(stack, tmp_path, "away", DEFINITIONS, http_port=free_port())
    settings = made.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    # Not ready, but alive: it must answer that much by itself.
    from featurestore.client import FeatureStore
    from featurestore.server import make_app

    transport = httpx.ASGITransport(make_app(FeatureStore(settings, made.repository)))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            return [await client.get(path) for path in ("/live", "/health", "/v1/features/by_rider?rider=a")]

    import asyncio

    live, health, lookup = asyncio.run(ask())
    assert (live.status_code, health.status_code, lookup.status_code) == (200, 503, 503)
    assert "127.0.0.1" not in lookup.text
