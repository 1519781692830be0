"""A file of JSON lines into a topic, in the topic's format: all of it is checked before any of it is sent.

So it is read twice, and a bounded part of it is in memory each time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featurestore.errors import InvalidEventError
from featurestore.spec import Topic
from streams.codecs.codec import Decoded
from streams.codecs.contract import kept
from streams.codecs.json import JsonCodec
from streams.producer import EventProducer

# Enough to decode them at the price of a batch, few enough that a progress bar moves, and that large ones have room.
_PART_LINES, _PART_BYTES = 10_000, 16 << 20
# No broker takes an event of this size as it is set up by default; a file without line ends is not read whole.
_LINE_BYTES_MAX = 16 << 20


@dataclass(frozen=True)
class Part:
    """Some lines of a file, which keep their topic's contract.

    read_bytes  that they and empty lines between them take in the file
    """

    topic: Topic
    lines: Sequence[bytes]
    read_bytes: int

    def __len__(self) -> int:
        return len(self.lines)

    def send(self, producer: EventProducer) -> None:
        """Send them in order; their acknowledgement comes with the producer's flush."""
        if self.topic.format == "json":
            for line in self.lines:
                producer.send_json(self.topic, line)
            return
        arrays = _decoded(self.topic, self.lines).arrays
        columns = {
            name: (arrays[name].cast("int64") if dtype == "timestamp" else arrays[name]).to_pylist()
            for name, dtype in self.topic.schema.items()
        }
        rows = zip(*columns.values(), strict=True)
        producer.send_many(self.topic, [dict(zip(columns, row, strict=True)) for row in rows])


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
        yield Part(topic, lines, read_bytes)


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
