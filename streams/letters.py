"""A dead letter, and how many of them travel in one record of the letters' topic.

A record a letter cost more than the event it tells of, in the worker and in the broker. So the letters of a batch are
packed: the value is a JSON array of them, bounded in letters and bytes. A letter that is alone, or larger than a pack
may be, is a record of its own, and then the value is the letter itself. One that is larger than the topic takes is cut:
no single record may stop a worker by its size, and its bytes still stand at its place.

The topic is compacted, so a pack's key says which letters are in it, all of them: a worker that reads a range again
may find other batch edges, or by the log's decisions fewer letters between the same two, and a pack may only take the
place of one with the same letters. Readers know a letter by its place, so one that lies in two packs is one letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import NamedTuple, overload

import msgspec
import numpy as np
import numpy.typing as npt

from streams.payloads import Payloads

PACK_LETTERS_MAX = 500
# Below the megabyte that a topic takes which was made by hand.
PACK_BYTES_MAX = 256 << 10
# What a letter keeps of a payload and of a key that find no room, and of a text about them: with all of these it is
# still smaller than any topic's bound.
BEGINNING_BYTES = 16 << 10
_TEXT_CHARACTERS_MAX = 1_000
_DIGEST_BYTES = 12
NO_POSITION = -1
_ENCODER = msgspec.json.Encoder()


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """One event that was not applied: where it stands in Kafka, why, and its bytes (base64 in JSON).

    position  of the event, where only that one of a record that holds many was not applied; the bytes are then a
              record of that event alone
    record_key  of the event's own record; None where it had none, and in letters of before it was kept
    whole_bytes  of payload and key together, where they found no room: the letter then holds their beginnings
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    payload: bytes | None
    record_key: bytes | None = None
    position: int | None = None
    whole_bytes: int | None = None

    @property
    def place(self) -> str:
        """Topic, partition and offset, and the position where there is one."""
        place = (self.topic, self.partition, self.offset, self.position)
        return "/".join(str(each) for each in place if each is not None)

    @property
    def key(self) -> bytes:
        return self.place.encode()

    @property
    def is_cut(self) -> bool:
        """Whether its event's bytes are only at its place, not here."""
        return self.whole_bytes is not None

    def beginning(self) -> DeadLetter:
        """The same letter with no more of its record, and of what is said of it, than finds room everywhere."""
        payload = None if self.payload is None else self.payload[:BEGINNING_BYTES]
        key = None if self.record_key is None else self.record_key[:BEGINNING_BYTES]
        is_cut = (payload, key) != (self.payload, self.record_key)
        return msgspec.structs.replace(
            self,
            reason=self.reason[:_TEXT_CHARACTERS_MAX],
            detail=self.detail[:_TEXT_CHARACTERS_MAX],
            payload=payload,
            record_key=key,
            whole_bytes=len(self.payload or b"") + len(self.record_key or b"") if is_cut else self.whole_bytes,
        )


class LettersOfRecords(Sequence[DeadLetter]):
    """Letters of n records of one partition, side by side: whoever goes through them makes them.

    As objects, where a tenth is bad, they took a thirteenth of the time of the thread that applies events.

    offsets, reasons, details, payloads, keys  (n)
    """

    __slots__ = ("_alike", "_details", "_keys", "_offsets", "_payloads", "_reasons")

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: npt.NDArray[np.int64],
        reasons: Sequence[str],
        details: Sequence[str],
        payloads: Payloads,
        keys: Payloads,
    ) -> None:
        self._alike, self._offsets = (topic, partition), offsets
        self._reasons, self._details, self._payloads, self._keys = reasons, details, payloads, keys

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """(3, n) as `_places` has them."""
        count = len(self)
        return np.stack([self._offsets, np.full(count, self._alike[1]), np.full(count, NO_POSITION)])

    @property
    def size_bytes(self) -> int:
        """As `size_bytes` counts them."""
        return self._payloads.size_bytes + self._keys.size_bytes + sum(map(len, self._details))

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[DeadLetter]:
        columns = self._offsets.tolist(), self._reasons, self._details, self._payloads, self._keys
        return map(DeadLetter, *map(repeat, self._alike), *columns)

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...

    @overload
    def __getitem__(self, index: slice) -> list[DeadLetter]: ...

    def __getitem__(self, index: int | slice) -> DeadLetter | list[DeadLetter]:
        if isinstance(index, slice):
            # No more than these are made: all at once would be as much again as the columns.
            reasons, details = self._reasons[index], self._details[index]
            payloads, keys = self._payloads[index], self._keys[index]
            return list(LettersOfRecords(*self._alike, self._offsets[index], reasons, details, payloads, keys))
        place = range(len(self))[index]
        return self[place : place + 1][0]


class Pack(NamedTuple):
    """One record of the topic that holds the letters of `topic`."""

    topic: str
    key: bytes
    value: bytes
    letters: int


def packs(letters: Sequence[DeadLetter]) -> Iterator[Pack]:
    """Letters of one topic as records, each letter once, in their order."""
    places = _places(letters)
    for first in range(0, len(letters), PACK_LETTERS_MAX):
        end = first + PACK_LETTERS_MAX
        yield from _packed(letters[first:end], places[:, first:end])


def unpacked(value: bytes) -> list[DeadLetter]:
    """The letters of a record's value; raises `msgspec.DecodeError` of what is none."""
    held = msgspec.json.decode(value, type=list[DeadLetter] | DeadLetter)
    return held if isinstance(held, list) else [held]


def beginning_of(value: bytes) -> Pack:
    """A record of one letter, so that it finds room everywhere."""
    [letter] = unpacked(value)
    return _alone(letter.beginning())


def size_bytes(letters: Sequence[DeadLetter]) -> int:
    """What letters hold of their records; a detail may repeat a value of one."""
    if isinstance(letters, LettersOfRecords):
        return letters.size_bytes
    return sum([len(one.payload or b"") + len(one.record_key or b"") + len(one.detail) for one in letters])


def _alone(letter: DeadLetter) -> Pack:
    return Pack(letter.topic, letter.key, _ENCODER.encode(letter), 1)


def _packed(letters: Sequence[DeadLetter], places: npt.NDArray[np.int64]) -> Iterator[Pack]:
    """In halves until each is small enough: encoding all at once is cheaper than adding sizes."""
    first, last = letters[0], letters[-1]
    if len(letters) == 1:
        yield _alone(first)
        return
    value = _ENCODER.encode(letters)
    if len(value) <= PACK_BYTES_MAX:
        digest = blake2b(places.tobytes(), digest_size=_DIGEST_BYTES).hexdigest().encode()
        yield Pack(first.topic, b"%b..%b#%b" % (first.key, last.key, digest), value, len(letters))
        return
    half = len(letters) // 2
    yield from _packed(letters[:half], places[:, :half])
    yield from _packed(letters[half:], places[:, half:])


def _places(letters: Sequence[DeadLetter]) -> npt.NDArray[np.int64]:
    """(3, n) offset, partition, and position or none: topics are alike in a pack."""
    if isinstance(letters, LettersOfRecords):
        return letters.places
    positions = [NO_POSITION if letter.position is None else letter.position for letter in letters]
    return np.array(
        [[each.offset for each in letters], [each.partition for each in letters], positions], dtype=np.int64
    )
