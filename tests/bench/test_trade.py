"""`bench trade` from backlog to plot, small; and its plot of any numbers."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.bench.runs import shares_of
from featurestore.bench.trade import BacklogPoint, LoadPoint, Sizes, Trade, bench_trade
from featurestore.bench.trade_plot import as_svg

_SVG = "{http://www.w3.org/2000/svg}"


def trade_of(backlogs: list[float], loads: list[tuple[float, float]]) -> Trade:
    return Trade(
        tuple(BacklogPoint(1_000 + n, rate, 0.25, 900.0) for n, rate in enumerate(backlogs)),
        tuple(LoadPoint(n, n, n, p50, p99, 9, 90.0, 1.0, 0.3, 0.1) for n, (p50, p99) in enumerate(loads)),
        Sizes(),
        0.5,
    )


@pytest.mark.servers
def test_a_small_run_measures_every_bound_and_load_and_larger_batches_write_fewer_rows() -> None:
    said: list[str] = []
    sizes = Sizes(
        events=100_000, rounds=1, batch_records=(500, 5_000), loads=(200, 1_000), settle_s=1.0, measured_s=1.5
    )
    trade = bench_trade(sizes, said.append)
    small, large = trade.backlogs
    assert small.events_a_batch <= 500 < large.events_a_batch
    assert large.rows_an_event < small.rows_an_event
    # A machine that is too busy to send the first in time has no second.
    asked = [one.asked_a_second for one in trade.loads]
    assert asked in ([200], [200, 1_000])
    assert len(asked) == 2 or any("no larger load is tried" in line for line in said)
    assert all(0 < one.p50_ms <= one.p99_ms for one in trade.loads)
    assert all(one.worker_cores > 0 for one in trade.loads)
    steps = [line for line in said if line.startswith("batches of up to") or "events/s: p50" in line]
    assert len(steps) == 2 + len(asked), said
    told = json.loads(trade.as_json())
    assert [one["batch_records_max"] for one in told["backlogs"]] == [500, 5_000]
    assert told["sizes"]["rounds"] == 1


def test_shares_are_of_what_was_done_since_the_first_look() -> None:
    before = {
        "featurestore_events_applied_total": 100.0,
        "featurestore_batches_total": 1.0,
        "featurestore_rows_written_total": 90.0,
    }
    now = {
        "featurestore_events_applied_total": 170.0,
        "featurestore_events_dead_total": 10.0,
        "featurestore_batches_total": 5.0,
        "featurestore_rows_written_total": 110.0,
    }
    assert shares_of(now, before) == (20 / 80, 80 / 4)


@given(
    backlogs=st.lists(st.floats(1.0, 1e7), min_size=1, max_size=6),
    loads=st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e5)), min_size=1, max_size=6),
)
def test_a_plot_has_a_dot_a_figure_all_inside_its_page_and_higher_for_more(
    backlogs: list[float], loads: list[tuple[float, float]]
) -> None:
    page = ElementTree.fromstring(as_svg(trade_of(backlogs, loads)))
    dots = list(page.iter(f"{_SVG}circle"))
    assert len(dots) == len(backlogs) + 2 * len(loads)
    heights = [float(dot.attrib["cy"]) for dot in dots]
    assert all(0 < height < float(page.attrib["height"]) for height in heights)
    lines = ElementTree.tostring(page, encoding="unicode").count("<ns0:polyline")
    assert lines == 3
    rates = sorted(zip(backlogs, heights[: len(backlogs)], strict=True))
    assert [y for _, y in rates] == sorted((y for _, y in rates), reverse=True)


def test_tables_are_markdown_with_a_row_a_point_and_say_what_a_batch_counts() -> None:
    backlogs, loads, how = trade_of([1.0, 2_000_000.0], [(1.0, 2.0)] * 3).as_markdown().split("\n\n")
    for table, rows in ((backlogs, 2), (loads, 3)):
        lines = table.splitlines()
        assert len(lines) == rows + 2
        assert len({line.count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1, "columns stand below each other"
    assert "2,000,000" in backlogs
    assert "partition's share" in how
