"""Decimals keep their digits: read, stored and added exactly, and rounded once where a float is asked for."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore.errors import DefinitionError
from featurestore.kernel import (
    Column,
    Events,
    Feature,
    OwnAggregate,
    as_decimals,
    compile_plan,
    decimal_type,
    decimals_from,
    fold,
    roll_up,
    values_at,
    where_of,
)
from featurestore.kernel.decimals import DecimalType, decimal_array, floats_of, wholes_in, wholes_of, words_of
from featurestore.kernel.expressions import expression, from_arrow, said, to_arrow
from featurestore.testing import check_aggregate

TYPES = st.integers(1, 18).flatmap(lambda digits: st.builds(DecimalType, st.just(digits), st.integers(0, digits)))


def events_of(values: list[Decimal | None], kind: str) -> Events:
    places = np.arange(len(values))
    column = from_arrow(pa.array(values, decimal_type(kind).arrow), kind)  # type: ignore[union-attr]
    return Events(places * 0, places, (places * 0).astype(np.int32), places, {"x": column})


def values_of(features: dict[str, Feature], values: list[Decimal | None], kind: str, **added: Any) -> dict[str, Any]:
    """Each feature's value, the same from a row and from the events."""
    columns = {name: expression(name, said(name, each), {"x": kind}) for name, each in added.items()}
    plan = compile_plan("v", features, {"x": kind}, frozenset({"x"}), columns)
    events = events_of(values, kind)
    served = roll_up(fold([None], events, plan), 10**6, plan)
    joined = values_at(events, np.zeros(1, np.int64), np.array([10**6]), plan)
    for name in served:
        assert served[name].equals(joined[name]), name
    return {name: array[0].as_py(maps_as_pydicts="strict") for name, array in served.items()}


@given(kind=TYPES, digits=st.integers(0, 10**20), power=st.integers(-25, 5), minus=st.booleans())
@example(DecimalType(2, 2), 100, -2, False)
@example(DecimalType(2, 2), 990, -3, True)
def test_a_number_is_taken_when_and_only_when_its_type_holds_it(
    kind: DecimalType, digits: int, power: int, minus: bool
) -> None:
    text = f"{'-' if minus else ''}{digits}e{power}"
    exactly = Fraction(-digits if minus else digits) * Fraction(10) ** power
    whole = exactly * 10**kind.scale
    if whole.denominator == 1 and abs(whole) < 10**kind.precision:
        found = kind.exactly(text)
        assert Fraction(found) == exactly
        assert found.as_tuple().exponent == -kind.scale
    else:
        with pytest.raises(ValueError, match=re.escape(kind.text)):
            kind.exactly(text)


TEXTS = (
    "NaN",
    "sNaN",
    "Infinity",
    "1_0",
    " 1",
    "1 ",
    "+1",
    "\u0661",
    "",
    ".5",
    "5.",
    "0x1",
    "1e",
    "true",
    "null",
    "[1]",
)
LONG = ("1e999999999", "1e-999999999", "1e99999999999", "9" * 100_000)
NUMBERS = (True, 0.1 + 0.2, float("inf"), 123456789012345.67)


@pytest.mark.parametrize("hostile", [*TEXTS, *LONG, *NUMBERS], ids=lambda each: repr(each)[:20])
def test_what_is_no_number_or_does_not_fit_is_refused_at_once(hostile: Any) -> None:
    with pytest.raises(ValueError, match=r"decimal\(12, 2\)"):
        DecimalType(12, 2).exactly(hostile)


def test_numbers_of_python_are_taken_by_their_shortest_digits() -> None:
    kind = DecimalType(12, 2)
    for written in (12.3, "12.30", Decimal("12.300"), Decimal("1.23E+1")):
        assert kind.exactly(written) == Decimal("12.30")
    assert kind.exactly(7) == kind.exactly(7.0) == 7
    assert as_decimals(pa.array(["1.5", None, "2"]), kind).to_pylist() == [Decimal("1.50"), None, Decimal("2.00")]
    assert decimals_from([1, 0.25], kind).to_pylist() == [Decimal("1.00"), Decimal("0.25")]
    assert as_decimals(pa.array([Decimal("1.500")]), kind).type == pa.decimal128(12, 2)
    with pytest.raises(ValueError, match="more than 2 digits after the point"):
        as_decimals(pa.array([Decimal("1.505")]), kind)


@given(st.lists(st.none() | st.integers(-(10**18) + 1, 10**18 - 1)), st.integers(0, 18), st.data())
def test_columns_go_to_arrow_and_back(wholes: list[int | None], scale: int, data: st.DataObject) -> None:
    kind = DecimalType(18, scale)
    held = np.array([each is not None for each in wholes], dtype=np.bool_)
    column = Column(np.array([7 if each is None else each for each in wholes], dtype=np.int64), held)
    array = to_arrow(column, kind.text)
    array.validate(full=True)
    assert array.to_pylist() == [None if each is None else kind.value_of(each) for each in wholes]
    start = data.draw(st.integers(0, len(wholes)))
    back = from_arrow(array[start:], kind.text)
    kept = held[start:] if back.valid is None else back.valid
    assert [value if some else None for value, some in zip(back.values.tolist(), kept, strict=True)] == wholes[start:]


