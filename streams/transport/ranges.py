"""What a member of the group has read, handed out and finished of each partition, and so what the group may be told.

Offsets of a partition, from left to right:

    finished | handed out, first in first out | waiting | not read yet
             ^ open[0].first                  ^ hand_end ^ read_end

A range begins where the one before it ended, never at its first record: transaction markers and compaction holes lie
inside ranges and are no gaps. The group is told no more than what every sink holds *and* lies before the oldest
unfinished range. Pure: no client, no clock, no thread; whoever shares one between threads holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

Place = tuple[str, int]


class Ticket:
    """One range that was handed out. `is_void`: its events come again, or are another member's by now."""

    __slots__ = ("bytes", "end", "first", "is_begun", "is_done", "is_void", "place")

    def __init__(self, place: Place, first: int, end: int, size_bytes: int) -> None:
        self.place, self.first, self.end, self.bytes = place, first, end, size_bytes
        self.is_begun = self.is_done = self.is_void = False

    def __repr__(self) -> str:
        return f"<{self.place[0]}/{self.place[1]} {self.first} to {self.end}>"


class _Partition:
    """Where one partition stands in one assignment of it."""

    __slots__ = ("asked", "epoch", "hand_end", "held", "held_bytes", "open", "read_end", "settled", "told")

    def __init__(self, start: int, epoch: int) -> None:
        self.epoch = epoch
        self.read_end = self.hand_end = start
        self.open: deque[Ticket] = deque()
        # What Faust still holds, void by a seek or not.
        self.held: set[Ticket] = set()
        self.held_bytes = 0
        self.settled: int | None = None
        self.asked: int | None = None
        self.told: int | None = None

    @property
    def finished_end(self) -> int:
        return self.open[0].first if self.open else self.hand_end


class Ranges:
    """The bookkeeping of all partitions of one member."""

    def __init__(self) -> None:
        self._places: dict[Place, _Partition] = {}
        self._epoch = 0
        self.handed = self.finished = 0

    # -- partitions come and go ------------------------------------------------------------------------------------

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Take partitions over, each from its offset; what was known of them before is void."""
        self.revoke(starts)
        self._epoch += 1
        for place, start in starts.items():
            self._places[place] = _Partition(start, self._epoch)

    def revoke(self, places: Mapping[Place, int] | list[Place]) -> None:
        """Give partitions up: from now on nothing that is said of them counts."""
        for place in places:
            at = self._places.pop(place, None)
            if at is not None:
                for ticket in at.open:
                    ticket.is_void = True

    def places(self) -> list[Place]:
        return list(self._places)

    def epoch(self, place: Place) -> int:
        """Changes with each assignment of the partition; 0 while it is not assigned."""
        at = self._places.get(place)
        return 0 if at is None else at.epoch

    # -- records come in -------------------------------------------------------------------------------------------

    def expected(self, place: Place) -> int | None:
        """The next offset to read; None of a partition that is not ours."""
        at = self._places.get(place)
        return None if at is None else at.read_end

    def read(self, place: Place, end: int) -> None:
        """The broker has nothing that was not read before this offset."""
        at = self._places[place]
        assert end >= at.read_end, (place, end, at.read_end)
        at.read_end = end

    def seek_back(self, place: Place, offset: int, epoch: int) -> bool:
        """Read again from an earlier offset; whether that is to be done.

        Not of a partition that changed hands since, and never forward: what was read and not handed out yet would be
        passed over.
        """
        at = self._places.get(place)
        if at is None or at.epoch != epoch or offset >= at.hand_end:
            return False
        while at.open and at.open[-1].first >= offset:
            at.open.pop().is_void = True
        if at.open:
            # Cut: only its first part is not read again.
            at.open[-1].end = min(at.open[-1].end, offset)
        at.hand_end = at.read_end = offset
        if at.settled is not None:
            at.settled = min(at.settled, offset)
        return True

    # -- batches go out --------------------------------------------------------------------------------------------

    def hand(self, place: Place, end: int, size_bytes: int = 0) -> Ticket:
        """Hand out what waits, up to an offset."""
        at = self._places[place]
        assert at.hand_end <= end <= at.read_end, (place, at.hand_end, end, at.read_end)
        ticket = Ticket(place, at.hand_end, end, size_bytes)
        at.open.append(ticket)
        at.hand_end = end
        at.held.add(ticket)
        at.held_bytes += size_bytes
        self.handed += 1
        return ticket

    def begin(self, ticket: Ticket) -> bool:
        """Whether the range is still this member's to apply; then it is waited for before its partition leaves."""
        if ticket.is_void:
            return False
        ticket.is_begun = True
        return True

    def finish(self, ticket: Ticket) -> None:
        """The range was applied, or found void and left alone; once each."""
        at = self._places.get(ticket.place)
        if at is None or ticket not in at.held:
            return
        at.held.remove(ticket)
        at.held_bytes -= ticket.bytes
        ticket.is_done = True
        self.finished += 1
        while at.open and at.open[0].is_done:
            at.open.popleft()

    def take_back(self, place: Place) -> list[Ticket]:
        """Void what was handed out and not begun, in order, and what follows it: it waits again.

        For partitions that stay when others come or go: Faust empties its queues at each rebalance.
        """
        at = self._places.get(place)
        if at is None:
            return []
        begun = 0
        while begun < len(at.open) and at.open[begun].is_begun:
            begun += 1
        back = [at.open.pop() for _ in range(len(at.open) - begun)][::-1]
        for ticket in back:
            ticket.is_void = True
        if back:
            at.hand_end = back[0].first
        # What a seek made void is in Faust's queues no more either.
        at.held = {ticket for ticket in at.open if not ticket.is_done}
        at.held_bytes = sum(ticket.bytes for ticket in at.held)
        return back

    def in_hand(self, place: Place) -> int:
        """Batches of a partition that Faust holds."""
        at = self._places.get(place)
        return 0 if at is None else len(at.held)

    def in_hand_bytes(self) -> int:
        return sum(at.held_bytes for at in self._places.values())

    # -- the group is told -----------------------------------------------------------------------------------------

    def settle(self, place: Place, end: int) -> None:
        """Every sink holds the partition up to here; lower than before when a sink lost its tail."""
        at = self._places.get(place)
        if at is not None:
            at.settled = end

    def to_commit(self) -> dict[Place, int]:
        """What the group does not know yet. It counts as known when `told` says so, and not before."""
        moved: dict[Place, int] = {}
        for place, at in self._places.items():
            if at.settled is None:
                continue
            end = min(at.settled, at.finished_end)
            if end != (at.told if at.asked is None else at.asked):
                moved[place] = at.asked = end
        return moved

    def told(self, place: Place, end: int) -> None:
        """The group took an offset. Of several that it was asked the answers come one by one, each of them a fact."""
        at = self._places.get(place)
        if at is not None:
            at.told = end
            if at.asked == end:
                at.asked = None

    def refused(self, place: Place, end: int) -> None:
        """The group did not take an offset: it is to be told again."""
        at = self._places.get(place)
        if at is not None and at.asked == end:
            at.asked = None
