"""Metrics equal their definition; a model finds what is there, and only from the past."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from featurestore.training.fit import train
from featurestore.training.metrics import auc
from featurestore.training.tensors import matrix, numeric, scaling_of


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_chance_that_a_positive_outranks_a_negative(pairs: list[tuple[int, bool]]) -> None:
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    found = auc(np.array([s for s, _ in pairs], dtype=np.float64), np.array([b for _, b in pairs], dtype=np.bool_))
    if not positives or not negatives:
        assert np.isnan(found)
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert abs(found - wins / (len(positives) * len(negatives))) < 1e-12


def test_training_finds_a_signal_with_nulls_in_it_and_repeats_by_its_seed() -> None:
    draw = np.random.default_rng(5)
    signal = draw.normal(size=4_000)
    table = pa.table(
        {
            "signal": pa.array(signal, mask=draw.random(4_000) < 0.1),
            "noise": draw.normal(size=4_000),
            "label": signal > 0.5,
            "at": np.arange(4_000),
        }
    )
    options = {"label": "label", "event_time": "at", "epochs": 8, "seed": 3}
    good = train("good", table, columns=["signal", "noise"], **options)  # type: ignore[arg-type]
    blind = train("blind", table, columns=["noise"], **options)  # type: ignore[arg-type]
    assert good.auc > 0.9
    assert blind.auc < 0.6
    assert good.losses == train("good", table, columns=["signal", "noise"], **options).losses  # type: ignore[arg-type]
    assert (good.trained_rows, good.judged_rows) == (3_200, 800)


def test_decimals_are_numbers_to_a_model_and_texts_are_not() -> None:
    prices = [Decimal("1.25"), None, Decimal("-3.00"), Decimal("0.05")]
    table = pa.table({"price": pa.array(prices, pa.decimal128(12, 2)), "name": ["a", "b", "c", "d"]})
    chosen = numeric(table.schema, table.column_names)
    assert chosen == ("price",)
    plain = pa.table({"price": [None if price is None else float(price) for price in prices]})
    assert (matrix(table, scaling_of(table, chosen)) == matrix(plain, scaling_of(plain, chosen))).all()
