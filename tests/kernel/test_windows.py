"""Calendars of real zones against the standard library, and what cannot be a window."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from featurestore.errors import DefinitionError, FeatureStoreError, InvalidDurationError
from featurestore.event_time import moment_us
from featurestore.kernel import Column, Events, Feature, compile_plan, fold, roll_up, values_at
from featurestore.kernel.plan import reach_us
from featurestore.kernel.tilings import Calendar
from featurestore.kernel.windows import Period, Window, before, calendar, newest, session, tumbling, window
from tests.kernel import naive

# Half hours, quarter hours, clocks changed at midnight, over midnight, by half an hour, and not at all.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "America/Havana",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Pacific/Apia",
)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["hour", "day", "week", "month"])
def test_each_moment_lies_in_the_period_that_the_standard_library_gives(unit: str, zone: str) -> None:
    draw = random.Random(f"{unit} {zone}")
    edges = [change for year in (1970, 1987, 2011, 2024, 2037) for change in changes(zone, year)]
    asked = [draw.randrange(0, 4_000_000_000_000_000) for _ in range(60)]
    asked += [edge + nudge for edge in edges for nudge in (-3_600_000_001, -1, 0, 1, 1_800_000_000, 3_600_000_000)]
    asked = [us for us in asked if us >= 0]
    tiling = Calendar(unit, zone)  # type: ignore[arg-type]  # one of the four
    starts = tiling.tile_of(np.array(asked, dtype=np.int64)).tolist()
    for us, start in zip(asked, starts, strict=True):
        assert start == naive._period(tiling, us)[0], (unit, zone, us)


def changes(zone: str, year: int) -> list[int]:
    """Moments, to the hour, at which the zone's clocks are changed."""
    from zoneinfo import ZoneInfo

    first = moment_us(datetime(year, 1, 1, tzinfo=UTC))
    hours = [first + hour * 3_600_000_000 for hour in range(366 * 24)]
    offsets = [datetime.fromtimestamp(us / 1e6, ZoneInfo(zone)).utcoffset() for us in hours]
    return [us for us, one, other in zip(hours[1:], offsets, offsets[1:], strict=False) if one != other]


