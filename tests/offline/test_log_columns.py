"""A definition that changes finds in the log what its events were before, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import Topic
from featurestore.errors import DefinitionError
from featurestore.event_time import Mark
from featurestore.offline import EventLog, LogSlices, log_schema
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
