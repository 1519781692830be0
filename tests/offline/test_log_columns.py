"""A definition that changes finds in the log what its events were before, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from featurestore import Topic
from featurestore.errors import DefinitionError, TopicError
from featurestore.event_time import Mark
from featurestore.offline import EventLog, LogSlices, Stride, log_schema
from featurestore.spec.contract import FORMATS, Format

PAID = {"user": str, "at": "timestamp", "amount": int}


def paid(schema: dict[str, Any] = PAID, event_time: str = "at", **more: Any) -> Topic:
    return Topic("paid", schema, event_time, partitions=1, format="avro", **more)


def append(log: EventLog, first: int, events: list[dict[str, Any]]) -> None:
    """Commit some events of one partition, all of the first microsecond."""
    end, schema = first + len(events), log_schema(log.topic)
    head = {name: 0 for name in schema.names if name not in log.topic.schema} | {"date": "1970-01-01"}
    rows = [{**head, "offset": offset, **each} for offset, each in zip(range(first, end), events, strict=True)]
    log.append(pa.Table.from_pylist(rows, schema), {0: Mark(end, 0)})


@pytest.mark.parametrize("format", FORMATS)
def test_a_column_may_be_called_like_anything_but_what_the_log_says_itself(format: Format) -> None:
    plain = Topic("t", {"at": "timestamp"}, "at", format=format)
    for name in log_schema(plain).names[:-1]:
        with pytest.raises(DefinitionError, match=f"'{name}' of topic 't' is called like one of its event log's own"):
            Topic("t", {"at": "timestamp", name: str}, "at", format=format)
        with pytest.raises(DefinitionError, match="use lower-case letters"):
            Topic("t", {"at": "timestamp", name.upper(): str}, "at", format=format)
    others = {"position": int} if format != "arrow" else {}
    topic = Topic("t", {"at": "timestamp", "dates": str, **others}, "at", format=format)
    assert len(set(log_schema(topic).names)) == len(log_schema(topic))


def test_a_key_that_a_log_of_before_lacks_names_no_entities_there(tmp_path: Path) -> None:
    append(EventLog(tmp_path, paid()), 0, [{"user": "a", "at": 5, "amount": 1}])
    log = EventLog(tmp_path, paid({**PAID, "shop": str}, nullable=("shop",)))
    assert LogSlices.newest(log).some_entities(["shop"], 10).to_pylist() == []
    append(log, 1, [{"user": "b", "at": 5, "amount": 1, "shop": "s"}])
    assert LogSlices.newest(log).some_entities(["shop"], 10).to_pylist() == [{"shop": "s"}]
    assert LogSlices.newest(log).some_entities(["user", "shop"], 10).to_pylist() == [{"user": "b", "shop": "s"}]


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize(("kind", "values"), [(int, [7, 8, None]), (float, [7.0, 8.0, None]), (str, [None] * 3)])
def test_a_renamed_column_has_what_events_of_before_said_under_its_former_names(
    is_compacted: bool, kind: type, values: list[object], tmp_path: Path
) -> None:
    # One name after another: and the definition of each time knows those before its own.
    first = EventLog(tmp_path, paid(nullable=("amount",)))
    append(first, 0, [{"user": "a", "at": 5, "amount": 7}])
    second = EventLog(tmp_path, paid({"user": str, "at": "timestamp", "sum": int}, renamed={"sum": "amount"}))
    append(second, 1, [{"user": "a", "at": 5, "sum": 8}])
    renamed = {"total": ("sum", "amount"), "who": "user"}
    schema = {"who": str, "at": "timestamp", "total": kind}
    log = EventLog(tmp_path, paid(schema, renamed=renamed, nullable=("total",)))
    before = log.version()
    append(log, 2, [{"who": "b", "at": 5, "total": None}])
    if is_compacted:
        log.compact()
    columns = ["who", "total"]
    wanted = [{"who": who, "total": value} for who, value in zip("aab", values, strict=True)]
    slices = LogSlices.newest(log)
    within = log.between_within(0, 0, 3, columns, 1 << 20)
    assert within is not None
    assert within.to_pylist() == wanted
    for table in (
        log.read(["offset", *columns]),
        log.between(0, 0, 3, ["offset", *columns]),
        slices.read(["offset", *columns], 0, 0, 3, Stride(1 << 20))[0],
    ):
        assert table.sort_by("offset").select(columns).to_pylist() == wanted
        assert table.schema.field("total").type == log_schema(log.topic).field("total").type
    assert log.at(before).read(columns).sort_by("total").to_pylist() == wanted[:2]
    assert sorted(each["who"] for each in slices.some_entities(["who"], 10).to_pylist()) == ["a", "b"]


def test_a_former_name_that_the_log_uses_itself_is_not_read_there(tmp_path: Path) -> None:
    append(EventLog(tmp_path, paid()), 0, [{"user": "a", "at": 5, "amount": 1}])
    schema = {**PAID, "its_date": str, "its_offset": int}
    renamed = {"its_date": "date", "its_offset": "offset"}
    log = EventLog(tmp_path, paid(schema, renamed=renamed, nullable=("its_date", "its_offset")))
    assert log.read(list(renamed)).to_pylist() == [{"its_date": None, "its_offset": None}]


def test_another_event_time_is_refused_where_the_log_says_its_own(tmp_path: Path) -> None:
    schema = {**PAID, "booked": "timestamp"}
    append(EventLog(tmp_path, paid(schema)), 0, [{"user": "a", "at": 5, "amount": 1, "booked": 9}])
    # The table says it still, after it was widened.
    wider = EventLog(tmp_path, paid({**schema, "shop": str}, nullable=("shop",)))
    append(wider, 1, [{"user": "a", "at": 5, "amount": 1, "booked": 9, "shop": "s"}])
    other = EventLog(tmp_path, paid(schema, "booked"))
    version = other.version()
    says = (
        "times by column 'at', and its definition says event_time='booked'; .* or send the events to a topic of anoth"
    )
    with pytest.raises(TopicError, match=says):
        other.check_types()
    with pytest.raises(TopicError, match=says):
        append(other, 2, [{"user": "a", "at": 5, "amount": 1, "booked": 9}])
    assert other.version() == version
    renamed = {"user": str, "amount": int, "paid_at": "timestamp"}
    EventLog(tmp_path, paid(renamed, "paid_at", renamed={"paid_at": "at"})).check_types()
    with pytest.raises(TopicError, match=r"or say renamed=\{'paid_at': 'at'\} where it is the same column"):
        EventLog(tmp_path, paid(renamed, "paid_at")).check_types()
    # A log of before does not say.
    deltalake.DeltaTable(str(other.path)).alter.set_table_description("")
    other.check_types()


def test_a_new_column_that_may_not_be_null_is_refused_where_events_lack_it(tmp_path: Path) -> None:
    strict = EventLog(tmp_path, paid({**PAID, "shop": str}))
    log = EventLog(tmp_path, paid())
    log.append(log_schema(log.topic).empty_table(), {0: Mark(1, 0)})
    # Nothing lacks it yet: an offset that holds no event.
    strict.check_types()
    append(log, 1, [{"user": "a", "at": 5, "amount": 1}])
    says = r"column 'shop' may not be null .* lack it; make it nullable, with nullable=\('shop',\)"
    with pytest.raises(TopicError, match=says):
        strict.check_types()
    with pytest.raises(TopicError, match=says):
        append(strict, 2, [{"user": "a", "at": 5, "amount": 1, "shop": "s"}])
    renamed = {"user": str, "at": "timestamp", "total": str}
    with pytest.raises(TopicError, match="column 'total' may not be null"):
        # The former column is no text.
        EventLog(tmp_path, paid(renamed, renamed={"total": "amount"})).check_types()
    EventLog(tmp_path, paid({**renamed, "total": float}, renamed={"total": "amount"})).check_types()
    EventLog(tmp_path, paid({**PAID, "shop": str}, nullable=("shop",))).check_types()
