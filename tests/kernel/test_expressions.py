"""Expressions: each row from that row alone, whatever an author writes and whatever comes in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureView, Topic, aggregate, count, decayed_sum, last, mean, ratio
from featurestore import sum as total
from featurestore.errors import DefinitionError, MissingEntityKeyError, UnknownColumnError, UnsupportedAggregateError
from featurestore.kernel import Column, Events, fold, roll_up
from featurestore.kernel.expressions import evaluate, expression, said

TYPES = {"a": "int64", "b": "int64", "f": "float64", "s": "string", "t": "timestamp", "q": "bool"}
USER = Entity("user", key="user")
PAYMENTS = Topic(
    "payments",
    schema={"user": str, "at": "timestamp", "amount": float, "items": int, "status": str},
    event_time="at",
    nullable=("items",),
)


@pytest.mark.parametrize(
    "written",
    [
        pl.col("a").mean(),
        pl.col("a") - pl.col("a").mean(),
        pl.col("a").shift(1),
        pl.col("a").cum_sum(),
        pl.col("a").rolling_mean(2),
        pl.col("a").sort(),
        pl.col("a").filter(pl.col("a") > 1),
        pl.col("a").is_in(pl.col("b")),
        pl.col("a").is_in(pl.col("a") + 10),
        (pl.col("a") > 1) & pl.col("s").is_in(pl.col("s").str.to_uppercase()),
        pl.col("s").replace(pl.col("s").str.to_uppercase(), "x"),
        pl.col("s").str.contains_any(pl.col("s") + "x"),
        pl.col("a").index_of(pl.col("b")),
        pl.col("s").cast(pl.Categorical).to_physical(),
        pl.col("a").is_duplicated(),
        pl.col("f").sum().over("a"),
        pl.col("a").fill_null(strategy="forward"),
        pl.int_range(pl.len()),
        pl.lit(1),
        pl.all(),
        pl.col("^a.*$"),
        pl.col("a").map_batches(lambda values: values),
        pl.col("s").str.split(","),
        pl.col("s") + 1,
        "a > 1",
        None,
    ],
    ids=str,
)
def test_what_looks_at_other_rows_or_runs_python_is_refused(written: object) -> None:
    with pytest.raises(DefinitionError, match="where of 'x'"):
        expression("where of 'x'", said("where of 'x'", written), TYPES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "written", [pl.col("a").is_in(pl.col("b")), pl.col("s").replace(pl.col("s").str.to_uppercase(), "x")], ids=str
)
def test_a_function_that_is_not_known_to_look_at_other_rows_is_found_by_trying(
    written: pl.Expr, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a later Polars may bring one.
    monkeypatch.setattr("featurestore.kernel.expressions._SETS", frozenset())
    with pytest.raises(DefinitionError, match="look at each other"):
        expression("where of 'x'", said("where of 'x'", written), TYPES)


@pytest.mark.parametrize(
    "written",
    [
        pl.col("s").is_in(["DE", "Categorical"]),
        pl.col("s") == "Categorical",
        pl.col("a").replace_strict({1: 2}, default=pl.col("b")),
        pl.col("s").str.contains_any(["x", "y"]),
        pl.col("s").cast(pl.Enum(["x", "y"]), strict=False).to_physical(),
    ],
    ids=str,
)
def test_sets_of_constants_are_fine(written: pl.Expr) -> None:
    assert expression("where of 'x'", said("where of 'x'", written), TYPES).dtype in ("bool", "int64")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (pl.col("s").str.split("").list.sample(1).list.first(), "draws at random"),
        (pl.when(pl.col("q")).then(pl.col("s").str.split("").list.sample(fraction=1, seed=1).list.get(0)), "draws at"),
        (pl.col("s").hash(), "gives other numbers in another version"),
    ],
)
def test_what_does_not_always_give_the_same_is_refused(written: pl.Expr, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        expression("where of 'x'", said("where of 'x'", written), TYPES)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownColumnError, match=r"'amout'.*did you mean 'amount'"):
        FeatureView("v", USER, PAYMENTS, {"n": count(where=pl.col("amout") > 1)})


def test_where_must_be_true_or_false() -> None:
    with pytest.raises(UnsupportedAggregateError, match="where must be true or false"):
        FeatureView("v", USER, PAYMENTS, {"n": count(where=pl.col("amount") + 1)})


def test_a_row_that_cannot_be_computed_is_null_and_takes_no_other_with_it() -> None:
    number = expression("x", said("x", pl.col("s").cast(pl.Int64)), TYPES)  # type: ignore[arg-type]
    half = expression("x", said("x", pl.col("a") / pl.col("b")), TYPES)  # type: ignore[arg-type]
    columns = {
        "s": pa.array(["1", "two", None, "4", "", "6"]),
        "a": pa.array([1, 1, 0, -1, None, 9], pa.int64()),
        "b": pa.array([2, 0, 0, 0, 1, 3], pa.int64()),
    }
    got = evaluate({"number": number, "half": half}, columns)
    assert got["number"].to_pylist() == [1, None, None, 4, None, 6]
    # Division by zero is infinite or not a number; neither is a feature value.
    assert got["half"].to_pylist() == [0.5, None, None, None, None, 3.0]


def test_nanoseconds_are_cut_off() -> None:
    written = pl.col("t").dt.cast_time_unit("ns") + pl.duration(nanoseconds=pl.col("a") - 3)
    asked = {"it": expression("it", said("it", written), TYPES)}
    columns = {"t": pa.array([5, 1_700_000_000_000_000], pa.timestamp("us", tz="UTC")), "a": pa.array([1_003, 4])}
    assert evaluate(asked, columns)["it"].cast(pa.int64()).to_pylist() == [6, 1_700_000_000_000_000]


# The first and the last microsecond that Python's calendar has.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


def test_a_moment_outside_the_years_1_to_9999_is_null() -> None:
    asked = {"it": expression("it", said("it", pl.col("t") + pl.duration(microseconds=pl.col("a"))), TYPES)}
    starts, more = [FIRST_US, FIRST_US, LAST_US, LAST_US, 0, 0], [0, -1, 0, 1, 2**62, None]
    columns = {"t": pa.array(starts, pa.timestamp("us", tz="UTC")), "a": pa.array(more, pa.int64())}
    found = evaluate(asked, columns)["it"]
    assert found.cast(pa.int64()).to_pylist() == [FIRST_US, None, LAST_US, None, None, None]
    assert [value is None or 1 <= value.year <= 9999 for value in found.to_pylist()] == [True] * 6


def test_milliseconds_too_far_for_microseconds_are_null_and_not_another_moment() -> None:
    written = pl.col("a").cast(pl.Datetime("ms", "UTC"))
    asked = {"it": expression("it", said("it", written), TYPES)}
    millis = [LAST_US // 1_000, LAST_US // 1_000 + 1, 2**63 // 1_000, 2**64 // 1_000 + 5, -(2**63) + 1, 5]
    found = evaluate(asked, {"a": pa.array(millis)})["it"].cast(pa.int64()).to_pylist()
    assert found == [LAST_US // 1_000 * 1_000, None, None, None, None, 5_000]


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    numbers = {
        "a": pa.array(range(1, 400)),
        "b": pa.array(range(1, 400)),
        "f": pa.array([n / 7 for n in range(1, 400)]),
    }
    for written in (pl.col("a") / 100, pl.col("f") / 3, (pl.col("f") / 10).exp(), pl.col("a") / pl.col("b") / 7):
        asked = {"it": expression("it", said("it", written), TYPES)}
        together = evaluate(asked, numbers)["it"].to_pylist()
        alone = [
            evaluate(asked, {name: each.slice(row, 1) for name, each in numbers.items()})["it"][0].as_py()
            for row in range(len(together))
        ]
        assert alone == together, written


def test_definitions_with_expressions_are_values() -> None:
    def view(limit: float) -> FeatureView:
        features = {"big": count(where=pl.col("amount") > limit).over("1h")}
        return FeatureView("v", USER, PAYMENTS, features, columns={"each": pl.col("amount") / pl.col("items")})

    assert view(5.0) == view(5.0)
    assert view(5.0).version == view(5.0).version != view(6.0).version
    assert view(5.0) != view(6.0)


def test_an_added_column_may_not_hide_one_of_the_topic() -> None:
    with pytest.raises(DefinitionError, match="'amount', which is there already"):
        FeatureView("v", USER, PAYMENTS, {"n": count()}, columns={"amount": pl.col("items") + 1})


def test_a_ratio_divides_numbers_over_one_window() -> None:
    with pytest.raises(UnsupportedAggregateError, match="ratio divides numbers"):
        FeatureView("v", USER, PAYMENTS, {"r": ratio(last("status"), count())})
    with pytest.raises(UnsupportedAggregateError, match="without windows of their own"):
        FeatureView("v", USER, PAYMENTS, {"r": ratio(total("amount").over("1h"), count())})


@pytest.mark.parametrize("beside", [0, 2**60])
@pytest.mark.parametrize("whole", [2**53 - 1, 2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_a_ratio_of_whole_numbers_is_rounded_once_whatever_stands_beside_it(whole: int, beside: int) -> None:
    plan = FeatureView("v", USER, PAYMENTS, {"r": ratio(total("items"), count())}).plan
    rows = np.array([0, 0, 0, 1])
    items = {"items": Column(np.array([whole, 0, 0, beside]))}
    events = Events(rows, rows + 5, np.zeros(4, dtype=np.int32), np.arange(4), items)
    assert roll_up(fold([None, None], events, plan), 9, plan)["r"][0].as_py() == float(Fraction(whole, 3))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: count().over(5), "count over 5: write a window as text"),
        (lambda: count().over(timedelta(hours=1)), "write a window as text"),
        (lambda: count().over(slide="1m"), "slide='1m' needs a window"),
        (lambda: count(3), "count of 3: give the name of a column"),
        (lambda: total(pl.col("amount")), "give the name of a column"),
        (lambda: ratio(1, count()), "ratio of 1: its parts are aggregates"),
        (lambda: aggregate("mode", "amount"), "give an OwnAggregate"),
    ],
)
def test_what_no_author_can_mean_is_refused_where_it_is_written(write: Callable[[], object], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        write()


def test_a_decayed_value_of_too_many_tiles_is_refused() -> None:
    with pytest.raises(UnsupportedAggregateError, match="more than 2,000 of them; give a longer slide"):
        FeatureView("v", USER, PAYMENTS, {"d": decayed_sum("amount", "1h").over("24h", slide="10s")})


def test_a_derived_feature_names_what_it_reads() -> None:
    view = FeatureView("spending", USER, PAYMENTS, {"mean": mean("amount").over("24h")})
    derived = {"against_mean": pl.col("amount") / pl.col("spending__mean_24h")}
    with pytest.raises(UnknownColumnError, match="'amount'"):
        FeatureService("risk", [view], derived=derived)
    service = FeatureService("risk", [view], request={"amount": float}, derived=derived)
    assert list(service.asked) == ["user", "amount"]
    assert service.outputs == {"spending__mean_24h": "float64", "against_mean": "float64"}
    with pytest.raises(MissingEntityKeyError, match="amount"):
        service.derive({"user": pa.array(["ann"]), "spending__mean_24h": pa.array([2.0])})
    columns = {"amount": pa.array([5, 1]), "spending__mean_24h": pa.array([2.0, None])}
    assert service.derive(columns)["against_mean"].to_pylist() == [2.5, None]
