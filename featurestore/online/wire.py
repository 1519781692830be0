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
    """n arguments of p beginnings, in place of one argument of a call.

    prefixes  (p)
    which     (n) prefix of each argument
    items     (n) what follows it
    """

    prefixes: Pieces
    which: Ints
    items: Pieces

    @classmethod
    def alike(cls, prefix: bytes, items: Pieces) -> Prefixed:
        """All of them begin with the same."""
        return cls(Pieces.of([prefix]), np.zeros(len(items), dtype=np.int64), items)

    def between(self, first: int, end: int) -> Prefixed:
        """Some neighbours."""
        return Prefixed(self.prefixes, self.which[first:end], self.items.between(first, end))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[bytes]:
        prefixes = list(self.prefixes)
        return (prefixes[which] + item for which, item in zip(self.which.tolist(), self.items, strict=True))


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
    from featurestore.online.wire_loop import write_arguments

    prefixes, items = many.prefixes, many.items
    longest = _FRAME_BYTES + int(np.diff(prefixes.begin).max(initial=0))
    out = np.empty(int(items.begin[-1] - items.begin[0]) + len(many) * longest, dtype=np.uint8)
    return out[: write_arguments(prefixes.data, prefixes.begin, many.which, items.data, items.begin, out)].data
