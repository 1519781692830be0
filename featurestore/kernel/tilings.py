"""Tilings: how event time is cut into tiles. A tile is a whole number, and rises with time.

Enter: microseconds. Leave: the tile that holds each, and where a tile starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from featurestore.event_time import DAY_US, HOUR_US, SECOND_US, show_duration

Ints = npt.NDArray[np.int64]
Unit = Literal["hour", "day", "week", "month"]

LONG_AGO_US = int(np.iinfo(np.int64).min)


class Tiling(Protocol):
    """Frozen and compared by value; equal tilings share their tiles in a row."""

    @property
    def text(self) -> str:
        """Unique in a plan, for the layout of rows and for people."""

    def tile_of(self, event_us: Ints) -> Ints: ...

    def start_us(self, tile: Ints) -> Ints:
        """First microsecond of each tile."""


@dataclass(frozen=True, slots=True)
class Even:
    """Tiles of one length, counted from 1970."""

    tile_us: int

    @property
    def text(self) -> str:
        return show_duration(self.tile_us)

    def tile_of(self, event_us: Ints) -> Ints:
        return event_us // self.tile_us

    def start_us(self, tile: Ints) -> Ints:
        return tile * self.tile_us


@dataclass(frozen=True, slots=True)
class Whole:
    """One tile for all of time."""

    @property
    def text(self) -> str:
        return "all of time"

    def tile_of(self, event_us: Ints) -> Ints:
        return np.zeros(len(event_us), dtype=np.int64)

    def start_us(self, tile: Ints) -> Ints:
        return np.full(len(tile), LONG_AGO_US)


@dataclass(frozen=True, slots=True)
class Single:
    """A tile an event: the tile is its time, and events of one time stand side by side in their order."""

    @property
    def text(self) -> str:
        return "each event"

    def tile_of(self, event_us: Ints) -> Ints:
        return event_us

    def start_us(self, tile: Ints) -> Ints:
        return tile


@dataclass(frozen=True, slots=True)
class Calendar:
    """Hours, days, weeks (from Monday) or months of a time zone; a tile's number is its first microsecond.

    A day begins where the zone's clocks show midnight for the first time (or jump over it); an hour is an elapsed
    hour since then. So a day has 23, 24 or 25 hours, and no moment lies in two of them.
    """

    unit: Unit
    zone: str

    @property
    def text(self) -> str:
        return f"{self.unit} of {self.zone}"

    def tile_of(self, event_us: Ints) -> Ints:
        end_year = _FAR_YEAR if event_us.max(initial=0) >= _NEAR_US else _NEAR_YEAR
        starts = _starts("day" if self.unit == "hour" else self.unit, self.zone, end_year)
        start: Ints = starts[np.maximum(np.searchsorted(starts, event_us, side="right") - 1, 0)]
        return start + (event_us - start) // HOUR_US * HOUR_US if self.unit == "hour" else start

    def start_us(self, tile: Ints) -> Ints:
        return tile


# Days are looked up in a table. That of moments to come takes two seconds to make: it is made when one is asked for.
_FIRST_YEAR, _NEAR_YEAR, _FAR_YEAR = 1969, 2100, 10_000
_NEAR_US = int((datetime(_NEAR_YEAR, 1, 1) - datetime(1970, 1, 1)).total_seconds()) * SECOND_US - DAY_US


@lru_cache(maxsize=64)  # a table is 0.4 MB at most while moments are near; a project uses a few zones
def _starts(unit: Unit, zone: str, end_year: int) -> Ints:
    """First microseconds of all days, weeks or months from 1969 to the end of the table, rising."""
    clock, epoch = ZoneInfo(zone), date(1970, 1, 1)
    out = []
    # To the end of the last day that there is: where clocks are ahead, the hours after it belong to it too.
    end = (date(end_year - 1, 12, 31) - epoch).days + 1
    for number in range((date(_FIRST_YEAR, 1, 1) - epoch).days, end):
        day = epoch + timedelta(days=number)
        if (unit == "month" and day.day != 1) or (unit == "week" and day.weekday() != 0):
            continue
        behind = clock.utcoffset(datetime(day.year, day.month, day.day))
        assert behind is not None
        out.append(number * DAY_US - (behind.days * 86_400 + behind.seconds) * SECOND_US)
    return np.array(out, dtype=np.int64)