def test_a_day_has_23_24_or_25_hours() -> None:
    berlin = calendar("day", "Europe/Berlin")
    lengths = set()
    for day in (datetime(2024, 3, 31, 12), datetime(2024, 7, 1, 12), datetime(2024, 10, 27, 12)):
        moment = np.array([moment_us(day.replace(tzinfo=UTC))])
        start = berlin.first_tile(moment)
        following = berlin.tiling.tile_of(start + 30 * 3_600_000_000)
        lengths.add(int(following[0] - start[0]) // 3_600_000_000)
    assert lengths == {23, 24, 25}


def test_the_last_year_that_clocks_know_has_periods_too() -> None:
    for unit, month, day in (("day", 7, 4), ("week", 6, 28), ("month", 7, 1)):
        moment = np.array([moment_us(datetime(9999, 7, 4, 3, tzinfo=UTC))])
        assert calendar(unit).first_tile(moment) == moment_us(datetime(9999, month, day, tzinfo=UTC))  # type: ignore[arg-type]
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        moment = np.array([moment_us(datetime(9999, 12, 31, 14, 59, 59, 999_999, tzinfo=UTC))])
        there = datetime(9999, 12, 31, tzinfo=ZoneInfo(zone))
        assert calendar("day", zone).first_tile(moment) == moment_us(there)


def test_previous_periods_follow_each_other_without_a_gap() -> None:
    moment = np.array([moment_us(datetime(2024, 3, 15, 9, tzinfo=UTC))])
    for unit in ("hour", "day", "week", "month"):
        for ago in range(5):
            newer, older = calendar(unit, "America/New_York", ago=ago), calendar(unit, "America/New_York", ago=ago + 1)
            assert isinstance(older, Period)
            assert older.end_tile(moment) == newer.first_tile(moment)


@pytest.mark.parametrize(
    "make",
    [
        lambda: calendar("year"),  # type: ignore[arg-type]
        lambda: calendar("day", "Mars/Olympus"),
        lambda: calendar("day", "../etc/passwd"),
        lambda: calendar("day", ago=-1),
        lambda: tumbling("0s"),
        lambda: newest(0),
        lambda: newest(10_000),
        lambda: newest(True),
        lambda: session("30m", longest="10m"),
        lambda: session("1us", longest="1d"),
        lambda: before("24h", "0s"),
        lambda: before("24h", "7d", slide="7h"),
    ],
)
def test_what_is_no_window_is_refused_when_it_is_written(make) -> None:
    with pytest.raises((DefinitionError, InvalidDurationError)) as told:
        make()
    assert isinstance(told.value, FeatureStoreError)
    assert len(str(told.value)) > 30


def counted(over: Window, times: list[int], moment_us: int, cut: int = 0) -> list[int]:
    """What a window counts at the moment: by rows folded in two batches, and by the join."""
    plan = compile_plan("v", {"n": Feature("count").over(over)}, {}, frozenset())

    def events(part: list[tuple[int, int]]) -> Events:
        zeros = np.zeros(len(part), dtype=np.int64)
        offsets, at = (np.array([one[side] for one in part], dtype=np.int64) for side in (0, 1))
        return Events(zeros, at, zeros.astype(np.int32), offsets, {})

    numbered = list(enumerate(times))
    rows: list[bytes | None] = [None]
    for part in (numbered[:cut], numbered[cut:]):
        if part:
            rows = list(fold(rows, events(part), plan))
    asked = np.zeros(1, dtype=np.int64), np.array([moment_us])
    both = roll_up(rows, moment_us, plan), values_at(events(numbered), *asked, plan)
    return [values[f"n_{over.label}"][0].as_py() for values in both]


def test_a_pause_as_long_as_the_gap_does_not_end_a_session_and_a_longer_one_does() -> None:
    #   0        30       60          91
    #   |--------|--------|-----------|
    assert counted(session("30us", longest="300us"), [0, 30, 60], 90) == [3, 3]
    assert counted(session("30us", longest="300us"), [0, 30, 60], 91) == [0, 0]
    assert counted(session("30us", longest="300us"), [0, 30, 61], 61) == [1, 1]


def test_a_shifted_window_meets_the_one_after_it() -> None:
    # Slides of 10: at 1,000 the last 50 begin with 950, and the 600 before them with 350.
    assert counted(before("50us", "600us"), [349, 350, 949, 950], 1_000) == [2, 2]


def test_a_late_event_joins_two_sessions() -> None:
    assert counted(session("30us", longest="300us"), [0, 50], 50, cut=1) == [1, 1]
    assert counted(session("30us", longest="300us"), [0, 50, 25], 50, cut=2) == [3, 3]


def test_a_session_is_no_longer_than_its_longest() -> None:
    # Tiles of 30: at 600 the oldest that counts is the one of 300.
    assert counted(session("30us", longest="300us"), list(range(0, 601, 20)), 600) == [16, 16]


def test_an_event_is_out_of_reach_only_after_it_has_left_its_window() -> None:
    # Rows expire by this, and a fill of the rows leaves out what is older.
    units = ("hour", "day", "week", "month")
    for over in (
        *(tumbling(size, ago=ago) for size in ("1h", "9d", "10d", "100d") for ago in (0, 1, 3)),
        *(calendar(unit, "Asia/Tokyo", ago=ago) for unit in units for ago in (0, 1)),  # type: ignore[arg-type]
        *(session("30m"), before("24h", "7d"), window("n", "7d", None), window("n", "9d", "9d")),
    ):
        moments = moment_us(datetime(2023, 1, 1, tzinfo=UTC)) + np.arange(10_000) * 3_599_999_999
        stays_us = int((moments - over.tiling.start_us(over.first_tile(moments))).max())
        reached_us = reach_us(over)
        assert reached_us is not None
        assert stays_us <= reached_us, over


def test_events_of_one_time_are_newest_by_partition_then_offset() -> None:
    plan = compile_plan("v", {"x": Feature("values", "x").over(newest(2))}, {"x": "int64"}, frozenset())
    places = [(1, 5), (0, 9), (2, 1), (0, 3), (2, 0)]
    for order in itertools.permutations(places):
        rows: list[bytes | None] = [None]
        for partition, offset in order:
            zeros = np.zeros(1, dtype=np.int64)
            column = {"x": Column(np.array([10 * partition + offset]))}
            one = Events(zeros, zeros + 7, np.array([partition], dtype=np.int32), zeros + offset, column)
            rows = list(fold(rows, one, plan))
        assert roll_up(rows, 8, plan)["x_newest_2"].to_pylist() == [[20, 21]]
