"""Ranges, lengths and choices: checked when built, by producer and engine alike, in every format."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import DefinitionError, InvalidEventError
from featurestore.spec.contract import FORMATS, Format
from streams.codecs import codec_of
from streams.schemas import FolderSchemas
from tests.streams.codecs.conftest import make_of, rows

SCHEMA: dict[str, Any] = {"who": str, "at": "timestamp", "n": int, "x": float}
SAID: dict[str, Any] = {
    "schema": SCHEMA,
    "nullable": ("n", "x"),
    "ranges": {"x": (0, 1e6), "n": (None, 2**62)},
    "lengths": {"who": (1, 3)},
    "choices": {"who": ["a", "bc", "🛩️", "abcd"]},
}
CASES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"x": 0.0, "n": 2**62}, None),
    ({"x": 1e6, "n": -(2**63)}, None),
    ({"x": None, "n": None}, None),
    ({"who": "🛩️"}, None),  # two characters, seven bytes
    ({"x": -5e-324}, "`x` is -5e-324, less than 0.0"),
    ({"x": math.nextafter(1e6, math.inf)}, "`x` is 1000000.0000000001, more than 1000000.0"),
    ({"n": 2**62 + 1}, "`n` is 4611686018427387905, more than 4611686018427387904"),
    ({"who": ""}, "`who` is '', less than 1 characters"),
    ({"who": "abcd"}, "`who` is 'abcd', more than 3 characters"),
    ({"who": "no"}, "`who` is 'no', not one of 'a', 'bc', '🛩️', 'abcd'"),
    ({"who": "x" * 70_000}, "... (70000 characters), more than 3 characters"),
]


@pytest.mark.parametrize("format", FORMATS)
def test_producer_and_engine_refuse_the_same_for_the_same_reason(format: Format, tmp_path: Path) -> None:
    schemas = FolderSchemas(tmp_path)
    held = make_of(format, schemas, **SAID)
    free = make_of(format, schemas, schema=SCHEMA, nullable=("n", "x"))
    events = [{"who": "a", "at": 1, "n": 1, "x": 1.0, **some} for some, _ in CASES]
    decoded = held.codec.decode(free.records(*events))
    assert [one.index for one in decoded.rejected] == [place for place, (_, said) in enumerate(CASES) if said]
    assert {one.reason for one in decoded.rejected} == {"out_of_range"}
    for one in decoded.rejected:
        assert str(CASES[one.index][1]) in one.detail
        with pytest.raises(InvalidEventError) as refused:
            held.codec.encode([events[one.index]])
        assert f"out_of_range: {one.detail}" in str(refused.value)
    taken = [event for event, (_, said) in zip(events, CASES, strict=True) if said is None]
    assert rows(decoded) == taken == rows(held.codec.decode(held.records(*taken)))


@pytest.mark.parametrize("value", [Decimal("1.25"), Decimal("NaN"), Decimal(3)])
def test_a_decimal_for_a_float_is_refused_where_it_would_be_written_as_text(value: Decimal) -> None:
    codec = codec_of(Topic("paid", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at"))
    with pytest.raises(InvalidEventError, match="amount"):
        codec.encode([{"user": "u", "at": 1, "amount": value}])


def test_a_row_of_a_record_of_many_is_rejected_by_its_place(tmp_path: Path) -> None:
    free = make_of("arrow", FolderSchemas(tmp_path), schema=SCHEMA, nullable=("n", "x"))
    held = make_of("arrow", FolderSchemas(tmp_path), **SAID)
    records = free.codec.encode([{"who": "a", "at": 1, "n": 1, "x": x} for x in (1.0, -1.0, None, 2e6)])
    decoded = held.codec.decode(records)
    assert [(one.index, one.position) for one in decoded.rejected] == [(0, 1), (0, 3)]
    assert decoded.position is not None
    assert decoded.position.tolist() == [0, 2]


BOUNDS = st.none() | st.integers(-(2**63), 2**63 - 1)


@given(least=BOUNDS, most=BOUNDS, values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8))
def test_a_range_takes_what_a_plain_comparison_takes(least: int | None, most: int | None, values: list[Any]) -> None:
    if least is most is None or (least is not None and most is not None and least > most):
        return
    topic = Topic("t", {"at": "timestamp", "n": int}, "at", nullable=("n",), ranges={"n": (least, most)})
    records = [b'{"at": 1, "n": %s}' % str("null" if each is None else each).encode() for each in values]
    plain = [
        each for each in values if each is None or ((least is None or least <= each) and (most is None or each <= most))
    ]
    assert codec_of(topic).decode(records).arrays["n"].to_pylist() == plain


CENTS = st.integers(-99_999, 99_999).map(lambda cents: Decimal(cents).scaleb(-2))


@given(least=st.none() | CENTS, most=st.none() | CENTS, values=st.lists(st.none() | CENTS, max_size=8))
def test_a_range_of_amounts_takes_what_exact_numbers_take(
    least: Decimal | None, most: Decimal | None, values: list[Decimal | None]
) -> None:
    if least is most is None or (least is not None and most is not None and least > most):
        return
    schema = {"at": "timestamp", "n": "decimal(5, 2)"}
    topic = Topic("t", schema, "at", nullable=("n",), ranges={"n": (least, most)})
    records = [b'{"at": 1, "n": %s}' % ("null" if each is None else f'"{each}"').encode() for each in values]
    plain = [
        each for each in values if each is None or ((least is None or least <= each) and (most is None or each <= most))
    ]
    assert codec_of(topic).decode(records).arrays["n"].to_pylist() == plain


def test_a_price_out_of_its_range_is_told_as_it_was_written() -> None:
    topic = Topic("t", {"at": "timestamp", "n": "decimal(5, 2)"}, "at", ranges={"n": (0.01, "100")})
    assert topic.contract == {"n": "0.01 to 100.00"}
    [rejection] = codec_of(topic).decode([b'{"at": 1, "n": 100.01}']).rejected
    assert (rejection.reason, rejection.detail) == ("out_of_range", "`n` is 100.01, more than 100.00")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ranges": {"amuont": (0, 1)}}, "did you mean 'amount'"),
        ({"ranges": {"who": (0, 1)}}, "a range is for int, float and decimals"),
        ({"ranges": {"at": (0, 1)}}, "a range is for int, float and decimals"),
        ({"ranges": {"price": (2, 1)}}, "swap them"),
        ({"ranges": {"price": (0, "0.001")}}, "more than 2 digits after the point"),
        ({"ranges": {"price": (0, True)}}, r"expected decimal\(5, 2\)"),
        ({"ranges": {"price": (0, 1_000)}}, "more digits than"),
        ({"ranges": {"amount": (2, 1)}}, "swap them"),
        ({"ranges": {"amount": (None, None)}}, "write a range such as"),
        ({"ranges": {"amount": 5}}, "write a range such as"),
        ({"ranges": {"amount": (0, math.nan)}}, "no number"),
        ({"ranges": {"amount": ("0", 1)}}, "no number"),
        ({"ranges": {"n": (0, 0.5)}}, "no whole number"),
        ({"ranges": {"n": (0, math.inf)}}, "no whole number"),
        ({"ranges": {"n": (0, 2**63)}}, "beyond int64"),
        ({"ranges": {"amount": (0, 2**53 + 1)}}, "between two floats"),
        ({"lengths": {"amount": 3}}, "a length is for str"),
        ({"lengths": {"who": -1}}, "no count of characters"),
        ({"lengths": {"who": (3, 1)}}, "no text"),
        ({"choices": {"who": []}}, "write a list of values"),
        ({"choices": {"who": "abc"}}, "write a list of values"),
        ({"choices": {"n": [True, 2]}}, "not of type int64"),
        ({"choices": {"amount": [1.0]}}, "choices are for str and int"),
        ({"format": "xml"}, "'json', 'avro', 'protobuf', 'arrow'"),
        ({"format": "avro", "schema": {"a-b": int, "at": "timestamp"}}, "write '_' for '-'"),
        ({"renamed": {"who": "user"}}, "format='avro'"),
        ({"renamed": {"who": "n"}, "format": "avro"}, "it has an owner"),
        ({"renamed": {"who": "old", "n": "old"}, "format": "avro"}, "it has an owner"),
        ({"renamed": {"whom": "old"}, "format": "avro"}, "did you mean 'who'"),
    ],
)
def test_a_contract_that_cannot_be_is_refused_when_it_is_built(said: dict[str, Any], message: str) -> None:
    schema = {"who": str, "at": "timestamp", "amount": float, "n": int}
    if "price" in said.get("ranges", {}):
        schema["price"] = "decimal(5, 2)"
    with pytest.raises(DefinitionError, match=message):
        Topic("paid", **{"schema": schema, "event_time": "at", **said})


def test_a_contract_is_part_of_what_decides_values_and_none_changes_no_version() -> None:
    def version(**said: Any) -> str:
        topic = Topic("paid", {"who": str, "at": "timestamp", "n": int}, "at", **said)
        return FeatureView("v", Entity("who", key="who"), topic, {"c": count()}).version

    assert version() == version(format="avro") == version(format="protobuf") == version(ranges={})
    assert len({version(), version(format="arrow"), version(ranges={"n": (0, 1)}), version(lengths={"who": 2})}) == 4
    assert Topic("p", SCHEMA, "at", choices={"n": {2, 1}}, ranges={"n": (1.0, None)}).contract == {
        "n": "at least 1, one of 1, 2"
    }
