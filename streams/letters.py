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
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec

PACK_LETTERS_MAX = 1_000
# Below the megabyte that a topic takes which was made by hand.
PACK_BYTES_MAX = 256 << 10
_DIGEST_BYTES = 12


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


def packs(letters: Iterable[DeadLetter]) -> Iterator[Pack]:
    """Letters as records, each letter once, in their order."""
    encoder, text, held = msgspec.json.Encoder(), bytearray(), list[DeadLetter]()
    for letter in letters:
        text += b","
        start = len(text)
        encoder.encode_into(letter, text, start)
        is_full = len(held) == PACK_LETTERS_MAX or len(text) >= PACK_BYTES_MAX
        if held and (is_full or letter.topic != held[0].topic):
            yield _pack(held, text[: start - 1])
            text, held = text[start - 1 :], []
        held.append(letter)
    if held:
        yield _pack(held, text)


def unpacked(value: bytes) -> list[DeadLetter]:
    """The letters of a record's value; raises `msgspec.DecodeError` of what is none."""
    held = msgspec.json.decode(value, type=list[DeadLetter] | DeadLetter)
    return held if isinstance(held, list) else [held]


def _pack(letters: list[DeadLetter], text: bytearray) -> Pack:
    """`text` is the letters in JSON, each with a comma before it."""
    first, last = letters[0], letters[-1]
    if len(letters) == 1:
        return Pack(first.topic, first.key, bytes(text[1:]), 1)
    text[0] = ord("[")
    text += b"]"
    return Pack(first.topic, b"%b..%b#%b" % (first.key, last.key, _digest(letters)), bytes(text), len(letters))


def _digest(letters: list[DeadLetter]) -> bytes:
    """Of the places of all letters: topics are alike in a pack."""
    places = array("q", [letter.offset for letter in letters])
    places.extend(letter.partition for letter in letters)
    places.extend(-1 if letter.position is None else letter.position for letter in letters)
    return blake2b(places.tobytes(), digest_size=_DIGEST_BYTES).hexdigest().encode()
