"""A dead letter, and how many of them travel in one record of the letters' topic.

A record a letter cost more than the event it tells of, in the worker and in the broker. So the letters of a batch are
packed: the value is a JSON array of them, bounded in letters and bytes. A letter that is alone, or larger than a pack
may be, is a record of its own, and then the value is the letter itself.

The topic is compacted, so a pack's key says which letters are in it, all of them: a worker that reads a range again
may find other batch edges, or by the log's decisions fewer letters between the same two, and a pack may only take the
place of one with the same letters. Readers know a letter by its place, so one that lies in two packs is one letter.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

PACK_LETTERS_MAX = 500
# Below the megabyte that a topic takes which was made by hand.
PACK_BYTES_MAX = 256 << 10
_DIGEST_BYTES = 12
_ENCODER = msgspec.json.Encoder()


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """One event that was not applied: where it stands in Kafka, why, and its bytes (base64 in JSON).

    position  of the event, where only that one of a record that holds many was not applied; the bytes are then a
              record of that event alone
    record_key  of the event's own record; None where it had none, and in letters of before it was kept
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    payload: bytes | None
    record_key: bytes | None = None
    position: int | None = None

    @property
    def place(self) -> str:
        """Topic, partition and offset, and the position where there is one."""
        place = (self.topic, self.partition, self.offset, self.position)
        return "/".join(str(each) for each in place if each is not None)

    @property
    def key(self) -> bytes:
        return self.place.encode()


class Pack(NamedTuple):
    """One record of the topic that holds the letters of `topic`."""

    topic: str
    key: bytes
    value: bytes
    letters: int


def packs(letters: Sequence[DeadLetter]) -> Iterator[Pack]:
    """Letters of one topic as records, each letter once, in their order."""
    for first in range(0, len(letters), PACK_LETTERS_MAX):
        yield from _packed(letters[first : first + PACK_LETTERS_MAX])


def unpacked(value: bytes) -> list[DeadLetter]:
    """The letters of a record's value; raises `msgspec.DecodeError` of what is none."""
    held = msgspec.json.decode(value, type=list[DeadLetter] | DeadLetter)
    return held if isinstance(held, list) else [held]


def _packed(letters: Sequence[DeadLetter]) -> Iterator[Pack]:
    """In halves until each is small enough: encoding all at once is cheaper than adding sizes."""
    first, last = letters[0], letters[-1]
    if len(letters) == 1:
        yield Pack(first.topic, first.key, _ENCODER.encode(first), 1)
        return
    value = _ENCODER.encode(letters)
    if len(value) <= PACK_BYTES_MAX:
        yield Pack(first.topic, b"%b..%b#%b" % (first.key, last.key, _digest(letters)), value, len(letters))
        return
    half = len(letters) // 2
    yield from _packed(letters[:half])
    yield from _packed(letters[half:])


def _digest(letters: Sequence[DeadLetter]) -> bytes:
    """Of the places of all letters: topics are alike in a pack."""
    places = array("q", [letter.offset for letter in letters])
    places.extend([letter.partition for letter in letters])
    places.extend([-1 if letter.position is None else letter.position for letter in letters])
    return blake2b(places.tobytes(), digest_size=_DIGEST_BYTES).hexdigest().encode()
