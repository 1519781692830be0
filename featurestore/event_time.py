"""Event time: units, durations, half-open arithmetic.

Inside the project a moment is an `int` of UTC microseconds. `"24h"`, `timedelta` and aware `datetime`
live at the edge and are converted here, once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from featurestore.errors import InvalidDurationError, NaiveDatetimeError

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

# The last microsecond of the year 9999: Python, JSON and many databases can say no later moment.
MOMENT_MAX_US = 253_402_300_799_999_999
# The first one that Python can say; of events none is before 1970.
YEAR_1_US = -62_135_596_800_000_000

# The producer's clock may run ahead of the broker's by this much; an event further ahead is a dead letter.
FUTURE_MAX_US = 5 * MINUTE_US

# Instead of how late a repeat is: no view waits so long, so none ever takes it. See `Topic.dedupe`.
REPEATED_US = 2**63 - 1

_UNITS_US = {
    "us": 1,
    "ms": MILLISECOND_US,
    "s": SECOND_US,
    "m": MINUTE_US,
    "h": HOUR_US,
    "d": DAY_US,
}
# Far beyond any window, and small enough that sums of a moment and a duration fit int64.
_DURATION_MAX_US = 100 * 366 * DAY_US
_DURATION = re.compile(r"(\d+)(us|ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a sink has come in one topic-partition.

    offset        end offset: the next one to apply
    newest_us     newest effective event time before `offset`, so that a resume judges lateness the same
    topic_id      identity of the topic; a recreated topic has another
    leader_epoch  of the record before `offset`, -1 when unknown; the broker tells by it whether that is there
    """

    offset: int
    newest_us: int
    topic_id: str = ""
    leader_epoch: int = -1


def duration_us(text: str | timedelta | int) -> int:
    """Microseconds of `"90s"`, `"24h"`, `"7d"`, a `timedelta` or an `int` of microseconds.

    Raises InvalidDurationError, also below zero and above a century.
    """
    us = -1
    if isinstance(text, timedelta):
        us = text // timedelta(microseconds=1)
    elif isinstance(text, int) and not isinstance(text, bool):
        us = text
    elif isinstance(text, str) and (matched := _DURATION.fullmatch(text)) is not None:
        us = int(matched[1]) * _UNITS_US[matched[2]]
    if not 0 <= us <= _DURATION_MAX_US:
        raise InvalidDurationError(text)
    return us


def show_duration(us: int) -> str:
    """The shortest exact text of a duration: `86_400_000_000` is `24h`, as authors write it."""
    for unit in ("d", "h", "m", "s", "ms"):
        size = _UNITS_US[unit]
        # A day alone reads as 24h: windows of one day are called that everywhere in the field.
        if us and us % size == 0 and not (unit == "d" and us == DAY_US):
            return f"{us // size}{unit}"
    return f"{us}us"


def moment_us(moment: datetime) -> int:
    """Microseconds of an aware datetime, without going through a float."""
    if moment.tzinfo is None:
        raise NaiveDatetimeError(moment)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def as_datetime(us: int) -> datetime:
    """The aware UTC datetime of a moment."""
    return _EPOCH + timedelta(microseconds=us)


def tile_start_us(event_us: int, tile_us: int) -> int:
    """Start of the tile that holds this moment; tiles are half-open and aligned to the epoch."""
    return event_us - event_us % tile_us


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
