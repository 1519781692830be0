"""Random histories of deliver, hand out, finish, seek back, revoke and reassign against the bookkeeping of ranges.

Plain sets of offsets say what may be committed; nothing is shared with `streams/transport/ranges.py`. A failure is
replayed from its seed: `python -m tests.transport_histories --seeds 1000000`, or `--seed N` for one.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from streams.transport.ranges import Place, Ranges, Ticket
from tests import histories
from tests.histories import ViolationError

PLACES: tuple[Place, ...] = (("clicks", 0), ("clicks", 1), ("paid", 0))
_STEPS = 60
# Markers and compaction leave holes of any length; they must cost nothing.
_HOLES = (0, 0, 0, 1, 2, 7, 1 << 40)


class _Batch:
    """What the world outside knows of one batch: its bounds by its own count, and what became of it."""

    __slots__ = ("end", "first", "is_begun", "is_finished", "records", "ticket")

    def __init__(self, first: int, end: int, records: list[int], ticket: Ticket) -> None:
        self.first, self.end, self.records, self.ticket = first, end, records, ticket
        self.is_begun = self.is_finished = False


class _World:
    """One partition as its broker, its reader's queue and the sinks know it; offsets are counted one by one."""

    __slots__ = ("done", "group", "log_end", "owned", "position", "queue", "sent", "sinks", "start", "unfinished")

    def __init__(self) -> None:
        self.sent: list[int] = []  # offsets of records at the broker, rising, with holes
        self.log_end = 0
        self.group: int | None = None
        self.owned = False
        self.lose()

    def lose(self) -> None:
        self.owned = False
        self.start = self.position = 0
        self.queue: list[tuple[int, int, list[int]]] = []
        self.unfinished: list[_Batch] = []
        self.done: set[int] = set()
        self.sinks: int | None = None


