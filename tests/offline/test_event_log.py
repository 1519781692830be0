"""The event log keeps each event once, whatever is repeated, cut differently, or raced."""

from __future__ import annotations

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import deltalake
import pyarrow as pa
import pytest

from featurestore import Topic
from featurestore.errors import EventLogError, OtherProjectError, TopicError
from featurestore.event_time import Mark
from featurestore.kernel import DataType
from featurestore.offline import EventLog, log_schema

CLICKS = Topic("clicks", {"user": str, "at": "timestamp", "price": float}, event_time="at", nullable=("price",))


def rows(partition: int, first: int, end: int) -> pa.Table:
    columns = {
        "partition": [partition] * (end - first),
        "offset": list(range(first, end)),
        **{name: [0] * (end - first) for name in ("event_us", "effective_us", "arrival_us", "late_by_us")},
        "date": ["1970-01-01"] * (end - first),
        "user": ["a"] * (end - first),
        "at": pa.array([0] * (end - first), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        "price": [1.0] * (end - first),
    }
    return pa.table(columns, schema=log_schema(CLICKS))


def held(log: EventLog) -> list[tuple[int, int]]:
    table = log.read(["partition", "offset"])
    return sorted(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))


def test_a_repeated_batch_adds_nothing_and_a_straddling_one_adds_its_tail(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS)
    log.append(rows(0, 0, 5), {0: Mark(5, 50)})
    log.append(rows(0, 0, 5), {0: Mark(5, 50)})
    log.append(rows(0, 3, 8), {0: Mark(8, 80)})
    assert held(log) == [(0, offset) for offset in range(8)]
    assert EventLog(tmp_path, CLICKS).marks() == {0: Mark(8, 80)}


def test_two_writers_on_one_partition_add_each_event_once(tmp_path: Path) -> None:
    seed = 11
    draw = random.Random(seed)
    writers = [EventLog(tmp_path, CLICKS) for _ in range(3)]
    stands = [0, 0, 0]
    while min(stands) < 120:
        who = draw.randrange(3)
        first = max(0, stands[who] - draw.randrange(10))
        end = stands[who] = min(120, stands[who] + draw.randrange(1, 12))
        writers[who].append(rows(1, first, end), {1: Mark(end, end)})
        stands = [max(stand, end) if draw.random() < 0.3 else stand for stand in stands]
    assert held(writers[0]) == [(1, offset) for offset in range(120)], f"seed {seed}"


