"""Which rows of a view are served: its alias, flipped in one step, and whether they are complete.

A view's rows live under an id. Rows that the workers fill have the view's own id, `name@version`; a backfill fills
another *generation*, `name@version.g2-5f0c91aa`, beside what is served. The alias of a view is one field of one hash:

    name@version -> "ready name@version.g2-5f0c91aa 1764000000000000"

`ready` says that the rows have held everything up to a moment that no reader has seen the far side of. `filling`, or
no alias at all (no worker has finished its start, or the store lost everything), says that they may be old or
incomplete. A new alias is written only over the one that the writer has seen.

Beside it stands each id under which rows have begun, until they are dropped. One that neither the alias nor a backfill
names is dropped by whoever looks, so that nothing stays behind a process that is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import token_hex

import msgspec

from featurestore.online.store import OnlineStore

# The alias of a view moves a few times a year: a reader that meets a new one this often in a row meets a fault.
_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class Alias:
    """What a view's readers read.

    id        under which the rows lie
    is_ready  false while rows may be old or incomplete
    since_us  when this alias was written
    """

    id: str
    is_ready: bool
    since_us: int

    def packed(self) -> bytes:
        return f"{'ready' if self.is_ready else 'filling'} {self.id} {self.since_us}".encode()


@dataclass(frozen=True, slots=True)
class Served:
    """Rows of one view, all under one id; `is_ready` as of before and after they were read."""

    id: str
    is_ready: bool
    payloads: list[bytes | None]


class Backfilling(msgspec.Struct, frozen=True):
    """A backfill that is under way, as its next process finds it.

    id        of the generation that is filled
    version   of the event log up to which it is filled and compared
    stage     fill, follow, flip, or flipped; abandoned while the shadow is dropped
    old_id    of the rows that were served before, to be dropped at the end
    log_id    of the event log that `version` is of; empty where it is not known, or there was none
    begun_us  when its fill began
    began     run -> keys that it had evicted when the generation was begun; None where that is not known
    """

    id: str
    version: int
    stage: str
    old_id: str | None = None
    log_id: str = ""
    begun_us: int = 0
    began: dict[str, int] | None = None


class Aliases:
    """The aliases of one project. Raises OnlineStoreError."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._known: dict[str, str] = {}

    def get(self, view_id: str) -> Alias | None:
        """The alias of a view; None where it has none."""
        return _parsed(self._store.ask("HGET", self._store.name("aliases"), view_id))

    def id_of(self, view_id: str) -> str:
        """Where the view's rows lie that are served now."""
        alias = self.get(view_id)
        return view_id if alias is None else alias.id

    def point(self, view_id: str, expected: Alias | None, new: Alias, began: Mapping[str, int] | None = None) -> bool:
        """Flip: write the alias if it is still the one expected; whether it was.

        began  keys that had been evicted when the new rows began, where nobody has noted that before
        """
        old_id = view_id if expected is None else expected.id
        # Also where what had been evicted before is not known: so that they are dropped.
        notes = {old_id: None} if old_id != new.id else {}
        before = None if expected is None else expected.packed()
        return self._store.point(view_id, before, new.packed(), notes if began is None else {**notes, new.id: began})

    def unserved(self, view_id: str) -> list[str]:
        """The ids that have rows of the view, or may have, and that neither its alias nor its backfill names."""
        ids = [row_id for row_id in self._store.noted() if row_id == view_id or row_id.startswith(f"{view_id}.g")]
        if set(ids) <= {self.id_of(view_id)}:
            return []
        # In this order: a backfill is written down before its shadow, and the alias names that before it ends.
        backfill = self.backfill(view_id)
        kept = {backfill.id} if backfill is not None and backfill.stage != "abandoned" else set()
        kept.add(self.id_of(view_id))
        return [row_id for row_id in ids if row_id not in kept]

    def drop_unserved(self, view_id: str) -> int:
        """Drop the rows under these ids; how many keys there were."""
        dropped = 0
        for row_id in self.unserved(view_id):
            may = partial(self._is_unserved, view_id, row_id)
            dropped += self._store.drop(row_id, may=may)
        return dropped

    def _is_unserved(self, view_id: str, row_id: str) -> bool:
        return row_id in self.unserved(view_id)

    def read(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[Served]:
        """For each (view id, keys): the rows that are served; one round trip, as a rule.

        A view's rows are all of one generation. An alias that stands at one id after they were read stood there
        before, since ids are never used again; so nobody dropped or mixed what was read in between.
        """
        views = list(dict.fromkeys(view_id for view_id, _ in asked))
        for _ in range(_TRIES_MAX):
            ids = [self._known.get(view_id, view_id) for view_id, _ in asked]
            under = [(row_id, keys) for row_id, (_, keys) in zip(ids, asked, strict=True)]
            rows, before, after = self._store.payloads_and_aliases(under, views)
            found = {view_id: _parsed(value) for view_id, value in zip(views, after, strict=True)}
            first = {view_id: _parsed(value) for view_id, value in zip(views, before, strict=True)}
            now = {view_id: view_id if alias is None else alias.id for view_id, alias in found.items()}
            self._known.update(now)
            if all(now[view_id] == row_id for row_id, (view_id, _) in zip(ids, asked, strict=True)):
                ready = {v: a is not None and a.is_ready and first[v] == a for v, a in found.items()}
                return [
                    Served(row_id, ready[view_id], payloads)
                    for row_id, (view_id, _), payloads in zip(ids, asked, rows, strict=True)
                ]
        return [Served(row_id, False, payloads) for (row_id, _), payloads in zip(under, rows, strict=True)]

    # -- backfills ---------------------------------------------------------------------------------------------------

    def new_generation(self, view_id: str) -> str:
        """An id that no rows have, and none had.

        The store may lose the count of them, or evict it: the letters behind it differ all the same.
        """
        number = int(self._store.keep("HINCRBY", self._store.name("generations"), view_id, 1))
        return f"{view_id}.g{number + 1}-{token_hex(4)}"

    def backfill(self, view_id: str) -> Backfilling | None:
        """The view's backfill that is under way."""
        held = self._store.ask("HGET", self._store.name("backfills"), view_id)
        return None if held is None else msgspec.json.decode(held, type=Backfilling)

    def backfills(self) -> dict[str, Backfilling]:
        """All that are under way, by the id of their view."""
        held = self._store.ask("HGETALL", self._store.name("backfills"))
        pairs = held.items() if isinstance(held, dict) else zip(held[::2], held[1::2], strict=True)
        return {view_id.decode(): msgspec.json.decode(state, type=Backfilling) for view_id, state in pairs}

    def save_backfill(self, view_id: str, state: Backfilling) -> None:
        self._store.keep("HSET", self._store.name("backfills"), view_id, msgspec.json.encode(state))

    def end_backfill(self, view_id: str, row_id: str | None = None) -> bool:
        """Forget the view's backfill, once its alias names `row_id`, where that is given; whether it does afterwards.

        Alias and backfill may lie on two nodes of a cluster, so no one transaction holds both. What comes back older
        before the alias is read for the last time is seen; what does so later brings the backfill back, on one server.
        """
        if row_id is not None and self.id_of(view_id) != row_id:
            return False
        self._store.ask("HDEL", self._store.name("backfills"), view_id)
        return row_id is None or self.id_of(view_id) == row_id


def _parsed(packed: bytes | None) -> Alias | None:
    if packed is None:
        return None
    state, row_id, since_us = packed.decode().split(" ")
    return Alias(row_id, state == "ready", int(since_us))
