"""Ends a worker that has records and does nothing with them, or that gets none of those that the broker has, from a
thread that nothing else can hold up.

Faust's own detection is out of use here, and an engine that hangs (in a store, in a library, in a loop) holds the
event loop's timers up as well. The process ends with a code of its own and whoever runs it starts it again.

A worker that was told to stop has one deadline for all that it waits for on its way out. A broker, a store and a disk
have bounds of their own, each longer than who stops a worker waits before it kills, and then nobody would be told why.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from featurestore.errors import StalledError, UndrainedError, UnreadError
from streams.transport.ranges import Place

log = logging.getLogger("featurestore.worker")

# Of our own, so that a supervisor's log says why: work was given up; nothing was done for too long.
EXIT_ABANDONED = 70
EXIT_STALLED = 71

_LOOKS_A_LIMIT = 10
_LOOK_MAX_S = 1.0
# A pipe that nobody empties would hold them up for ever.
_LAST_WORDS_S = 0.4


class Stall:
    """Pure: since when is there something to do, and nothing gets done?"""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._done: int | None = None
        self._since_s = 0.0

    def look(self, now_s: float, done: int, waiting: str) -> StalledError | None:
        """done: what was finished so far. waiting: what there is to do, in words; empty when there is nothing."""
        if done != self._done or not waiting:
            self._done, self._since_s = done, now_s
            return None
        idle_s = now_s - self._since_s
        return StalledError(idle_s, waiting) if idle_s >= self._limit_s else None


class Unread:
    """Pure: since when does a partition get nothing of what the broker has?

    Nothing waits here then, so `Stall` sees nothing of it, least of all while other partitions go on.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[Place, tuple[int, float]] = {}

    def look(self, now_s: float, stands: Mapping[Place, int]) -> UnreadError | None:
        """stands: the partitions of which the broker has more and nothing is here, each with its next offset."""
        before = self._since
        self._since = {
            place: before[place] if place in before and before[place][0] == at else (at, now_s)
            for place, at in stands.items()
        }
        for place, (at, since_s) in self._since.items():
            if now_s - since_s >= self._limit_s:
                return UnreadError(*place, at, now_s - since_s)
        return None


def watch(
    limit_s: float,
    look: Callable[[], tuple[int, str]],
    end: Callable[[int], None] | None = None,
    *,
    unread: Callable[[], Mapping[Place, int]] = dict,
) -> None:
    """Look several times in the limit, for as long as the process lives; see `Stall.look` and `Unread.look`."""

    def run() -> None:
        stall, starved = Stall(limit_s), Unread(limit_s)
        while True:
            now_s = time.monotonic()
            error = stall.look(now_s, *look()) or starved.look(now_s, unread())
            if error is not None:
                _end_all_the_same(EXIT_STALLED, end)
                log.error("%s", error)
                # Where every thread stands is what its authors will want to know.
                faulthandler.dump_traceback(sys.stderr)
                (end or end_now)(EXIT_STALLED)
                return
            time.sleep(min(limit_s / _LOOKS_A_LIMIT, _LOOK_MAX_S))

    threading.Thread(target=run, name="watchdog", daemon=True).start()


def end_within(
    limit_s: float, undrained: Callable[[], Sequence[str]], end: Callable[[int], None] | None = None
) -> None:
    """End the process after so long, whatever it still waits for.

    undrained  what was not brought to whom, in words; asked at that moment, and may wait for nobody
    """

    def run() -> None:
        time.sleep(limit_s)
        _end_all_the_same(EXIT_ABANDONED, end)
        try:
            left = list(undrained())
        except Exception as error:  # the other threads are at work; it must not keep this one from ending them
            left = [f"what, cannot be told ({error!r})"]
        log.error("%s", UndrainedError(limit_s, left))
        (end or end_now)(EXIT_ABANDONED)

    threading.Thread(target=run, name="deadline", daemon=True).start()


def _end_all_the_same(code: int, end: Callable[[int], None] | None) -> None:
    """In a moment, whatever becomes of the last words: who reads the log may not read it any more."""

    def run() -> None:
        time.sleep(_LAST_WORDS_S)
        os._exit(code)

    if end is None:
        threading.Thread(target=run, name="end", daemon=True).start()


def end_now(code: int) -> None:
    """End the process although threads are at work; what was logged is written."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
