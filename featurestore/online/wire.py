"""Commands as the server reads them, with many rows and names in each: written by a compiled loop, not one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import hiredis
import numpy as np
import numpy.typing as npt

from featurestore.kernel import Pieces

# Below this many arguments, calling the loop costs more than it saves.
LOOPED_MIN = 64
# Before and after an argument: "$", up to ten digits, and twice the end of a line.
_FRAME_BYTES = 15
_PIECE_BYTES = 1 << 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Arguments that begin alike, in place of one argument of a call."""

    prefix: bytes
    items: Sequence[bytes] | Pieces

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[bytes]:
        return (self.prefix + item for item in self.items)


def flat(call: Sequence[Any]) -> tuple[Any, ...]:
    """The call's arguments one by one."""
    out: list[Any] = []
    for each in call:
        if isinstance(each, Prefixed):
            out.extend(each)
        else:
            out.append(each)
    return tuple(out)


def packed(calls: Sequence[Sequence[Any]]) -> list[bytes | memoryview]:
    """All calls, in few pieces: each is sent by itself, and small ones cost more to send than to copy."""
    pieces: list[bytes | memoryview] = []
    some: list[bytes | memoryview] = []
    size = 0
    for call in calls:
        parts = _parts(call)
        some.extend(parts)
        size += sum(map(len, parts))
        if size >= _PIECE_BYTES:
            pieces.append(b"".join(some))
            some, size = [], 0
    return [*pieces, b"".join(some)] if some else pieces


def _parts(call: Sequence[Any]) -> list[bytes | memoryview]:
    if sum(len(each) for each in call if isinstance(each, Prefixed)) < LOOPED_MIN:
        return [hiredis.pack_command(flat(call))]
    count = sum(len(each) if isinstance(each, Prefixed) else 1 for each in call)
    parts: list[bytes | memoryview] = [b"*%d\r\n" % count]
    for is_many, some in groupby(call, lambda each: isinstance(each, Prefixed)):
        if is_many:
            parts += map(_looped, some)
        else:
            # Without the line that says how many they are.
            parts.append(hiredis.pack_command(tuple(some)).partition(b"\n")[2])
    return parts


def _looped(many: Prefixed) -> bytes | memoryview:
    # Not at the top: the loops need Numba, whose import takes a third of a second.
    from featurestore.kernel.loops.payloads import find
    from featurestore.online.wire_loop import write_arguments

    prefix, items = np.frombuffer(many.prefix, dtype=np.uint8), many.items
    if isinstance(items, Pieces):
        addresses = items.data.ctypes.data + items.begin[:-1]
        lengths = np.diff(items.begin)
    else:
        items = list(items)
        addresses, lengths = np.empty((2, len(items)), dtype=np.int64)
        # An absent one would be written as an empty argument.
        if not find(id(items), id(None), id(bytes), addresses, lengths) or not addresses.all():
            raise TypeError("names and rows of a call are bytes")
    out = np.empty(int(lengths.sum()) + len(lengths) * (_FRAME_BYTES + len(prefix)), dtype=np.uint8)
    return out[: write_arguments(prefix, addresses, lengths, out)].data