def test_writers_that_race_for_the_same_events_add_them_once(tmp_path: Path) -> None:
    EventLog(tmp_path, CLICKS).append(rows(0, 0, 1), {0: Mark(1, 1)})

    def write(_: int) -> None:
        log = EventLog(tmp_path, CLICKS)
        for first in range(1, 40):
            log.append(rows(0, first, first + 2), {0: Mark(first + 2, first)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert held(EventLog(tmp_path, CLICKS)) == [(0, offset) for offset in range(41)]


def test_writers_that_race_to_make_the_log_all_write_to_the_one_that_was_made(tmp_path: Path) -> None:
    # Delta looks whether there is a table; of those who then make it, it may let a second one say anew what it is.
    with ThreadPoolExecutor(4) as pool:
        for number in range(30):
            logs, start = [EventLog(tmp_path / str(number), CLICKS) for _ in range(4)], Barrier(4)

            def write(log: EventLog, start: Barrier = start) -> None:
                start.wait()
                log.append(rows(0, 0, 5), {0: Mark(5, 1)})

            list(pool.map(write, logs))
            assert held(logs[0]) == [(0, offset) for offset in range(5)]


def test_the_tables_own_log_says_how_to_skip_files_and_nothing_about_entities(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS)
    log.append(rows(0, 7, 12), {0: Mark(12, 50)})
    log.append(pa.concat_tables([rows(1, 0, 3), rows(1, 3, 5)]), {1: Mark(5, 50)})
    files = pa.table(deltalake.DeltaTable(str(log.path)).get_add_actions(flatten=True)).to_pylist()
    assert {(one["num_records"], one["min.offset"], one["max.offset"]) for one in files} == {(5, 7, 11), (5, 0, 4)}
    log.compact()
    log.append(rows(0, 0, 0), {0: Mark(20, 60)})
    assert EventLog(tmp_path, CLICKS).marks() == {0: Mark(20, 60), 1: Mark(5, 50)}
    said = [
        json.loads(line) for file in (log.path / "_delta_log").glob("*.json") for line in file.read_text().splitlines()
    ]
    told = [json.loads(one["add"]["stats"]) for one in said if "add" in one]
    assert len(told) == 3
    for one in told:
        assert not {"user", "price"} & (set(one["minValues"]) | set(one["maxValues"]))


def test_a_definition_that_gains_a_column_finds_nulls_in_the_events_of_before(tmp_path: Path) -> None:
    EventLog(tmp_path, CLICKS).append(rows(0, 0, 3), {0: Mark(3, 1)})
    wider = Topic("clicks", {**CLICKS.schema, "shop": str}, event_time="at", nullable=("price", "shop"))
    log = EventLog(tmp_path, wider)
    assert log.read(["offset", "shop"]).to_pydict() == {"offset": [0, 1, 2], "shop": [None] * 3}
    more = rows(0, 3, 5).append_column("shop", pa.array(["s", "t"])).cast(log_schema(wider))
    for writer in (log, EventLog(tmp_path, wider)):
        writer.append(more, {0: Mark(5, 1)})
    found = log.read(["offset", "shop"]).sort_by("offset").to_pydict()
    assert found == {"offset": [0, 1, 2, 3, 4], "shop": [None, None, None, "s", "t"]}


def test_a_definition_that_changes_the_type_of_a_column_is_refused_and_the_log_stays_readable(tmp_path: Path) -> None:
    def log(kind: DataType) -> EventLog:
        schema: dict[str, DataType] = {"user": "string", "at": "timestamp", "amount": kind}
        return EventLog(tmp_path, Topic("typed", schema=schema, event_time="at", partitions=1))

    def row(to: EventLog, offset: int, amount: object) -> pa.Table:
        place = {"partition": 0, "offset": offset, "event_us": 1, "effective_us": 1, "arrival_us": 1, "late_by_us": 0}
        event = {**place, "date": "1970-01-01", "user": "u", "at": 1, "amount": amount}
        return pa.Table.from_pylist([event], log_schema(to.topic))

    before, after = log("int64"), log("float64")
    before.append(row(before, 0, 2), {0: Mark(1, 1)})
    with pytest.raises(TopicError, match="'amount' has the type long in its event log, and double"):
        after.append(row(after, 1, 2.5), {0: Mark(2, 1)})
    assert log("int64").marks() == {0: Mark(1, 1)}
    assert log("int64").read(["amount"])["amount"].to_pylist() == [2]


def test_a_log_is_written_by_one_project_and_read_by_all(tmp_path: Path) -> None:
    # Made before logs said whose they are.
    EventLog(tmp_path, CLICKS).append(rows(0, 0, 3), {0: Mark(3, 1)})
    ours, other = (EventLog(tmp_path, CLICKS, project=project) for project in ("ours", "other"))
    identity = ours.claim()
    assert identity == ours.claim() == EventLog(tmp_path, CLICKS).identity()
    ours.append(rows(0, 3, 5), {0: Mark(5, 1)})
    version = ours.version()
    writes = (
        *(other.claim, other.check_types, other.compact, lambda: other.clean(0, 0)),
        lambda: other.append(rows(0, 5, 6), {0: Mark(6, 1)}),
    )
    for write in writes:
        with pytest.raises(
            OtherProjectError, match=r"by project 'ours', .* give project 'other' an offline_path of its"
        ):
            write()
    assert held(other) == held(EventLog(tmp_path, CLICKS)) == [(0, offset) for offset in range(5)]
    assert (ours.version(), ours.identity()) == (version, identity)


def test_a_log_that_vanishes_under_its_writer_is_not_made_again_in_silence(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS, project="ours")
    log.claim()
    log.append(rows(0, 0, 3), {0: Mark(3, 0)})
    shutil.rmtree(log.path)
    with pytest.raises(EventLogError, match="is gone from"):
        log.append(rows(0, 3, 6), {0: Mark(6, 0)})
    EventLog(tmp_path, CLICKS, project="ours").claim()
    with pytest.raises(EventLogError, match="another one lies in"):
        log.append(rows(0, 3, 6), {0: Mark(6, 0)})


@pytest.mark.parametrize("is_there", [False, True])
def test_of_projects_that_race_for_a_log_one_has_it_and_all_others_are_refused(is_there: bool, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            folder, start = tmp_path / str(number), Barrier(8)
            if is_there:
                EventLog(folder, CLICKS).append(rows(0, 0, 1), {0: Mark(1, 1)})

            def claim(project: str, folder: Path = folder, start: Barrier = start) -> str:
                log = EventLog(folder, CLICKS, project=project)
                start.wait()
                try:
                    log.claim()
                except OtherProjectError as error:
                    return error.owner
                return project

            assert len(set(pool.map(claim, "abcdefgh"))) == 1
            assert [path.name for path in folder.iterdir()] == ["clicks"]


class Asked(EventLog):
    """Counts how often the table is asked for its marks."""

    asked = 0

    def _marks_of(self, table: deltalake.DeltaTable) -> dict[int, Mark]:
        self.asked += 1
        return super()._marks_of(table)


def test_a_writer_that_nobody_came_between_asks_the_table_for_no_marks(tmp_path: Path) -> None:
    log = Asked(tmp_path, CLICKS)
    for first in range(0, 50, 5):
        log.append(rows(0, first, first + 5), {0: Mark(first + 5, first)})
    assert log.asked == 1
    EventLog(tmp_path, CLICKS).append(rows(0, 50, 55), {0: Mark(55, 50)})
    log.append(rows(0, 45, 60), {0: Mark(60, 55)})
    assert log.asked == 2
    assert held(log) == [(0, offset) for offset in range(60)]


def test_compaction_changes_the_files_and_nothing_else(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS)
    for first in range(0, 50, 5):
        log.append(rows(0, first, first + 5), {0: Mark(first + 5, first)})
    before, marks, version = held(log), EventLog(tmp_path, CLICKS).marks(), log.version()
    assert log.files() == 10
    log.compact()
    assert log.files() == 1
    assert held(log) == before
    assert held(log.at(version)) == before
    assert EventLog(tmp_path, CLICKS).marks() == marks
    log.append(rows(0, 45, 60), {0: Mark(60, 60)})
    assert held(log) == [(0, offset) for offset in range(60)]
