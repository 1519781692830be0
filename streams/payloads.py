"""The bytes of many records in one buffer: no Python object is made a record until somebody asks for one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.gather import gather

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

# The length of what is not there, which differs from what is empty.
ABSENT = -1


class Payloads(Sequence[bytes | None]):
    """Payloads of records in their order; a part of them is a view, and keeps the whole buffer.

    data     the bytes; what lies between payloads is nobody's
    starts   (n) where each begins in `data`
    lengths  (n) of each, ABSENT for None
    """

    __slots__ = ("data", "lengths", "starts")

    def __init__(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        self.data, self.starts, self.lengths = data, starts, lengths
        for array in (data, starts, lengths):
            array.flags.writeable = False

    @classmethod
    def of(cls, payloads: Sequence[bytes | None]) -> Payloads:
        """The same payloads in one buffer."""
        if isinstance(payloads, Payloads):
            return payloads
        if isinstance(payloads, Parts):
            return cls.joined(payloads.parts)
        there = [payload or b"" for payload in payloads]
        lengths = np.fromiter(map(len, there), dtype=np.int64, count=len(there))
        starts = _starts(lengths)
        for index in np.flatnonzero(lengths == 0).tolist():
            if payloads[index] is None:
                lengths[index] = ABSENT
        return cls(np.frombuffer(b"".join(there), dtype=np.uint8), starts, lengths)

    @classmethod
    def absent(cls, count: int) -> Payloads:
        """So many that are None."""
        return cls(_NO_BYTES, np.zeros(count, dtype=np.int64), np.full(count, ABSENT))

    @classmethod
    def joined(cls, parts: Sequence[Sequence[bytes | None]]) -> Payloads:
        """All of them, one part after the other."""
        each = [cls.of(part) for several in parts for part in _parts(several)]
        if len(each) == 1:
            return each[0]
        used = [part._used() for part in each]
        ends = np.cumsum([last - first for first, last in used])
        starts = [part.starts + (end - last) for part, (_, last), end in zip(each, used, ends, strict=True)]
        return cls(
            np.concatenate(
                [_NO_BYTES, *(part.data[first:last] for part, (first, last) in zip(each, used, strict=True))]
            ),
            np.concatenate([_NOTHING, *starts]),
            np.concatenate([_NOTHING, *(part.lengths for part in each)]),
        )

    @property
    def size_bytes(self) -> int:
        """Of all payloads together."""
        return int(np.maximum(self.lengths, 0).sum())

    @property
    def ends(self) -> Ints:
        """(n) where each ends; before its start where it is None."""
        return self.starts + self.lengths

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...

    @overload
    def __getitem__(self, index: slice) -> Payloads: ...

    def __getitem__(self, index: int | slice) -> bytes | Payloads | None:
        if isinstance(index, slice):
            # Loops are compiled for arrays without steps.
            starts, lengths = self.starts[index], self.lengths[index]
            return Payloads(self.data, np.ascontiguousarray(starts), np.ascontiguousarray(lengths))
        start, length = int(self.starts[index]), int(self.lengths[index])
        return None if length == ABSENT else self.data[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        return iter(self.at(np.arange(len(self))))

    def __repr__(self) -> str:
        return f"<{len(self)} payloads of {self.size_bytes} bytes>"

    def taken(self, places: Ints) -> Payloads:
        """Those at some places, in a buffer of their own."""
        lengths = self.lengths[places]
        ends = np.zeros(len(places) + 1, dtype=np.int64)
        np.cumsum(np.maximum(lengths, 0), out=ends[1:])
        together = np.empty(ends[-1], dtype=np.uint8)
        gather(self.data, self.starts[places], lengths, together)
        return Payloads(together, ends[:-1], lengths)

    def without(self, places: Ints) -> Payloads:
        """The same, with None at some places."""
        lengths = self.lengths.copy()
        lengths[places] = ABSENT
        return Payloads(self.data, self.starts, lengths)

    def at(self, places: Ints) -> list[bytes | None]:
        """Those at some places. One by one they cost ten times as much, nearly all of it waiting for memory."""
        some = self.taken(places)
        there = np.packbits(some.lengths != ABSENT, bitorder="little")
        buffers = [pa.py_buffer(there), pa.py_buffer(np.append(some.starts, len(some.data))), pa.py_buffer(some.data)]
        payloads: list[bytes | None] = pa.Array.from_buffers(pa.large_binary(), len(places), buffers).to_pylist()
        return payloads

    def _used(self) -> tuple[int, int]:
        """From where to where the payloads lie in `data`."""
        if not len(self):
            return 0, 0
        return int(self.starts.min()), int((self.starts + np.maximum(self.lengths, 0)).max())


class Parts(Sequence[bytes | None]):
    """Payloads that lie in several buffers: nothing is copied to put them one after the other.

    parts  what follows each other
    """

    __slots__ = ("_ends", "parts")

    def __init__(self, parts: Sequence[Sequence[bytes | None]]) -> None:
        self.parts = [part for several in parts for part in _parts(several)]
        self._ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes | None]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes | None] | None:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step != 1:
                return Payloads.of(self)[index]
            begins = [0, *self._ends]
            return Parts(
                [
                    part[max(first - begin, 0) : max(end - begin, 0)]
                    for part, begin in zip(self.parts, begins, strict=False)
                    if begin < end and first < begin + len(part)
                ]
            )
        place = range(len(self))[index]
        which = bisect_right(self._ends, place)
        return self.parts[which][place - (self._ends[which] - len(self.parts[which]))]

    def __iter__(self) -> Iterator[bytes | None]:
        return chain.from_iterable(self.parts)

    def __repr__(self) -> str:
        return f"<{len(self)} payloads in {len(self.parts)} parts>"


def picked(payloads: Sequence[bytes | None], places: Ints) -> list[bytes | None]:
    """Those at some places."""
    if not len(places):
        return []
    payloads = _joined_for(payloads, places)
    return payloads.at(places) if isinstance(payloads, Payloads) else [payloads[place] for place in places.tolist()]


def taken(payloads: Sequence[bytes | None], places: Ints) -> Payloads:
    """The same side by side, in a buffer of their own: what is not taken may go."""
    payloads = _joined_for(payloads, places)
    if isinstance(payloads, Payloads):
        return payloads.taken(places)
    return Payloads.of([payloads[place] for place in places.tolist()])


def _joined_for(payloads: Sequence[bytes | None], places: Ints) -> Sequence[bytes | None]:
    # A part costs as much as some payloads, so where many are wanted the parts are joined first.
    if isinstance(payloads, Parts) and len(places) >= len(payloads.parts):
        return Payloads.joined(payloads.parts)
    return payloads


def _parts(payloads: Sequence[bytes | None]) -> Sequence[Sequence[bytes | None]]:
    return payloads.parts if isinstance(payloads, Parts) else [payloads]


_NO_BYTES = np.empty(0, dtype=np.uint8)
_NOTHING = np.empty(0, dtype=np.int64)


def _starts(lengths: Ints) -> Ints:
    """Where each begins when they follow each other."""
    ends = np.cumsum(lengths)
    return ends - lengths
