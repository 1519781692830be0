"""Windows: the stretch of event time that a value covers at a moment t.

A window covers whole tiles, from its first tile to the moment itself, or to its end tile where it ends earlier. So
its head is exact, and its tail moves by tiles, which is what makes it cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from featurestore.errors import DefinitionError, InvalidDurationError, MisalignedTileError
from featurestore.event_time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_us, show_duration
from featurestore.kernel.tilings import LONG_AGO_US, Calendar, Even, Single, Tiling, Unit, Whole

Ints = npt.NDArray[np.int64]

# Slides that people find round; the default is the largest that keeps the tail error at 1/60 or less.
_ROUND_US = sorted(
    [1, 10, 100, 1_000, 10_000, 100_000]
    + [n * SECOND_US for n in (1, 2, 5, 10, 15, 20, 30)]
    + [n * MINUTE_US for n in (1, 2, 5, 10, 15, 20, 30)]
    + [n * HOUR_US for n in (1, 2, 3, 4, 6, 8, 12)]
    + [n * DAY_US for n in (1, 2, 5, 7)]
)
_TAIL_ERROR = 60
# Every event of such a window is a record of its row; more make the row slow to write.
NEWEST_MAX = 1_000
# Every tile of a session is a record of its row.
_SESSION_TILES_MAX = 10_000


class Window(Protocol):
    """Frozen and compared by value."""

    @property
    def label(self) -> str:
        """The end of a served feature's name."""

    @property
    def tiling(self) -> Tiling: ...

    @property
    def size_us(self) -> int | None:
        """The length, where there is one: what a rate divides by."""

    def first_tile(self, moments_us: Ints) -> Ints:
        """The oldest tile that each moment covers."""

    def end_tile(self, moments_us: Ints) -> Ints | None:
        """The first tile that is too new; None: up to the moment."""


@dataclass(frozen=True, slots=True)
class Sliding:
    """The last `size_us`; or, with `shift_us`, as long a stretch that ended so much earlier, at the edge of a tile."""

    size_us: int
    slide_us: int
    shift_us: int = 0

    @property
    def label(self) -> str:
        shown = show_duration(self.size_us)
        return f"{shown}_before_{show_duration(self.shift_us)}" if self.shift_us else shown

    @property
    def tiling(self) -> Even:
        return Even(self.slide_us)

    def first_tile(self, moments_us: Ints) -> Ints:
        return (moments_us - self.shift_us - self.size_us) // self.slide_us

    def end_tile(self, moments_us: Ints) -> Ints | None:
        return (moments_us - self.shift_us) // self.slide_us if self.shift_us else None


@dataclass(frozen=True, slots=True)
class Lifetime:
    """All of time up to the moment."""

    label: str = "lifetime"
    size_us: None = None

    @property
    def tiling(self) -> Whole:
        return Whole()

    def first_tile(self, moments_us: Ints) -> Ints:
        return np.zeros(len(moments_us), dtype=np.int64)

    def end_tile(self, moments_us: Ints) -> Ints | None:
        return None


@dataclass(frozen=True, slots=True)
class Period:
    """The period that holds the moment, so far; or, with `ago`, the whole one of so many periods before."""

    tiling: Even | Calendar
    ago: int = 0
    size_us: None = None

    @property
    def label(self) -> str:
        name = f"tumbling_{self.tiling.text}" if isinstance(self.tiling, Even) else self.tiling.unit
        return name if not self.ago else f"previous_{name}" if self.ago == 1 else f"{name}_{self.ago}_ago"

    def first_tile(self, moments_us: Ints) -> Ints:
        return self._back(moments_us, self.ago)

    def end_tile(self, moments_us: Ints) -> Ints | None:
        return self._back(moments_us, self.ago - 1) if self.ago else None

    def _back(self, moments_us: Ints, periods: int) -> Ints:
        tile = self.tiling.tile_of(moments_us)
        for _ in range(periods):
            tile = self.tiling.tile_of(self.tiling.start_us(tile) - 1)
        return tile


