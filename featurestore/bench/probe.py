"""Looks from outside at a store that a worker fills: how soon an event is served, and what that costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from featurestore.bench.payments import payment
from featurestore.client import FeatureStore
from featurestore.errors import FeatureStoreError
from streams.producer import EventProducer

_VIEW, _COUNT = "spending", "spending__payments_24h"
_VISIBLE_S = 60.0
_PAUSE_S = 0.001
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Probe:
    """Sends payments of cards that nobody else uses, one after the other."""

    def __init__(self, store: FeatureStore, producer: EventProducer, topic: str) -> None:
        self._store, self._producer, self._topic = store, producer, topic
        self._sent = 0

    def freshness_s(self) -> float:
        """Seconds from the broker's acknowledgement of one event to a lookup that counts it.

        Raises FeatureStoreError when that takes a minute.
        """
        self._sent += 1
        card = 900_000 + self._sent
        value = payment(card, time.time_ns() // 1_000, 1.0, 0, f"probe-{self._sent:010d}")
        self._producer.send_raw(self._topic, b"c%06d" % card, value)
        self._producer.flush()
        acknowledged = time.perf_counter()
        while self._store.get(_VIEW, {"card": f"c{card:06d}"})[_COUNT] != 1:
            took = time.perf_counter() - acknowledged
            if took > _VISIBLE_S:
                raise FeatureStoreError(f"bench stream: an acknowledged payment is not served after {took:.0f} s")
            # A lookup each millisecond measures to the millisecond, and leaves the cores to the worker.
            time.sleep(_PAUSE_S)
        return time.perf_counter() - acknowledged

    def freshness_for(self, seconds: float) -> list[float]:
        """One event after the other, about twenty a second."""
        out, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until:
            out.append(self.freshness_s())
            time.sleep(0.03)
        return out

    def lookups_for(self, seconds: float) -> tuple[list[float], list[float]]:
        """Seconds of single lookups, about five hundred a second; and how much late a pause after each one ended.

        The latter is how long this machine lets a process wait for a core: two of them wait in a lookup.
        """
        took, late, until, number = list[float](), list[float](), time.perf_counter() + seconds, 0
        while (began := time.perf_counter()) < until:
            number += 7
            self._store.get(_VIEW, {"card": f"c{number % 50_000:06d}"})
            ended = time.perf_counter()
            time.sleep(_PAUSE_S)
            took.append(ended - began)
            late.append(time.perf_counter() - ended - _PAUSE_S)
        return took, late


def percentile_ms(seconds: list[float], percent: float) -> float:
    return float(np.percentile(np.array(seconds), percent)) * 1_000


def cpu_s(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def peak_mb(pid: int) -> float:
    """The most memory that a process had at once; Linux alone tells."""
    return _memory_mb(pid, "VmHWM")


def held_mb(pid: int) -> float:
    """The memory that a process has now; Linux alone tells."""
    return _memory_mb(pid, "VmRSS")


def _memory_mb(pid: int, which: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(which))