@given(st.lists(st.integers(-(2**100), 2**100)))
@example([10**18, 10**18 - 1, -(10**18), 1 - 10**18, 2**63 - 1, -(2**63), 2**63])
def test_what_has_more_than_18_digits_is_null_and_not_another_number(wholes: list[int]) -> None:
    array = pa.array([Decimal(each) for each in wholes], pa.decimal128(38, 0))
    found, fits = wholes_in(array)
    assert fits.tolist() == [abs(each) < 10**18 for each in wholes]
    assert found[fits].tolist() == [each for each in wholes if abs(each) < 10**18]
    words = np.array([[each & (2**64 - 1), (each >> 64) & (2**64 - 1)] for each in wholes], dtype=np.uint64)
    assert wholes_of(words.reshape(-1, 2).astype(np.int64)) == wholes
    assert decimal_array(words.reshape(-1, 2).astype(np.int64), None, DecimalType(38, 0)).to_pylist() == wholes


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1), st.integers(0, 18))
@example([2**53 + 1, 2**53 + 3, -(2**53) - 1], 0)
@example([900719925474099267], 2)
def test_a_float_is_the_nearest_one(wholes: list[int], scale: int) -> None:
    assert floats_of(np.array(wholes), scale).tolist() == [float(Fraction(each, 10**scale)) for each in wholes]
    assert wholes_of(words_of(np.array(wholes))) == wholes


def test_a_sum_has_room_for_more_than_any_column_holds() -> None:
    most = Decimal("9999999999999999.99")
    found = values_of({"s": Feature("sum", "x"), "m": Feature("mean", "x")}, [most] * 1_000, "decimal(18, 2)")
    assert found == {"s": Decimal("9999999999999999990.00"), "m": float(most)}
    lowest = values_of({"s": Feature("sum", "x")}, [-most] * 1_000, "decimal(18, 2)")
    assert lowest == {"s": Decimal("-9999999999999999990.00")}


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=2, max_size=6))
def test_means_and_variances_of_eighteen_digits_after_the_point_are_rounded_once(wholes: list[int]) -> None:
    values = [DecimalType(18, 18).value_of(each) for each in wholes]
    found = values_of({"m": Feature("mean", "x"), "v": Feature("variance", "x")}, [*values], "decimal(18, 18)")
    exact = [Fraction(each, 10**18) for each in wholes]
    mean = sum(exact) / len(exact)
    assert found == {"m": float(mean), "v": float(sum((each - mean) ** 2 for each in exact) / (len(exact) - 1))}


def test_types_of_features_are_told_before_there_is_a_value() -> None:
    features = {
        name: Feature(name, "x", argument=3)
        for name in ("sum", "min", "first", "last_n", "counts", "mean", "quantile", "distinct")
    }
    features["quantile"] = Feature("quantile", "x", argument=0.5)
    plan = compile_plan("v", features, {"x": "decimal(12, 2)"}, frozenset())
    money = "decimal(12, 2)"
    assert {each.name: each.aggregate.dtype for each in plan.outputs} == {
        "sum": "decimal(22, 2)",
        "min": money,
        "first": money,
        "last_n": f"list<{money}>",
        "counts": f"map<{money}, int64>",
        "mean": "float64",
        "quantile": "float64",
        "distinct": "int64",
    }
    for name, array in roll_up([None], 5, plan).items():
        assert array.to_pylist() == [0 if name == "distinct" else None]


def test_conditions_and_added_columns_over_decimals() -> None:
    values = [Decimal("1.50"), Decimal("-2.25"), None, Decimal("99.99")]
    features = {
        "n": Feature("count", where=where_of("n", pl.col("x") > 1.5)),
        "equal": Feature("count", where=where_of("equal", pl.col("x") == pl.lit(Decimal("1.50")))),
        "doubled": Feature("sum", "twice"),
        "halved": Feature("sum", "half"),
        "inverse": Feature("sum", "inverse"),
        "faded": Feature("decayed_sum", "twice", argument=10**12),
    }
    found = values_of(
        features,
        values,
        "decimal(4, 2)",
        twice=pl.col("x") * 2,
        half=pl.col("x").cast(pl.Float64) / 2,
        inverse=pl.lit(Decimal("1.00")) / (pl.col("x") - pl.lit(Decimal("1.50"))),
    )
    assert (found["n"], found["equal"], found["doubled"], found["halved"]) == (1, 1, Decimal("198.48"), 49.62)
    # 1 / 0 has no value; the two others are rounded to two digits, as Polars does.
    assert found["inverse"] == Decimal("-0.27") + Decimal("0.01")
    assert found["faded"] == pytest.approx(198.48)
    too_wide = {"t": Feature("sum", "big"), "n": Feature("count", "big")}
    found = values_of(
        too_wide, [Decimal("9999999999999999.99"), Decimal("1.00")], "decimal(18, 2)", big=pl.col("x") * 10
    )
    assert found == {"t": Decimal("10.00"), "n": 1}


def test_an_added_column_without_room_for_its_digits_is_refused() -> None:
    fine = expression("fine", said("fine", pl.col("x").cast(pl.Decimal(38, 20))), {"x": "float64"})
    with pytest.raises(DefinitionError, match="cast it to"):
        compile_plan("v", {"s": Feature("sum", "fine")}, {"x": "float64"}, frozenset(), {"fine": fine})


def test_an_own_aggregate_sees_whole_numbers_of_the_last_digit() -> None:
    span = OwnAggregate(
        "span",
        ("decimal",),
        {"low": "<i8", "high": "<i8"},
        {"low": 2**63 - 1, "high": -(2**63)},
        add=lambda values: {"low": values, "high": values},
        merge=lambda a, b: {"low": np.minimum(a["low"], b["low"]), "high": np.maximum(a["high"], b["high"])},
        finish=lambda state: state["high"] - state["low"],
        gives="decimal(18, 2)",
    )
    check_aggregate(span, st.integers(-9999, 9999), dtype="decimal(4, 2)")
    values = [Decimal("1.50"), None, Decimal("-0.25")]
    assert values_of({"span": Feature(span, "x")}, values, "decimal(4, 2)") == {"span": Decimal("1.75")}
