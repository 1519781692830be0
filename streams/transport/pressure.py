"""Back-pressure: when the poll thread waits, and which partitions it pauses. Pure; the reader acts on its advice.

Waiting costs nothing: librdkafka's own queue fills and the broker keeps the rest. Pausing throws that queue away, so
that it is read again; it is the last resort, after seconds, since the group must hear from us. Only what is full is
paused then, and the others read on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.transport.ranges import Place

# Longer than any batch takes, and well below the time in which the group wants to hear a poll.
STALLED_S = 5.0


@dataclass(frozen=True, slots=True)
class Advice:
    """wait: do not poll now. Pause and resume these, then poll."""

    wait: bool = False
    pause: frozenset[Place] = frozenset()
    resume: frozenset[Place] = frozenset()


class Pressure:
    """Remembers since when it is too much, and what is paused."""

    def __init__(self, records_max: int, bytes_max: int) -> None:
        """Of one partition's records and of all partitions' bytes, read and not handed out yet."""
        self._records_max, self._bytes_max = records_max, bytes_max
        self._since_s: float | None = None
        self.paused: frozenset[Place] = frozenset()

    def forget(self) -> frozenset[Place]:
        """Partitions changed, and it is judged anew; what was paused until now."""
        paused, self._since_s, self.paused = self.paused, None, frozenset()
        return paused

    def look(self, held: Mapping[Place, tuple[int, int]], now_s: float) -> Advice:
        """What to do now, when each partition holds that many records and bytes."""
        total = sum(size for _, size in held.values())
        # Half of a bound, so that it does not pause and resume with every batch.
        resume = frozenset(
            place
            for place in self.paused
            if place not in held or (total * 2 <= self._bytes_max and held[place][0] * 2 <= self._records_max)
        )
        full = {place for place, (records, _) in held.items() if records >= self._records_max}
        if total >= self._bytes_max:
            full |= held.keys()
        full -= self.paused
        if not full:
            self._since_s = None
            self.paused -= resume
            return Advice(resume=resume & held.keys())
        if self._since_s is None:
            self._since_s = now_s
        # With something paused already it has been too much for long: what fills up now is paused at once.
        if now_s - self._since_s < STALLED_S and not self.paused:
            return Advice(wait=True)
        self.paused = (self.paused - resume) | full
        return Advice(pause=frozenset(full), resume=resume & held.keys())
