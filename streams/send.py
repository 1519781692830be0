"""A file of JSON lines into a topic, in the topic's format: all of it is checked before any of it is sent.

So it is read twice, and a bounded part of it is in memory each time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from featurestore.errors import InvalidEventError, LinesNotAcknowledgedError
from featurestore.spec import Topic
from streams.codecs.codec import Decoded
from streams.codecs.contract import kept
from streams.codecs.json import JsonCodec
from streams.producer import Answered, EventProducer

# Enough to decode them at the price of a batch, few enough that a progress bar moves, and that large ones have room.
_PART_LINES, _PART_BYTES = 10_000, 16 << 20
# No broker takes an event of this size as it is set up by default; a file without line ends is not read whole.
_LINE_BYTES_MAX = 16 << 20
# More lines than people mend one by one; that no more are sent bounds what is kept of them.
_REFUSED_MAX = 1_000


@dataclass(frozen=True)
class Part:
    """Some lines of a file, which keep their topic's contract: nobody checks them again.

    numbers     of each in the file, from 1
    read_bytes  that they and empty lines between them take in the file
    """

    topic: Topic
    lines: Sequence[bytes]
    numbers: Sequence[int]
    read_bytes: int

    def __len__(self) -> int:
        return len(self.lines)

    def send(self, producer: EventProducer, fate: Fate) -> None:
        """Send them in order; what becomes of them `fate` knows after the producer's flush."""
        if self.topic.format == "json":
            for line, number in zip(self.lines, self.numbers, strict=True):
                producer.send_json(self.topic, line, fate.begun([number]), is_checked=True)
            return
        arrays = _decoded(self.topic, self.lines).arrays
        columns = {
            name: (arrays[name].cast("int64") if dtype == "timestamp" else arrays[name]).to_pylist()
            for name, dtype in self.topic.schema.items()
        }
        rows = zip(*columns.values(), strict=True)
        events = [dict(zip(columns, row, strict=True)) for row in rows]
        for key, payload, places in producer.records(self.topic, events):
            producer.send_raw(self.topic.name, key, payload, fate.begun([self.numbers[place] for place in places]))


class Fate:
    """What became of the lines of a file that were sent to a topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._begun, self._last = 0, 0
        # No more than the producer's queue holds.
        self._waiting: set[int] = set()
        self._refused: list[int] = []
        self._reasons: Counter[str] = Counter()
        self._is_ended_early = False

    @property
    def acknowledged(self) -> int:
        return self._begun - len(self._waiting) - len(self._refused)

    def begun(self, lines: Sequence[int]) -> Answered:
        """Note that a record of these lines is sent; what takes the broker's answer."""
        self._begun += len(lines)
        self._last = max(self._last, *lines)
        self._waiting.update(lines)
        return partial(self._answered, lines)

    def goes_on(self) -> bool:
        """Whether to send more: where so many lines are refused, it is not about single ones."""
        if len(self._refused) > _REFUSED_MAX:
            self.end()
        return not self._is_ended_early

    def end(self) -> None:
        """Note that the file has lines of which none is sent."""
        self._is_ended_early = True

    def check(self) -> None:
        """Raises LinesNotAcknowledgedError unless the broker has every line."""
        if self._refused or self._waiting:
            raise LinesNotAcknowledgedError(
                self._topic,
                self.acknowledged,
                sorted(self._refused),
                list(self._reasons),
                sorted(self._waiting),
                self._last if self._is_ended_early else None,
            )

    def _answered(self, lines: Sequence[int], refused: str | None) -> None:
        self._waiting.difference_update(lines)
        if refused is not None:
            self._refused += lines
            self._reasons[refused] += 1


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """A file, or standard input for `-`, that can be read again: a pipe is kept in a file for temporary ones meanwhile.

    Standard input stands where whoever had it before has left it.
    """
    with ExitStack() as stack:
        source: BinaryIO = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        if not source.seekable():
            here = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(source, here)
            here.seek(0)
            source = here
        yield source


def checked(topic: Topic, source: BinaryIO, size: int | None = None) -> Iterator[Part]:
    """The lines from here on, part by part; raises InvalidEventError at the first that breaks the contract.

    size  how many bytes they are at most: what has come since to the end of a file belongs to nobody yet
    """
    for lines, numbers, read_bytes in _parts(topic, source, sys.maxsize if size is None else size):
        rejected = _decoded(topic, lines).rejected
        if rejected:
            first = min(rejected, key=lambda one: one.index)
            raise InvalidEventError(topic.name, f"line {numbers[first.index]}: {first.reason}: {first.detail}")
        yield Part(topic, lines, numbers, read_bytes)


def _parts(topic: Topic, source: BinaryIO, left: int) -> Iterator[tuple[list[bytes], list[int], int]]:
    """Lines with something in them, the number of each in the file, and how many bytes were read for them."""
    number, ended = 0, False
    while not ended:
        lines, numbers, read_bytes = list[bytes](), list[int](), 0
        while len(lines) < _PART_LINES and read_bytes < _PART_BYTES:
            line = source.readline(min(_LINE_BYTES_MAX + 1, left))
            number += 1
            read_bytes += len(line)
            left -= len(line)
            if len(line) > _LINE_BYTES_MAX:
                raise InvalidEventError(topic.name, f"line {number} is longer than {_LINE_BYTES_MAX >> 20} MiB")
            ended = not line
            if ended:
                break
            if stripped := line.strip():
                lines.append(stripped)
                numbers.append(number)
        if lines:
            yield lines, numbers, read_bytes


def _decoded(topic: Topic, lines: Sequence[bytes]) -> Decoded:
    return kept(JsonCodec(topic).decode(lines), topic)
