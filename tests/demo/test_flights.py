"""The year of flights as events: true UTC, in the order of becoming known, with bad events at known places."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from featurestore.demo.flights import Flights, bad_events, json_lines, load_flights
from featurestore.demo.produce import compose
from featurestore.event_time import DAY_US, moment_us
from featurestore.spec import load
from streams.codecs.json import JsonCodec

NOW_US = moment_us(datetime(2026, 6, 17, 12, tzinfo=UTC))
DEFINITIONS = Path(__file__).parents[2] / "definitions"


@pytest.fixture(scope="module")
def flights() -> Flights:
    return load_flights(NOW_US)


def test_the_year_is_whole_shifted_by_whole_weeks_and_ends_in_the_last_one(flights: Flights) -> None:
    assert {topic: len(frame) for topic, frame in flights.events.items()} == {
        "flight-departures": 328_521,
        "flight-arrivals": 327_346,
        "airport-weather": 26_115,
    }
    assert flights.shifted_us % (7 * DAY_US) == 0
    newest = max(int(str(frame["known_us"].max())) for frame in flights.events.values())
    assert NOW_US - 7 * DAY_US < newest <= NOW_US


def test_times_are_utc_across_zones_and_clock_changes(flights: Flights) -> None:
    # UA 1545 left Newark for Houston on 1 January 2013 at 05:17 New York time and arrived at 08:30 Houston time.
    first = (
        flights.events["flight-departures"].filter(flight=1545, tailnum="N14228").sort("departed_at").row(0, named=True)
    )
    arrived = (
        flights.events["flight-arrivals"].filter(flight=1545, tailnum="N14228").sort("arrived_at").row(0, named=True)
    )
    assert first["departed_at"] - flights.shifted_us == moment_us(datetime(2013, 1, 1, 10, 17, tzinfo=UTC))
    assert arrived["arrived_at"] - flights.shifted_us == moment_us(datetime(2013, 1, 1, 14, 30, tzinfo=UTC))


def test_events_come_in_the_order_of_becoming_known_and_not_of_happening(flights: Flights) -> None:
    for topic, at in (("flight-departures", "departed_at"), ("flight-arrivals", "arrived_at")):
        frame = flights.events[topic]
        assert frame["known_us"].is_sorted()
        assert not frame[at].is_sorted()
        assert frame.filter(pl.col(at) > pl.col("known_us")).is_empty()


def test_good_events_keep_their_contract_and_each_bad_one_breaks_it_as_planted(flights: Flights) -> None:
    topics = load(DEFINITIONS).topics
    for name, frame in flights.events.items():
        lines = json_lines(frame.head(20_000))
        codec = JsonCodec(topics[name])
        assert not codec.decode(lines).rejected
        bad = bad_events(name, lines, seed=1)
        assert len(bad) == len(lines) // 200
        kinds = Counter(kind for kind, _ in bad.values())
        assert max(kinds.values()) - min(kinds.values()) <= 1
        for kind, payload in bad.values():
            rejected = codec.decode([payload]).rejected
            found = rejected[0].reason if rejected else "time"
            assert found == (kind if kind in ("broken_json", "missing_field", "wrong_type") else "time")


def test_the_spine_asks_an_hour_before_the_schedule(flights: Flights) -> None:
    spine = flights.spine
    assert len(spine) > 320_000
    assert spine["late"].mean() == pytest.approx(0.237, abs=0.01)
    assert spine["tailnum"].null_count() == 0


def test_sends_are_all_of_it_in_one_order(flights: Flights) -> None:
    year = compose(flights, load(DEFINITIONS).topics)
    assert len(year.topic) == sum(len(frame) for frame in flights.events.values())
    assert year.total == len(year.topic) + sum(len(bad) for bad in year.bad.values())
    names = list(year.lines)
    known = [flights.events[name]["known_us"].to_list() for name in names]
    moments = [known[topic][place] for topic, place in zip(year.topic.tolist(), year.place.tolist(), strict=True)]
    assert moments == sorted(moments)
