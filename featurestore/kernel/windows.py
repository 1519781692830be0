"""Windows: the stretch of event time that a value covers.

The value at moment t covers events with tile_start(t - window) <= event time <= t. Its head is exact and
its tail moves by whole tiles (the slide), which is what makes it cheap: a sawtooth window. A slide of one
microsecond would be the exact sliding window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import InvalidDurationError, MisalignedTileError
from featurestore.event_time import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_us, show_duration

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


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window of `size_us` whose tail moves by `slide_us`; `None` and `None`: all of time."""

    size_us: int | None
    slide_us: int | None

    @property
    def label(self) -> str:
        return "lifetime" if self.size_us is None else show_duration(self.size_us)

    def first_tile(self, moments_us: Ints) -> Ints:
        """Index of the oldest tile that each moment covers."""
        if self.size_us is None or self.slide_us is None:
            return np.zeros(len(moments_us), dtype=np.int64)
        return (moments_us - self.size_us) // self.slide_us

    def start_us(self, moments_us: Ints) -> Ints:
        """First microsecond that each moment covers."""
        if self.slide_us is None:
            return np.full(len(moments_us), np.iinfo(np.int64).min)
        return self.first_tile(moments_us) * self.slide_us


LIFETIME = Window(None, None)


def window(feature: str, size: str | int, slide: str | int | None) -> Window:
    """The window of an author's text, such as `"24h"`; raises MisalignedTileError."""
    size_us = duration_us(size)
    if not size_us:
        raise InvalidDurationError(size)
    if slide is None:
        fitting = [tile for tile in _ROUND_US if tile * _TAIL_ERROR <= size_us and size_us % tile == 0]
        return Window(size_us, fitting[-1] if fitting else 1)
    slide_us = duration_us(slide)
    if slide_us <= 0 or slide_us > size_us or size_us % slide_us:
        instead = window(feature, size_us, None)
        raise MisalignedTileError(
            feature, show_duration(size_us), show_duration(slide_us), show_duration(instead.slide_us or 1)
        )
    return Window(size_us, slide_us)


def tiles_of(event_us: Ints, tile_us: int | None) -> Ints:
    """The tile that holds each event; a lifetime has one."""
    return np.zeros(len(event_us), dtype=np.int64) if tile_us is None else event_us // tile_us
