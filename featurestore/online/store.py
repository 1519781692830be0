"""Packed rows <-> Redis or Valkey, with the watermarks that make every commit exactly once in effect."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

from featurestore.errors import ChangedBucketsError, FullStoreError, OnlineStoreError, OtherLogError
from featurestore.event_time import Mark
from featurestore.kernel import Pieces
from featurestore.kernel.keys import bucket_of
from featurestore.online.servers import ANSWER_S, Call, OneServer, Servers, servers_at
from featurestore.online.wire import Prefixed

Ints = npt.NDArray[np.int64]

_LIBRARY = "featurestore_v5"
TOKEN_BYTES = 16
# What a function is told of a row that is not there; no token is ever zero.
_ABSENT = bytes(TOKEN_BYTES)
# A longer MGET holds the server up for other readers; shorter ones cost more round trips in the pipeline.
_MGET_KEYS = 250
# Small buckets go together up to so many rows and bytes: a call by itself costs what several rows do.
_ROWS_TOGETHER, _BYTES_TOGETHER = 250, 128 << 10
# Beside the aliases of the views, whose names have an "@": a lookup asks for these anyway, and in a cluster both lie on
# one node, so what takes one away takes the other.
_BUCKETS = "buckets"
# And before the name of a topic, of which it says what its event log is. No view's name has a ":".
_LOG = "log:"
# By which workers know whether they write into one store.
_IDENTITY = "store"
# Before an id of rows: keys evicted before these began, from then on until they are dropped; a mark in place of them
# where nobody knows. Evictions that take this along take the alias, too.
_EVICTED, _UNKNOWN = "evicted ", b"?"
# Keys that each run has evicted, of those that may have any. As many as can be, while nobody knows.
_EVICTING, _ANY_NUMBER = "evicting", 1 << 62
NO_EVICTION = "noeviction"
_NOTES_TRIED_MAX = 10
# What lies beside the rows says which of them are not to be believed, and takes little room: a full server takes it,
# too. By a script, since functions cannot be loaded there.
_KEPT = "#!lua flags=allow-oom\nreturn redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"
# A field, the value it must have ('' for none), its new one, and pairs that are written along where nothing stands yet,
# or nobody knew.
_POINTED = """#!lua flags=allow-oom
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for place = 4, #ARGV, 2 do
  if (redis.call('HGET', KEYS[1], ARGV[place]) or '?') == '?' then
    redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
  end
end
return 1
"""
# Of so many rows that are read it is looked how large they are.
_ROWS_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class StoredRows:
    """n rows in b buckets, each bucket as of one moment.

    buckets  (b)
    begins   (b + 1) where the rows of each bucket begin, and n
    tokens   (b) of the last commit to each bucket; empty where there was none
    keys     (n)
    rows     (n) as they are stored, `TOKEN_BYTES` of the commit that wrote each, then its payload; None where there is
             none
    """

    buckets: Sequence[int]
    begins: Sequence[int]
    tokens: Sequence[bytes]
    keys: Pieces
    rows: Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Move:
    """Of a bucket's watermark in one topic-partition.

    expected  end offset that the bucket must stand at; None: it has none yet
    """

    place: str
    expected: int | None
    new: Mark


@dataclass(frozen=True, slots=True)
class Commit:
    """New rows in b buckets, n of them, and the moves of the buckets' watermarks.

    buckets     (b)
    begins      (b + 1) where the rows of each bucket begin, and n
    tokens      (b) of the buckets when the rows were read
    keys        (n)
    row_tokens  (n) of the rows when they were read, side by side; zeros where there was none
    payloads    (n)
    moves       (b) of each bucket, in the topic-partitions that its rows come from
    expire_ms   after which the store may drop the rows; None: never
    """

    buckets: Sequence[int]
    begins: Sequence[int]
    tokens: Sequence[bytes]
    keys: Pieces
    row_tokens: bytes
    payloads: Pieces
    moves: Sequence[tuple[Move, ...]]
    expire_ms: int | None = None

    @classmethod
    def onto(
        cls, read: StoredRows, payloads: Pieces, moves: Sequence[tuple[Move, ...]], expire_ms: int | None = None
    ) -> Commit:
        """New rows in place of those that were read, of which no more than the tokens is kept."""
        row_tokens = b"".join([_ABSENT if row is None else row[:TOKEN_BYTES] for row in read.rows])
        return cls(read.buckets, read.begins, read.tokens, read.keys, row_tokens, payloads, moves, expire_ms)

    @classmethod
    def of_no_rows(cls, buckets: Sequence[int], moves: Sequence[tuple[Move, ...]]) -> Commit:
        """Watermarks alone."""
        none = Pieces.of(())
        return cls(buckets, [0] * (len(buckets) + 1), [b""] * len(buckets), none, b"", none, moves)


@dataclass(frozen=True, slots=True)
class Applied:
    """Rows and watermark are written."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The bucket holds all of these events already, of the topic-partition of one of the moves."""

    stored: Mark
    move: int = 0


