"""What a benchmark says of its figures, to people and in JSON."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from rich.console import Console

from featurestore.bench.report import Bench, Figure


def figure(value: float, better: Literal["higher", "lower"], floor: float | None) -> Figure:
    return Figure("fresh", value, "ms", 4.0, better, {"events_a_batch": 941.0}, floor)


@pytest.mark.parametrize(
    ("value", "better", "floor", "stands"),
    [
        (4.0, "higher", 2.0, "at the aim"),
        (3.9, "higher", 2.0, "above the floor"),
        (2.0, "higher", 2.0, "above the floor"),
        (1.9, "higher", 2.0, "under the floor"),
        (4.0, "lower", 8.0, "at the aim"),
        (8.0, "lower", 8.0, "above the floor"),
        (8.1, "lower", 8.0, "under the floor"),
        (8.1, "lower", None, "short of the aim"),
    ],
)
def test_a_figure_says_where_it_stands_between_floor_and_aim(
    value: float, better: Literal["higher", "lower"], floor: float | None, stands: str
) -> None:
    one = figure(value, better, floor)
    assert one.stands == stands
    assert one.met == (stands == "at the aim")
    bench = Bench("stream", (one,), 0.5)
    [told] = json.loads(bench.as_json())["figures"]
    assert (told["stands"], told["met"], told["raw"]) == (stands, one.met, {"events_a_batch": 941.0})
    console = Console(width=200)
    with console.capture() as drawn:
        console.print(bench.as_table())
    assert stands in drawn.get().lower()
    assert "events_a_batch 941" in drawn.get()
