"""A training set is found again by all that decided it, and by nothing less."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa

from featurestore import Entity, FeatureService, FeatureView, Topic, sum
from featurestore.event_time import Mark
from featurestore.offline import EventLog, TrainingSet, log_schema, make_training_set

NOW_US = 1_700_000_000_000_000
PAID = Topic("paid", {"user": str, "at": "timestamp", "amount": int}, event_time="at", partitions=1)
VIEW = FeatureView("by_user", Entity("user", key="user"), PAID, features={"paid": sum("amount")})
SERVICE = FeatureService("spent", [VIEW])


def log_of(folder: Path, amount: int) -> EventLog:
    times = dict.fromkeys(("event_us", "effective_us", "arrival_us", "at"), NOW_US)
    row = {"partition": 0, "offset": 0, "late_by_us": 0, "date": "2023-11-14", "user": "a", "amount": amount, **times}
    log = EventLog(folder, PAID)
    log.append(pa.Table.from_pylist([row], log_schema(PAID)), {0: Mark(1, NOW_US)})
    return log


def test_a_set_of_one_log_is_not_found_again_for_another_of_the_same_version(tmp_path: Path) -> None:
    spine = pa.table({"user": ["a"], "event_timestamp": pa.array([NOW_US + 1], pa.int64())})

    def made(log: EventLog) -> TrainingSet:
        return make_training_set(
            spine, SERVICE, lambda topic: log, tmp_path / "sets", label=None, event_time="event_timestamp"
        )

    first, second = made(log_of(tmp_path / "a", 1)), made(log_of(tmp_path / "b", 100))
    assert [each.table()["by_user__paid"].to_pylist() for each in (first, second)] == [[1], [100]]
    assert made(EventLog(tmp_path / "a", PAID)) == first
    shutil.rmtree(tmp_path / "a")
    again = made(log_of(tmp_path / "a", 7))
    assert again.table()["by_user__paid"].to_pylist() == [7]
    assert again.manifest.log_versions == first.manifest.log_versions