class History:
    """Everything that one seed draws."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._ranges = Ranges()
        # Of one partition alone much more happens to each batch.
        self._places = PLACES[: self._draw.choice((1, 1, 2, 3))]
        self._worlds = {place: _World() for place in self._places}
        self._asked: list[tuple[Place, int]] = []
        self._stale: list[_Batch] = []
        self._old_epochs: list[tuple[Place, int]] = []
        self.trace: list[str] = []

    def run(self) -> None:
        """Play it, heal everything, and see that the group stands at the end; raises ViolationError."""
        acts = (
            (self._send, 16), (self._read, 20), (self._hand, 20), (self._begin, 20), (self._finish, 20),
            (self._settle, 16), (self._ask, 20), (self._answer, 10), (self._seek_back, 8), (self._assign, 3),
            (self._revoke, 1), (self._take_back, 1), (self._late, 3), (self._check_told, 2),
        )  # fmt: skip
        self._assign()
        # Each history has its own mind: what it does often meets what it does often.
        weights = [weight * self._draw.choice((0.2, 1, 1, 3)) for _, weight in acts]
        for act in self._draw.choices([act for act, _ in acts], weights, k=_STEPS):
            act()
        self._heal()

    # -- what may happen -------------------------------------------------------------------------------------------

    def _one(self, fits: Callable[[_World], object] = lambda world: True) -> tuple[Place, _World] | None:
        places = [place for place, world in self._worlds.items() if world.owned and fits(world)]
        if not places:
            return None
        place = self._draw.choice(places)
        return place, self._worlds[place]

    def _send(self) -> None:
        world = self._worlds[self._draw.choice(self._places)]
        for _ in range(self._draw.randrange(1, 4)):
            world.log_end += self._draw.choice(_HOLES)
            world.sent.append(world.log_end)
            world.log_end += 1
        world.log_end += self._draw.choice((0, 0, 1))  # a transaction's marker

    def _read(self) -> None:
        chosen = self._one(lambda world: world.position < world.log_end)
        if chosen is None:
            return
        place, world = chosen
        expected = self._ranges.expected(place)
        if expected != world.position:
            raise ViolationError(f"{place}: reads on from {expected}, but nothing after {world.position} was read")
        coming = [offset for offset in world.sent if offset >= world.position][: self._draw.randrange(1, 5)]
        reaches_end = not coming or (coming[-1] == world.sent[-1] and self._draw.random() < 0.5)
        end = world.log_end if reaches_end else coming[-1] + 1
        if end == world.position:
            return
        self.trace.append(f"{place} reads {coming} up to {end}")
        self._ranges.read(place, end)
        world.queue.append((world.position, end, coming))
        world.position = end

    def _hand(self) -> None:
        chosen = self._one(lambda world: world.queue)
        if chosen is None:
            return
        place, world = chosen
        parts = [world.queue.pop(0) for _ in range(self._draw.randrange(1, len(world.queue) + 1))]
        first, end = parts[0][0], parts[-1][1]
        ticket = self._ranges.hand(place, end, 10)
        self.trace.append(f"{place} hands out {first} to {end}")
        if (ticket.first, ticket.end) != (first, end):
            raise ViolationError(f"{place}: a batch covers {ticket.first} to {ticket.end}, not {first} to {end}")
        world.unfinished.append(_Batch(first, end, [offset for part in parts for offset in part[2]], ticket))

    def _begin(self) -> None:
        chosen = self._one(lambda world: any(not one.is_begun for one in world.unfinished))
        if chosen is None:
            return
        # Agents take their queue in order.
        batch = next(one for one in chosen[1].unfinished if not one.is_begun)
        if not self._ranges.begin(batch.ticket):
            raise ViolationError(f"{chosen[0]}: a batch that is ours is refused")
        batch.is_begun = True

    def _finish(self) -> None:
        chosen = self._one(lambda world: any(one.is_begun for one in world.unfinished))
        if chosen is None:
            return
        # In any order: an agent may have several at work.
        begun = [one for one in chosen[1].unfinished if one.is_begun]
        self._finished(chosen[0], chosen[1], self._draw.choice(begun))

    def _finished(self, place: Place, world: _World, batch: _Batch) -> None:
        self.trace.append(f"{place} finishes {batch.first} to {batch.end}")
        self._ranges.finish(batch.ticket)
        world.unfinished.remove(batch)
        world.done.update(batch.records)

    def _settle(self) -> None:
        """The sinks say where they stand: mostly what is done, at times what another worker brought them."""
        chosen = self._one()
        if chosen is None:
            return
        place, world = chosen
        end = world.start
        for offset in world.sent:
            if offset >= world.start:
                if offset not in world.done:
                    break
                end = offset + 1
        if self._draw.random() < 0.3:
            end = world.log_end
        world.sinks = end
        self.trace.append(f"{place}: sinks stand at {end}")
        self._ranges.settle(place, end)

    def _ask(self) -> None:
        for place, end in self._ranges.to_commit().items():
            self.trace.append(f"{place}: the group is asked to keep {end}")
            self._check(place, end)
            self._asked.append((place, end))

    def _answer(self) -> None:
        """The group answers what was asked, at any time, also after a rebalance, with yes or no; one by one."""
        if self._asked:
            place, end = self._asked.pop(0)
            if self._draw.random() < 0.5:
                self._worlds[place].group = end
                self._ranges.told(place, end)
            else:
                self.trace.append(f"{place}: the group refuses {end}")
                self._ranges.refused(place, end)

    def _seek_back(self) -> None:
        chosen = self._one()
        if chosen is None:
            return
        place, world = chosen
        handed_end = world.queue[0][0] if world.queue else world.position
        epoch = self._ranges.epoch(place)
        stale = [old for old in self._old_epochs if old[0] == place and old[1] != epoch]
        if stale and self._draw.random() < 0.5:
            if self._ranges.seek_back(place, world.start, stale[0][1]):
                raise ViolationError(f"{place}: a seek of an earlier assignment is done")
            return
        offset = self._draw.choice([world.start, *(one.first for one in world.unfinished), *sorted(world.done)[-3:]])
        done = self._ranges.seek_back(place, offset, epoch)
        if done != (offset < handed_end):
            raise ViolationError(f"{place}: seek back to {offset} with {handed_end} handed out: {done}")
        if not done:
            return
        self.trace.append(f"{place} goes back to {offset}")
        world.position, world.queue = offset, []
        world.done = {each for each in world.done if each < offset}
        world.sinks = None if world.sinks is None else min(world.sinks, offset)
        for batch in list(world.unfinished):
            if batch.first >= offset:
                world.unfinished.remove(batch)
                self._stale.append(batch)
            elif batch.end > offset:
                batch.end, batch.records = offset, [each for each in batch.records if each < offset]

    def _assign(self) -> None:
        """Partitions come; an eager member loses the others first, and where the sinks stand is where they begin."""
        eager = self._draw.random() < 0.4
        if eager:
            self._lose([place for place in self._places if self._worlds[place].owned])
        new = [place for place in self._places if not self._worlds[place].owned and self._draw.random() < 0.9]
        if not eager:
            self._take_back()
        starts = {}
        for place in new:
            world = self._worlds[place]
            world.start = world.position = self._draw.choice([0, *world.sent[-3:], world.log_end])
            world.owned = True
            starts[place] = world.start
        self.trace.append(f"assigned {starts}")
        self._ranges.assign(starts)
        self._old_epochs += [(place, self._ranges.epoch(place)) for place in new]

    def _revoke(self) -> None:
        chosen = self._one()
        if chosen is not None:
            self._lose([chosen[0]])

    def _lose(self, places: list[Place]) -> None:
        self.trace.append(f"loses {places}")
        self._ranges.revoke(places)
        for place in places:
            self._stale += self._worlds[place].unfinished
            self._worlds[place].lose()

    def _take_back(self) -> None:
        """Faust's queues are emptied: what no body has begun waits again."""
        for place in self._places:
            world = self._worlds[place]
            if not world.owned:
                continue
            back = self._ranges.take_back(place)
            first = next((one.first for one in world.unfinished if not one.is_begun), None)
            mine = [] if first is None else [one for one in world.unfinished if one.first >= first]
            if first is not None:
                self.trace.append(f"{place} takes back from {first}")
                end = world.queue[0][0] if world.queue else world.position
                # A batch of after it that was finished comes again as well.
                covered = [offset for offset in world.sent if first <= offset < end]
                world.done.difference_update(covered)
                world.queue.insert(0, (first, end, covered))
                for one in mine:
                    world.unfinished.remove(one)
                self._stale += mine
            if first != (back[0].first if back else None):
                raise ViolationError(f"{place}: takes back {back}, not from {first}")

    def _late(self) -> None:
        """A body says of a batch, which is not ours any more, that it begins or is done."""
        if self._stale:
            batch = self._draw.choice(self._stale)
            if self._ranges.begin(batch.ticket):
                raise ViolationError(f"{batch.ticket!r} is begun, though it is another's or comes again")
            self._ranges.finish(batch.ticket)

    # -- what must hold --------------------------------------------------------------------------------------------

    def _check(self, place: Place, end: int) -> None:
        world = self._worlds[place]
        if not world.owned:
            raise ViolationError(f"{place}: a commit of a partition that is not ours")
        for batch in world.unfinished:
            if end > batch.first:
                raise ViolationError(f"{place}: commit of {end} past the unfinished {batch.first} to {batch.end}")
        missing = [offset for offset in world.sent if world.start <= offset < end and offset not in world.done]
        if missing:
            raise ViolationError(f"{place}: commit of {end}, but {missing} were not done")
        if world.sinks is None or end > world.sinks:
            raise ViolationError(f"{place}: commit of {end}, but sinks stand at {world.sinks}")

    def _check_told(self) -> None:
        """Once the group has answered, and has taken what it is asked then, it knows all that it may know."""
        while self._asked:
            self._answer()
        self._tell()
        for place, world in self._worlds.items():
            if world.owned and world.sinks is not None:
                handed_end = world.queue[0][0] if world.queue else world.position
                done_end = world.unfinished[0].first if world.unfinished else handed_end
                if world.group != min(world.sinks, done_end):
                    raise ViolationError(
                        f"{place}: all is done up to {done_end} and sinks stand at {world.sinks}, but the group was "
                        f"told {world.group}"
                    )

    def _tell(self) -> None:
        for place, end in self._ranges.to_commit().items():
            self._check(place, end)
            self._worlds[place].group = end
            self._ranges.told(place, end)

    def _heal(self) -> None:
        """Everything is read, done, settled and told: then the group stands at the end, however it went before."""
        self._check_told()
        for place, world in self._worlds.items():
            if not world.owned:
                continue
            while world.position < world.log_end:
                coming = [offset for offset in world.sent if offset >= world.position]
                self._ranges.read(place, world.log_end)
                world.queue.append((world.position, world.log_end, coming))
                world.position = world.log_end
            while world.queue:
                first, end, records = world.queue.pop(0)
                world.unfinished.append(_Batch(first, end, records, self._ranges.hand(place, end)))
            for batch in list(world.unfinished):
                self._ranges.begin(batch.ticket)
                self._finished(place, world, batch)
        # Done, but no sink has said so since.
        self._ask()
        while self._asked:
            self._answer()
        for place, world in self._worlds.items():
            if world.owned:
                world.sinks = world.log_end
                self._ranges.settle(place, world.log_end)
        self._tell()
        for place, world in self._worlds.items():
            if world.owned and world.group != world.log_end:
                raise ViolationError(
                    f"{place}: all is done up to {world.log_end}, but the group stands at {world.group}"
                )
        if self._ranges.in_hand_bytes() and not any(one.ticket.is_void for one in self._stale):
            raise ViolationError("bytes are in hand though every batch is finished")
        if self._ranges.to_commit():
            raise ViolationError("the group is told what it knows")


def made(seed: int) -> AbstractContextManager[History]:
    return nullcontext(History(seed))


if __name__ == "__main__":
    sys.exit(histories.command(__doc__, made, seeds=100_000, step=2_000))