@dataclass(frozen=True, slots=True)
class Session:
    """Events without a pause of more than `gap_us`, the last one no longer ago than that; `longest_us` at most.

    Tiles are no longer than the gap, so events of one tile are always of one session.
    """

    gap_us: int
    longest_us: int
    tile_us: int
    size_us: None = None

    @property
    def label(self) -> str:
        return f"session_{show_duration(self.gap_us)}"

    @property
    def tiling(self) -> Even:
        return Even(self.tile_us)

    def first_tile(self, moments_us: Ints) -> Ints:
        return (moments_us - self.longest_us) // self.tile_us

    def end_tile(self, moments_us: Ints) -> Ints | None:
        return None


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest `events` events, in the order of (event time, partition, offset)."""

    events: int
    size_us: None = None

    @property
    def label(self) -> str:
        return f"newest_{self.events}"

    @property
    def tiling(self) -> Single:
        return Single()

    def first_tile(self, moments_us: Ints) -> Ints:
        return np.full(len(moments_us), LONG_AGO_US)

    def end_tile(self, moments_us: Ints) -> Ints | None:
        return None


def window(feature: str, size: str | int, slide: str | int | None) -> Sliding:
    """The window of an author's text, such as `"24h"`; raises InvalidDurationError, MisalignedTileError."""
    size_us = _some(size)
    if slide is None:
        return Sliding(size_us, _slide_us(size_us))
    slide_us = duration_us(slide)
    if slide_us <= 0 or slide_us > size_us or size_us % slide_us:
        instead = show_duration(_slide_us(size_us))
        raise MisalignedTileError(feature, show_duration(size_us), show_duration(slide_us), instead)
    return Sliding(size_us, slide_us)


def before(shift: str | int, size: str | int, *, slide: str | int | None = None) -> Sliding:
    """`before("24h", "7d")`: the 7 days before the last 24 hours. Both of its edges move by its slide."""
    shift_us, size_us = _some(shift), _some(size)
    if slide is not None:
        slide_us = _some(slide)
        if size_us % slide_us or shift_us % slide_us:
            instead = show_duration(_slide_us(gcd(size_us, shift_us)))
            raise MisalignedTileError("before", show_duration(size_us), show_duration(slide_us), instead)
        return Sliding(size_us, slide_us, shift_us)
    fitting = [
        tile for tile in _ROUND_US if tile * _TAIL_ERROR <= size_us and not size_us % tile and not shift_us % tile
    ]
    return Sliding(size_us, fitting[-1] if fitting else 1, shift_us)


def tumbling(size: str | int, *, ago: int = 0) -> Period:
    """`tumbling("1h")`: since the hour began; with `ago=1` the whole hour before. Counted from 1970, UTC."""
    return Period(Even(_some(size)), _whole("ago", ago, 0, 1_000))


def calendar(unit: Unit, zone: str = "UTC", *, ago: int = 0) -> Period:
    """`calendar("day", "Europe/Berlin")`: since midnight there; with `ago=1` the whole day before."""
    if unit not in ("hour", "day", "week", "month"):
        raise DefinitionError(f"{unit!r} is not a calendar unit; use 'hour', 'day', 'week' or 'month'")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise DefinitionError(f"{zone!r} is not a time zone; use a name such as 'Europe/Berlin' or 'UTC'") from error
    return Period(Calendar(unit, zone), _whole("ago", ago, 0, 1_000))


def session(gap: str | int, *, longest: str | int = "24h") -> Session:
    """`session("30m")`: since the last pause of over 30 minutes, but `longest` at most; empty after such a pause."""
    gap_us, longest_us = _some(gap), _some(longest)
    fitting = [tile for tile in [*_ROUND_US, gap_us] if tile <= gap_us and longest_us % tile == 0]
    if longest_us < gap_us or not fitting or longest_us > _SESSION_TILES_MAX * max(fitting):
        raise DefinitionError(
            f"a session with pauses up to {show_duration(gap_us)} cannot be {show_duration(longest_us)} long; "
            f"let longest be a round multiple of the gap, up to {_SESSION_TILES_MAX:,} times as long"
        )
    return Session(gap_us, longest_us, max(fitting))


def newest(events: int) -> Newest:
    """`newest(10)`: the newest ten events, however long ago. A `where` then picks among these."""
    return Newest(_whole("newest events", events, 1, NEWEST_MAX))


def tiles_max(over: Window) -> int:
    """The most tiles that a row keeps for the window."""
    if isinstance(over, Newest):
        return over.events
    if isinstance(over, Period):
        return over.ago + 1
    # A tile that the moment has just entered comes on top of those that the tail still holds.
    edge = np.array([2**52], dtype=np.int64)
    return int((over.tiling.tile_of(edge) - over.first_tile(edge))[0]) + 1


def _some(size: str | int) -> int:
    size_us = duration_us(size)
    if not size_us:
        raise InvalidDurationError(size)
    return size_us


def _slide_us(size_us: int) -> int:
    fitting = [tile for tile in _ROUND_US if tile * _TAIL_ERROR <= size_us and size_us % tile == 0]
    return fitting[-1] if fitting else 1


def _whole(what: str, number: int, low: int, high: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise DefinitionError(f"{what} must be a whole number from {low} to {high}, but it is {number!r}")
    return number
