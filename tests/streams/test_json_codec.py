"""The contract of a topic: what is taken, what is refused and why; a batch is judged as its records one by one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import Topic
from streams.codecs.json import JsonCodec

TOPIC = Topic(
    "t",
    schema={"who": str, "at": "timestamp", "n": int, "x": float, "ok": bool, "money": "decimal(8, 2)"},
    event_time="at",
    nullable=("x", "ok", "money"),
)
GOOD = {"who": "a", "at": 1, "n": 2, "x": 3.5, "ok": True, "money": "1.25"}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{broken", "broken_json"),
        (b"", "broken_json"),
        (b"\xff\xfe", "broken_json"),
        (None, "no_value"),
        (b"[]", "wrong_type"),
        (b'{"at": 1, "n": 2}', "missing_field"),
        (json.dumps({**GOOD, "n": "two"}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "n": 2.5}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "n": 2**63}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "n": None}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "at": -1}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "at": "2026-01-01T00:00:00"}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "at": "1969-12-31T23:59:59Z"}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "at": "0001-01-01T00:00:00+14:00"}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "at": "9999-12-31T23:59:59-01:00"}).encode(), "wrong_type"),
        (json.dumps({**GOOD, "n": 1.0}).encode(), "wrong_type"),
        (b'{"who": "\\ud800", "at": 1, "n": 2}', "broken_json"),
        # Text that no column reads is UTF-8 as well: in a name, a value, and deep in one.
        (b'{"who": "a", "at": 1, "n": 2, "m\xefre": 1}', "broken_json"),
        (b'{"who": "a", "at": 1, "n": 2, "more": "\xed\xa0\x80"}', "broken_json"),
        (b'{"who": "a", "at": 1, "n": 2, "more": {"deep": ["\xff"]}}', "broken_json"),
        (b'{"who": "a", "at": 1, "n": 2, "x": 1e400}', "wrong_type"),
        (b'{"who": "a", "at": 1, "n": 2, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "broken_json"),
        (json.dumps({**GOOD, "x": float("nan")}).encode(), "broken_json"),
        (b'{"who": "a", "at": 1, "n": 2}, {"who": "b", "at": 1, "n": 2}', "broken_json"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason_and_the_others_are_taken(payload: bytes | None, reason: str) -> None:
    good = json.dumps(GOOD).encode()
    decoded = JsonCodec(TOPIC).decode([good, payload, good])
    assert [(one.index, one.reason) for one in decoded.rejected] == [(1, reason)]
    assert decoded.index.tolist() == [0, 2]
    assert decoded.arrays["n"].to_pylist() == [2, 2]


def test_times_are_microseconds_or_iso_text_with_a_zone_and_unknown_fields_are_left_alone() -> None:
    lines = [
        {**GOOD, "at": 1_767_225_600_000_001},
        {**GOOD, "at": "2026-01-01T01:00:00.000001+01:00", "more": [1]},
        {"who": "a", "at": 5, "n": 2},
    ]
    decoded = JsonCodec(TOPIC).decode([json.dumps(line).encode() for line in lines])
    assert decoded.arrays["at"].cast("int64").to_pylist() == [1_767_225_600_000_001, 1_767_225_600_000_001, 5]
    assert decoded.arrays["x"].is_valid().to_pylist() == [True, True, False]


MONEY = Topic(
    "money",
    schema={"at": "timestamp", "x": "decimal(5, 2)", "y": "decimal(18, 0)"},
    event_time="at",
    nullable=("y",),
)


def test_decimals_are_read_digit_by_digit_and_never_rounded() -> None:
    taken = {
        b"12.34": "12.34",
        b'"12.34"': "12.34",
        b"12.340": "12.34",
        b"-0.00": "0.00",
        b"1e2": "100.00",
        b"-999.99": "-999.99",
        b" 7": "7.00",
    }
    refused = {
        b"12.345": "12.345 has more than 2 digits after the point of decimal(5, 2) - at `$.x`",
        b"1000": "1000 has more digits than decimal(5, 2) - at `$.x`",
        b'"NaN"': "expected decimal(5, 2), got NaN - at `$.x`",
        b'"1_0"': "expected decimal(5, 2), got 1_0 - at `$.x`",
        b"null": "expected decimal(5, 2), got null - at `$.x`",
        b"true": "expected decimal(5, 2), got true - at `$.x`",
        b'{"a": 1}': 'expected decimal(5, 2), got {"a": 1} - at `$.x`',
        b"1e999999999": "1e999999999 has more digits than decimal(5, 2) - at `$.x`",
        b"1e-999999999": "1e-999999999 has more than 2 digits after the point of decimal(5, 2) - at `$.x`",
    }
    records = [b'{"at": 1, "x": %s}' % text for text in (*taken, *refused)]
    codec = JsonCodec(MONEY)
    decoded = codec.decode(records)
    assert decoded.arrays["x"].type == pa.decimal128(5, 2)
    assert [str(value) for value in decoded.arrays["x"].to_pylist()] == list(taken.values())
    assert decoded.arrays["y"].null_count == len(taken)
    assert [one.index for one in decoded.rejected] == list(range(len(taken), len(records)))
    assert [(one.reason, one.detail) for one in decoded.rejected] == [("wrong_type", text) for text in refused.values()]
    # More digits than any float has, as a number.
    [most] = codec.decode([b'{"at": 1, "x": 0, "y": -999999999999999999}']).arrays["y"].to_pylist()
    assert most == Decimal("-999999999999999999")
    for record in records[len(taken) :]:
        with pytest.raises(msgspec.ValidationError, match="x"):
            codec.read(record)
    assert codec.read(codec.check({"at": 1, "x": Decimal("1.5"), "y": None})).x == Decimal("1.50")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner),
    max_leaves=6,
)


@given(st.lists(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20), max_size=6))
def test_a_batch_is_judged_as_its_records_one_by_one(payloads: list[bytes]) -> None:
    codec = JsonCodec(TOPIC)
    good = json.dumps(GOOD).encode()
    records = [good, *payloads]
    whole = codec.decode(records)
    alone: list[Any] = [codec.decode([record]) for record in records]
    assert whole.index.tolist() == [place for place, one in enumerate(alone) if len(one.index)]
    assert [(r.index, r.reason) for r in whole.rejected] == [
        (place, one.rejected[0].reason) for place, one in enumerate(alone) if one.rejected
    ]


def test_a_producer_refuses_what_the_engine_would_refuse() -> None:
    codec = JsonCodec(TOPIC)
    for wrong in ({"at": "1969-12-31T23:59:59Z"}, {"at": "9999-12-31T23:59:59-01:00"}, {"n": "two"}, {"at": None}):
        with pytest.raises(msgspec.ValidationError):
            codec.check({**GOOD, **wrong})
    assert codec.read(codec.check(GOOD)).who == "a"