@dataclass(frozen=True, slots=True)
class Straddle:
    """The bucket holds the first of these events of one topic-partition: cut them off, read again."""

    stored: Mark
    move: int = 0


@dataclass(frozen=True, slots=True)
class LostTail:
    """The bucket stands earlier in one topic-partition than this worker left it: the store lost commits."""

    stored: Mark | None
    move: int = 0


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another worker changed one of the rows: read again, fold again."""


Outcome = Applied | Duplicate | Straddle | LostTail | Conflict


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a server: another one may hold less than was written.

    policy   its maxmemory-policy: all but `NO_EVICTION` drop rows (also `volatile-...`: rows expire, watermarks do not)
    evicted  keys that it has dropped to make room since it was started
    """

    id: str
    policy: str
    evicted: int


class OnlineStore:
    """Rows of all views of one project. Raises OnlineStoreError when the server cannot be used."""

    def __init__(
        self,
        servers: Servers,
        *,
        namespace: str,
        buckets: int = 64,
        new_token: Callable[[], bytes] = lambda: os.urandom(TOKEN_BYTES),
    ) -> None:
        self._servers, self._namespace, self.buckets, self._new_token = servers, namespace, buckets, new_token
        # Topic -> identity of its event log, where that is known.
        self._logs: dict[str, str] = {}
        # Of the store, as this worker has told the others.
        self._identity: str | None = None
        # Run -> keys that it evicted, as this process has seen it: a store that comes back older does not know.
        self._seen_evicted: dict[str, int] = {}
        self._drops = Lock()
        # View id -> mean size of those of its rows that were read last.
        self._row_bytes: dict[str, int] = {}

    @classmethod
    def at(cls, url: str, *, namespace: str, buckets: int, answer_s: float = ANSWER_S) -> OnlineStore:
        """The store behind a URL, as `servers_at` reads it; nothing is sent before the first call."""
        return cls(servers_at(url, answer_s), namespace=namespace, buckets=buckets)

    def ensure_ready(self) -> None:
        """Refuse a server that may evict rows, or has the project's rows in other buckets; load the functions."""
        runs = self.runs()
        if policies := {run.policy for run in runs} - {NO_EVICTION}:
            # The next worker may find the policy mended and the server started anew.
            with suppress(OnlineStoreError):
                self.evicted(runs)
            raise OnlineStoreError(
                f"the online store's maxmemory-policy is {min(policies)!r}, so it may drop rows in silence; "
                f"set it to {NO_EVICTION!r}"
            )
        # Of a full server that evicted keys rows are given up, which makes room: who needs a function tries again.
        with suppress(FullStoreError):
            self._load_functions()
        self.claim()

    def _load_functions(self) -> None:
        source = files("featurestore.online").joinpath("functions.lua").read_text()
        for client in self._clients():
            with _told():
                client.function_load(source, replace=True)

    def claim(self) -> None:
        """Write down how many buckets the project has, and in which logs its events are, where nothing says so yet.

        A store that was emptied says nothing, nor does one that was filled before this was written down: there the
        settings are believed. Who writes rows calls it whenever it learns where they stand, readers never do.
        Raises ChangedBucketsError where the project has another number, OtherLogError where it has another log.
        """
        name = self.name("aliases")
        ours: dict[str, object] = {
            _BUCKETS: self.buckets,
            **{f"{_LOG}{topic}": log for topic, log in self._logs.items()},
        }
        asked: Call = ("HMGET", name, *ours)
        held, identity = self._call([asked, ("HGET", name, _IDENTITY)])
        if None in held:
            [*_, held] = self._call([*(_kept("HSETNX", name, field, value) for field, value in ours.items()), asked])
        if self._identity is not None and identity != self._identity.encode():
            # It was emptied, or came back older: it is what those call it who live.
            self.keep("HSET", name, _IDENTITY, self._identity)
        self._refuse_other(held[0])
        for (topic, log), other in zip(self._logs.items(), held[1:], strict=True):
            if other is not None and other != log.encode():
                raise OtherLogError(self._namespace, topic, other.decode(), log)

    def identity(self) -> str | None:
        """What workers call the store; None where none has called it anything."""
        held = self.ask("HGET", self.name("aliases"), _IDENTITY)
        return None if held is None else str(held.decode())

    def be_identified(self) -> str:
        """Give the store an identity where it has none; what it is. `claim` writes it again from now on."""
        name = self.name("aliases")
        _, held = self._call([_kept("HSETNX", name, _IDENTITY, os.urandom(8).hex()), ("HGET", name, _IDENTITY)])
        self._identity = str(held.decode())
        return self._identity

    def share_logs(self, logs: Mapping[str, str]) -> None:
        """Topic -> identity of the event log that this worker writes: `claim` compares them from now on, and now."""
        self._logs = dict(logs)
        self.claim()

    def refuse_other_log(self, topic: str, log: str) -> None:
        """Raises OtherLogError where the workers keep a topic's events in another log than this one; writes nothing."""
        held = self.ask("HGET", self.name("aliases"), f"{_LOG}{topic}")
        if held is not None and held != log.encode():
            raise OtherLogError(self._namespace, topic, held.decode(), log or "not there")

    def forget_log(self, topic: str) -> str | None:
        """The next worker's log is the project's, whichever it is; returns what was the project's."""
        name, field = self.name("aliases"), f"{_LOG}{topic}"
        held, _ = self._call([("HGET", name, field), ("HDEL", name, field)])
        return None if held is None else str(held.decode())

    def unclaim(self) -> None:
        """All rows are dropped, and nothing beside them counts: the next ones may lie in any number of buckets."""
        self.ask("UNLINK", self.name("aliases"))

    def _refuse_other(self, held: bytes | None) -> None:
        if held is not None and int(held) != self.buckets:
            raise ChangedBucketsError(self._namespace, int(held), self.buckets)

    def ping(self) -> None:
        """Return when the server answers, of a cluster every node that has rows."""
        for client in self._clients():
            with _told():
                client.ping()

    def marks(self, view_id: str, topic: str) -> dict[int, list[Mark | None]]:
        """Partition -> watermark of every bucket, None where a bucket has none; raises ChangedBucketsError."""
        held: Call = ("HGET", self.name("aliases"), _BUCKETS)
        states = [("HGETALL", self._state_key(view_id, bucket)) for bucket in range(self.buckets)]
        said, *found = self._call([held, *states])
        self._refuse_other(said)
        out: dict[int, list[Mark | None]] = {}
        for bucket, state in enumerate(found):
            for place, mark in _marks(_fields(state)).items():
                name, _, partition = place.rpartition("/")
                if name == topic:
                    out.setdefault(int(partition), [None] * self.buckets)[bucket] = mark
        return out

    def read(self, view_id: str, keys: Sequence[bytes] | Pieces, bucket: Ints | None = None) -> StoredRows:
        """The rows of the keys.

        bucket  of each key, rising; without it, any order will do, and theirs is that of their buckets
        """
        if bucket is None:
            of_key = np.array([bucket_of(key, self.buckets) for key in keys], dtype=np.int64)
            order = np.argsort(of_key, kind="stable")
            keys, bucket = Pieces.of(list(keys)).take(order), of_key[order]
        keys = keys if isinstance(keys, Pieces) else Pieces.of(keys)
        begins = [0, *(np.flatnonzero(np.diff(bucket)) + 1).tolist(), len(keys)] if len(keys) else [0]
        buckets, names = bucket[begins[:-1]].tolist(), self._row_names(view_id, keys, bucket)
        calls: list[Call] = []
        # Not known before they are read; those of one view are much alike.
        guessed = keys.begin[begins] + np.array(begins, dtype=np.int64) * self._row_bytes.get(view_id, 0)
        for first, end in self._together(begins, guessed):
            # A transaction is as atomic as a function, and copies rows at the server's own speed.
            calls.append(("MULTI",))
            calls += [("HGET", self._state_key(view_id, each), "ver") for each in buckets[first:end]]
            for row in range(begins[first], begins[end], _MGET_KEYS):
                calls.append(("MGET", names.between(row, min(row + _MGET_KEYS, begins[end]))))
            calls.append(("EXEC",))
        tokens: list[bytes] = []
        rows: list[bytes | None] = []
        for call, reply in zip(calls, self._call(calls), strict=True):
            if call[0] == "EXEC":
                for each in reply:
                    if isinstance(each, list):
                        rows += each
                    else:
                        tokens.append(each or b"")
        # Of all buckets, since those of one may be small.
        some = rows[:: max(1, len(rows) // _ROWS_LOOKED_AT)]
        if sizes := [len(row) for row in some if row is not None]:
            self._row_bytes[view_id] = sum(sizes) // len(sizes)
        return StoredRows(buckets, begins, tokens, keys, rows)

    def commit(self, view_id: str, commit: Commit) -> list[Outcome]:
        """What became of each bucket, of which all is written or nothing."""
        bucket = np.repeat(np.array(commit.buckets, dtype=np.int64), np.diff(commit.begins))
        names, token = self._row_names(view_id, commit.keys, bucket), self._new_token()
        begins = list(commit.begins)
        groups = self._together(begins, commit.keys.begin[begins] + commit.payloads.begin[begins], commit.moves)
        replies = self._call([self._commit_call(view_id, commit, names, token, *group) for group in groups])
        return [_outcome(of_bucket) for reply in replies for of_bucket in reply]

    def _commit_call(self, view_id: str, commit: Commit, names: Prefixed, token: bytes, first: int, end: int) -> Call:
        """The call of the buckets [first, end), which make the same moves: arguments as `functions.lua` says."""
        places = range(first, end)
        low, high = commit.begins[first], commit.begins[end]
        states = [self._state_key(view_id, commit.buckets[place]) for place in places]
        head: list[Any] = [token, "" if commit.expire_ms is None else commit.expire_ms]
        head += [len(places), len(commit.moves[first])]
        for move in commit.moves[first]:
            head += [move.place, "" if move.expected is None else move.expected, _packed(move.new)]
        for place in places:
            head += [commit.tokens[place], commit.begins[place + 1] - commit.begins[place]]
        held = commit.row_tokens[TOKEN_BYTES * low : TOKEN_BYTES * high]
        keys, rows = names.between(low, high), Prefixed.alike(token, commit.payloads.between(low, high))
        return ("FCALL", f"{_LIBRARY}_commit", len(states) + high - low, *states, keys, *head, held, rows)

    def _together(
        self, begins: Sequence[int], bytes_at: Ints, alike: Sequence[Any] | None = None
    ) -> list[tuple[int, int]]:
        """First and end of neighbours among b buckets that go in one call.

        A node of a cluster refuses keys of several buckets in one call, since each of them has a slot of its own.

        begins    (b + 1) where the rows of each bucket begin
        bytes_at  (b + 1) and their bytes, names among them
        alike     (b) only equal ones go together
        """
        out, at = list[tuple[int, int]](), bytes_at.tolist()
        for place in range(len(begins) - 1):
            first = out[-1][0] if out else 0
            is_alike = alike is None or alike[place] == alike[first]
            # A bucket is work too, so those without rows have a bound as well.
            size = begins[place + 1] - begins[first] + place + 1 - first
            is_small = size <= _ROWS_TOGETHER and at[place + 1] - at[first] <= _BYTES_TOGETHER
            if out and self._servers.has_all and is_alike and is_small:
                out[-1] = first, place + 1
            else:
                out.append((place, place + 1))
        return out

    def _row_names(self, view_id: str, keys: Pieces, bucket: Ints) -> Prefixed:
        """What the server calls the rows of n keys; (n) bucket of each, rising."""
        is_new = np.diff(bucket, prepend=-1) > 0
        prefixes = Pieces.of([self._row_prefix(view_id, each) for each in bucket[is_new].tolist()])
        return Prefixed(prefixes, np.cumsum(is_new) - 1, keys)

    def payloads(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """For each (view id, keys): the payloads of the keys, None where there is no row; one round trip."""
        return self.payloads_and_aliases(asked, ())[0]

    def payloads_and_aliases(
        self, asked: Sequence[tuple[str, Sequence[bytes]]], views: Sequence[str]
    ) -> tuple[list[list[bytes | None]], list[bytes | None], list[bytes | None]]:
        """The same, with the aliases of some views as they were before and after the rows were read.

        Raises ChangedBucketsError where there are views: rows would be missed that lie in other buckets.
        """
        aliases: list[Call] = [("HMGET", self.name("aliases"), _BUCKETS, *views)] if views else []
        gets: list[Call] = []
        sizes = []
        for view_id, keys in asked:
            names = [self._row_prefix(view_id, bucket_of(key, self.buckets)) + key for key in keys]
            chunks = range(0, len(names), _MGET_KEYS)
            sizes.append(len(chunks))
            gets += [("MGET", *names[first : first + _MGET_KEYS]) for first in chunks]
        before, found, after = self._in_turn([aliases, gets, aliases])
        for [said, *_] in (*before, *after):
            self._refuse_other(said)
        held = iter(found)
        rows = [
            [None if row is None else row[TOKEN_BYTES:] for _ in range(size) for row in next(held)] for size in sizes
        ]
        return rows, before[0][1:] if views else [], after[0][1:] if views else []

    def ask(self, *call: Any) -> Any:
        """One command of the server; its answer. For what lies beside the rows: see `alias.py`."""
        return self._call([call])[0]

    def keep(self, command: str, name: bytes, *arguments: Any) -> Any:
        """A write of one key that a full server takes, too: of what lies beside the rows."""
        return self._call([_kept(command, name, *arguments)])[0]

    def beside(self) -> dict[str, bytes]:
        """All fields beside the rows: aliases, and what this class writes there."""
        fields = _fields(self.ask("HGETALL", self.name("aliases")))
        return {field.decode(): value for field, value in fields.items()}

    def point(
        self, field: str, expected: bytes | None, new: bytes, began: Mapping[str, Mapping[str, int] | None]
    ) -> bool:
        """Write an alias if it still has the value expected; whether it had.

        began  notes of `note_evicted` that are written along
        """
        notes = [part for row_id, counts in began.items() for part in (f"{_EVICTED}{row_id}", _counted(counts))]
        call = ("EVAL", _POINTED, 1, self.name("aliases"), field, expected or b"", new, *notes)
        return bool(self.ask(*call))

    def name(self, of: str) -> bytes:
        """Key of something that the project has once."""
        return f"{self._namespace}:{of}".encode()

    def runs(self) -> list[Run]:
        """Of each server that has rows of its own."""
        return [_run(client) for client in self._clients()]

    def evicted(self, runs: Sequence[Run]) -> dict[str, int]:
        """Run -> keys that it has evicted: of `runs`, and of those that are gone and had evicted some when last seen.

        Of one that is gone, and was last seen with a policy that drops keys, nobody knows: as many as can be. Written
        down for who comes later; these are few, since a server has such a policy by mistake. Where others keep writing
        theirs between, the next call tries again.
        """
        name = self.name("aliases")
        for _ in range(_NOTES_TRIED_MAX):
            held = self.ask("HGET", name, _EVICTING) or b""
            noted = _counts(held) or {}
            seen = noted | {run_id: max(keys, noted.get(run_id, 0)) for run_id, keys in self._seen_evicted.items()}
            for run in runs:
                if run.policy != NO_EVICTION:
                    seen[run.id] = _ANY_NUMBER
                elif run.evicted or run.id in seen:
                    seen[run.id] = run.evicted
            self._seen_evicted = seen
            # Over what was read: others may have noted more meanwhile.
            if seen == noted or self.ask("EVAL", _POINTED, 1, name, _EVICTING, held, _counted(seen)):
                break
        return seen | {run.id: run.evicted for run in runs}

    def note_evicted(self, row_id: str, counts: Mapping[str, int] | None, *, anew: bool = False) -> None:
        """Rows under this id begin as of `counts`, or nobody knows: what was evicted before is none of them.

        The first note counts, until they are dropped; anew where a server counts from zero again.
        """
        self.keep("HSET" if anew else "HSETNX", self.name("aliases"), f"{_EVICTED}{row_id}", _counted(counts))

    def evicted_before(self, row_id: str, topic: str) -> dict[str, int] | None:
        """Run -> keys that were evicted when rows under this id began; None where nobody knows, and as of now where
        there are none yet.

        Later runs are not among them: those begin with none.
        """
        field = f"{_EVICTED}{row_id}"
        held: bytes | None = self.ask("HGET", self.name("aliases"), field)
        if held is None:
            is_empty = not self.marks(row_id, topic)
            if is_empty:
                self.note_evicted(row_id, self.evicted(self.runs()))
            # Another one may have noted them meanwhile, before they began.
            held = self.ask("HGET", self.name("aliases"), field)
        return None if held is None else _counts(held)

    def noted(self) -> list[str]:
        """The ids under which rows have begun that nobody has dropped."""
        return [field.removeprefix(_EVICTED) for field in self.beside() if field.startswith(_EVICTED)]

    def drop(self, view_id: str, at_once: int = 1_000, may: Callable[[], bool] = lambda: True) -> int:
        """Delete all rows and watermarks under an id; returns how many keys there were.

        One at a time, since each goes through all keys of the server.

        may  is asked before every so many of them; the rest is left once it says no
        """
        with self._drops:
            return self._drop(view_id, at_once, may)

    def _drop(self, view_id: str, at_once: int, may: Callable[[], bool]) -> int:
        if not may():
            return 0
        # First what would vouch for rows that are gone already, where this ends half-way. There may be other buckets,
        # too, of which no setting tells.
        states = [self._state_key(view_id, bucket) for bucket in range(self.buckets)]
        dropped = int(self.ask("UNLINK", *states))
        for names in self._keys_of(view_id, "", at_once):
            if not may():
                return dropped
            dropped += int(self.ask("UNLINK", *names))
        if may():
            self.ask("HDEL", self.name("aliases"), f"{_EVICTED}{view_id}")
        return dropped

    def rows(self, view_id: str) -> int:
        """How many rows there are under an id; goes through all keys of the server."""
        return sum(len(names) for names in self._keys_of(view_id, "row:", 1_000))

    def _keys_of(self, view_id: str, what: str, at_once: int) -> Iterator[list[bytes]]:
        # A star stands for anything, and so may the key of another view's entity: the place is looked at as well.
        pattern = f"{_plain(self._namespace)}:{{b*}}:{_plain(view_id)}:{what}*"
        ours = re.compile(
            re.escape(f"{self._namespace}:{{b").encode() + rb"\d+" + re.escape(f"}}:{view_id}:{what}").encode()
        )
        for client in self._clients():
            cursor = None
            while cursor != 0:
                # A key may come twice while the server's table grows or shrinks; unlinking it again does nothing.
                with _told():
                    cursor, found = client.scan(cursor or 0, match=pattern, count=at_once)
                names = [each for each in found if isinstance(each, bytes) and ours.match(each)]
                if names:
                    yield names

    def newest_us(self, view_id: str, topic: str, keys: Sequence[bytes]) -> list[int | None]:
        """For each key: every event up to here that was in time is in the key's row, of the partitions it knows.

        The newest effective event time of the partition that is furthest behind; None when nothing was read yet. A
        partition of which the key's bucket has no mark is not looked at: it may have no records, for ever, or first
        ones that nobody has applied yet, and those take this back when they are.
        """
        buckets = [bucket_of(key, self.buckets) for key in keys]
        distinct = list(dict.fromkeys(buckets))
        states = self._call([("HGETALL", self._state_key(view_id, bucket)) for bucket in distinct])
        newest = {}
        for bucket, state in zip(distinct, states, strict=True):
            marks = _marks(_fields(state))
            of_topic = [mark.newest_us for place, mark in marks.items() if place.rpartition("/")[0] == topic]
            newest[bucket] = min(of_topic, default=None)
        return [newest[bucket] for bucket in buckets]

    def _clients(self) -> Sequence[redis.Redis]:
        with _told():
            return self._servers.clients()

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        return self._in_turn([calls])[0]

    def _in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """The answers of some groups of calls, each as of after the one before it."""
        if not any(groups):
            return [[] for _ in groups]
        with _told():
            answers = self._servers.in_turn(groups)
        for calls, replies in zip(groups, answers, strict=True):
            missing = [index for index, reply in enumerate(replies) if _is_missing(reply)]
            if missing:
                # FUNCTION FLUSH or a failover took the library away; what was refused did nothing, so ask again.
                self._load_functions()
                self.ensure_ready()
                with _told():
                    again = self._servers.execute([calls[index] for index in missing])
                for index, reply in zip(missing, again, strict=True):
                    replies[index] = reply
            for reply in replies:
                # A transaction's replies come as one list, with its errors in it.
                for one in reply if isinstance(reply, list) else (reply,):
                    if isinstance(one, redis.exceptions.OutOfMemoryError):
                        raise FullStoreError from one
                    if isinstance(one, Exception):
                        raise OnlineStoreError(f"the online store refused a call: {self._said(one)}") from one
        return answers

    def _said(self, error: Exception) -> str:
        if isinstance(self._servers, OneServer):
            of_cluster = redis.exceptions.AskError | redis.exceptions.ClusterCrossSlotError
            is_node = isinstance(error, of_cluster)
            return "the server is a node of a cluster: say redis+cluster:// in redis_url" if is_node else str(error)
        if isinstance(error, redis.exceptions.AskError | redis.exceptions.TryAgainError):
            return "a slot was on its way between two nodes for too long; nothing was done, try again"
        return str(error)

    def _state_key(self, view_id: str, bucket: int) -> bytes:
        return f"{self._namespace}:{{b{bucket}}}:{view_id}:state".encode()

    def _row_prefix(self, view_id: str, bucket: int) -> bytes:
        # The bucket's tag comes before the entity's bytes, so braces in a key cannot move it to another slot.
        return f"{self._namespace}:{{b{bucket}}}:{view_id}:row:".encode()


def _run(client: redis.Redis) -> Run:
    """As INFO tells it, which also those may ask who may not ask CONFIG."""
    with _told():
        said = client.info("server", "memory", "stats")
    return Run(str(said["run_id"]), str(said["maxmemory_policy"]), int(said["evicted_keys"]))


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong on the way to the server, as an error of ours."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise FullStoreError from error
    except redis.exceptions.NoPermissionError as error:
        raise OnlineStoreError(
            f"the online store refused a call: {error}; give the user that redis_url names this right"
        ) from error
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        raise OnlineStoreError(f"the online store does not answer: {error}; check redis_url and the server") from error


def _fields(state: Any) -> dict[bytes, bytes]:
    """A hash as a server answers it: a map in its newer protocol, names and values in turn in the older one."""
    return state if isinstance(state, dict) else dict(zip(state[0::2], state[1::2], strict=True))


def has_more(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Whether any run has evicted more than before."""
    return any(keys > before.get(run_id, 0) for run_id, keys in now.items())


def _counted(counts: Mapping[str, int] | None) -> bytes:
    return _UNKNOWN if counts is None else " ".join(f"{run_id}:{keys}" for run_id, keys in counts.items()).encode()


def _counts(held: bytes) -> dict[str, int] | None:
    if held == _UNKNOWN:
        return None
    pairs = (each.split(":") for each in held.decode().split())
    return {run_id: int(keys) for run_id, keys in pairs}


def _kept(command: str, name: bytes, *arguments: Any) -> Call:
    return ("EVAL", _KEPT, 1, name, command, *arguments)


def _is_missing(reply: object) -> bool:
    return isinstance(reply, redis.ResponseError) and "function not found" in str(reply).lower()


def _packed(mark: Mark) -> str:
    """Offsets stay below 2**53, so that Lua's numbers compare them exactly."""
    assert 0 <= mark.offset < 1 << 53
    return f"{mark.offset} {mark.newest_us} {mark.leader_epoch} {mark.topic_id}"


def _unpacked(packed: bytes) -> Mark:
    offset, newest_us, leader_epoch, topic_id = packed.decode().split(" ", 3)
    return Mark(int(offset), int(newest_us), topic_id, int(leader_epoch))


def _marks(state: dict[bytes, bytes]) -> dict[str, Mark]:
    return {place.decode(): _unpacked(mark) for place, mark in state.items() if place != b"ver"}


def _outcome(reply: list[Any]) -> Outcome:
    match reply[0]:
        case b"applied":
            return Applied()
        case b"duplicate":
            return Duplicate(_unpacked(reply[1]), int(reply[2]))
        case b"straddle":
            return Straddle(_unpacked(reply[1]), int(reply[2]))
        case b"lost":
            return LostTail(_unpacked(reply[1]) if reply[1] else None, int(reply[2]))
        case _:
            return Conflict()


def _plain(text: str) -> str:
    """As a pattern that stands for this text alone."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
