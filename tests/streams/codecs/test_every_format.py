"""What holds for every format: what is encoded is decoded as it was, and no bytes make a codec raise."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidEventError
from tests.streams.codecs.conftest import GOOD, Made, rows

LAST_MOMENT = 253_402_300_799_999_999
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
EVENTS = st.fixed_dictionaries(
    {
        "who": TEXT | st.sampled_from(["", "🛩️ Ça", "x" * 65_536, "\x00"]),
        "at": st.integers(0, LAST_MOMENT) | st.sampled_from([0, LAST_MOMENT]),
        "n": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1]),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "ok": st.none() | st.booleans(),
        "note": st.none() | TEXT,
        "seen": st.none() | st.integers(0, LAST_MOMENT),
    }
)
# The registry of a fixture may well be kept from one example to the next.
kept_registry = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def bits(event: dict[str, Any]) -> tuple[str, ...]:
    """Values and their types: -0.0 is not 0.0, nor is 1 True."""
    return tuple(f"{name} {event[name]!r}" for name in GOOD)


@kept_registry
@given(events=st.lists(EVENTS, min_size=1, max_size=4))
def test_what_is_encoded_is_decoded_to_the_bit(made: Made, events: list[dict[str, Any]]) -> None:
    for records in (made.codec.encode(events), made.records(*events)):
        decoded = made.codec.decode(records)
        assert not decoded.rejected
        assert [bits(row) for row in rows(decoded)] == [bits(event) for event in events]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": "two"},
        {"n": 2.5},
        {"n": True},
        {"n": 2**63},
        {"n": None},
        {"at": -1},
        {"at": "2026-01-01T00:00:00"},
        {"at": "1969-12-31T23:59:59Z"},
        {"at": LAST_MOMENT + 1},
        {"at": "9999-12-31T23:59:59-01:00"},
        {"seen": datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-1)))},
        {"who": "\ud800"},
        {"who": b"bytes"},
        {"who": None},
        {"ok": 1},
        {"x": "1.0"},
        {"x": math.nan},
        {"x": math.inf},
        {"x": -math.inf},
    ],
)
def test_a_producer_refuses_what_breaks_the_contract_in_every_format_alike(made: Made, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError):
        made.codec.encode([{**GOOD, **wrong}])


def test_a_moment_is_the_same_in_every_format_whatever_its_zone(made: Made) -> None:
    odd = datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=30)))
    [row] = rows(made.codec.decode(made.codec.encode([{**GOOD, "at": odd, "seen": odd}])))
    assert (row["at"], row["seen"]) == (1_767_225_570_000_000, 1_767_225_570_000_000)


def test_values_nested_too_deeply_in_fields_of_nobody_are_refused_or_left_out(made: Made) -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    if made.topic.format == "json":
        with pytest.raises(InvalidEventError, match="nested too deeply"):
            made.codec.encode([{**GOOD, "more": deep}])
    else:
        assert rows(made.codec.decode(made.codec.encode([{**GOOD, "more": deep}]))) == [GOOD]


def test_a_missing_column_is_null_where_it_may_be_and_refused_where_not(made: Made) -> None:
    [row] = rows(made.codec.decode(made.codec.encode([{"who": "a", "at": "2026-01-01T00:00:00Z", "n": 2, "x": 3}])))
    assert row == {**GOOD, "at": 1_767_225_600_000_000, "x": 3.0, "ok": None}
    with pytest.raises(InvalidEventError):
        made.codec.encode([{"who": "a", "at": 1}])


def test_a_bad_record_is_rejected_and_its_neighbours_are_taken(made: Made) -> None:
    good = made.records({**GOOD, "n": 1}, {**GOOD, "n": 2})
    broken = f"broken_{made.topic.format}"
    records = [good[0], None, b"", b"\xff\xff", good[1][:-1], good[1] + b"\x01", good[1]]
    decoded = made.codec.decode(records)
    assert [(one.index, one.reason) for one in decoded.rejected] == [
        (1, "no_value"),
        (2, broken),
        (3, broken),
        (4, broken),
        (5, broken),
    ]
    assert decoded.index.tolist() == [0, 6]
    assert [row["n"] for row in rows(decoded)] == [1, 2]


def test_a_batch_without_a_good_record_still_has_its_columns(made: Made) -> None:
    for records in ([], [None, b"?"]):
        decoded = made.codec.decode(records)
        assert len(decoded.index) == 0
        assert {name: len(array) for name, array in decoded.arrays.items()} == dict.fromkeys(made.topic.schema, 0)


def mutated(data: st.DataObject, record: bytes) -> bytes:
    out = bytearray(record)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        at = data.draw(st.integers(0, max(len(out) - 1, 0)))
        if kind == "flip" and out:
            out[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del out[at : at + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            out[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            out[at:at] = out[at : at + 8]
    return bytes(out)


@settings(kept_registry, max_examples=400)
@given(data=st.data())
def test_no_bytes_make_a_codec_raise_and_every_record_is_told_of(made: Made, data: st.DataObject) -> None:
    good = made.records(GOOD)[0]
    framed = good[:5] if made.topic.format in ("avro", "protobuf") else b""
    strange = st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: framed + rest)
    bad = [data.draw(strange), mutated(data, good)]
    decoded = made.codec.decode([good, *bad, good])
    told = {*decoded.index.tolist(), *(one.index for one in decoded.rejected)}
    assert told == {0, 1, 2, 3}
    assert {0, 3} <= set(decoded.index.tolist())
    # What is taken can be said again: it is of the types of the contract, whatever it came from.
    for row in rows(decoded):
        assert [bits(each) for each in rows(made.codec.decode(made.codec.encode([row])))] == [bits(row)]


@kept_registry
@given(payloads=st.lists(st.binary(max_size=30), max_size=5))
@example(payloads=[b"\x00\x00\x00\x00\x01"])
def test_a_batch_is_judged_as_its_records_one_by_one(made: Made, payloads: list[bytes]) -> None:
    records = [made.records(GOOD)[0], *payloads, made.records({**GOOD, "n": 7})[0]]
    whole = made.codec.decode(records)
    alone = [made.codec.decode([record]) for record in records]
    assert [row for one in alone for row in rows(one)] == rows(whole)
    assert [(place, bad.reason) for place, one in enumerate(alone) for bad in one.rejected] == [
        (bad.index, bad.reason) for bad in whole.rejected
    ]
