"""Spines as authors have them: moments of any unit, and columns of any name."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureView, Topic, count
from featurestore.errors import RepeatedColumnError, WrongTypeError
from featurestore.event_time import Mark
from featurestore.offline import EventLog, log_schema, service_join

PAID = Topic("paid", {"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=1)
BY_USER = FeatureView("by_user", Entity("user", key="user"), PAID, features={"n": count()})
SERVICE = FeatureService("paying", [BY_USER], derived={"twice": pl.col("by_user__n") * 2})
EVENT_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    """Of one event, of the user "a"."""
    log = EventLog(tmp_path_factory.mktemp("log"), PAID)
    event = {
        **{name: [0] for name in ("partition", "offset", "late_by_us")},
        **{name: [EVENT_US] for name in ("event_us", "effective_us", "arrival_us")},
        "date": ["2023-11-14"],
        "user": ["a"],
        "at": pa.array([EVENT_US]).cast(pa.timestamp("us", tz="UTC")),
    }
    log.append(pa.table(event, schema=log_schema(PAID)), {0: Mark(1, EVENT_US, "topic")})
    return log


def spine(moments: list[int], unit: str, **more: list[int]) -> pa.Table:
    at = pa.array(moments, pa.int64()).cast(pa.timestamp(unit, tz="UTC"))
    return pa.table({"user": ["a"] * len(moments), "event_timestamp": at, **more})


def test_nanoseconds_stand_for_their_microsecond(log: EventLog) -> None:
    asked = spine([EVENT_US * 1_000 - 1, EVENT_US * 1_000, EVENT_US * 1_000 + 999, -1], "ns")
    joined = service_join(asked, SERVICE, lambda topic: log)
    assert joined["by_user__n"].to_pylist() == [0, 1, 1, 0]
    assert joined["event_timestamp"] == asked["event_timestamp"]


def test_moments_too_far_for_microseconds_are_told(log: EventLog) -> None:
    with pytest.raises(WrongTypeError, match=r"'event_timestamp' must be moments that microseconds can say: .*out of"):
        service_join(spine([2**62], "s"), SERVICE, lambda topic: log)


@pytest.mark.parametrize("name", ["by_user__n", "twice"])
def test_a_column_that_the_join_adds_is_told(name: str, log: EventLog) -> None:
    with pytest.raises(RepeatedColumnError, match=f"column '{name}', which the join adds itself; rename it"):
        service_join(spine([0], "us", **{name: [5]}), SERVICE, lambda topic: log)


def test_two_columns_of_one_name_are_told(log: EventLog) -> None:
    asked = spine([0], "us").append_column("user", pa.array(["b"]))
    with pytest.raises(RepeatedColumnError, match="two columns 'user'"):
        service_join(asked, SERVICE, lambda topic: log)


def test_a_key_that_cannot_be_cast_says_why(log: EventLog) -> None:
    asked = spine([0], "us").set_column(0, "user", pa.array([[1]]))
    with pytest.raises(WrongTypeError, match=r"'user' must be string: .*list"):
        service_join(asked, SERVICE, lambda topic: log)
