"""Many byte strings side by side in one array: no object is made of each before somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """n byte strings.

    data   their bytes, one after the other
    begin  (n + 1) where each begins, and where the last one ends
    """

    data: npt.NDArray[np.uint8]
    begin: npt.NDArray[np.int64]

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> Pieces:
        begin = np.zeros(len(strings) + 1, dtype=np.int64)
        np.cumsum([len(each) for each in strings], out=begin[1:])
        return cls(np.frombuffer(b"".join(strings), dtype=np.uint8), begin)

    def __len__(self) -> int:
        return len(self.begin) - 1

    def __iter__(self) -> Iterator[bytes]:
        raw = self.data[self.begin[0] : self.begin[-1]].tobytes()
        return iter([raw[at:end] for at, end in pairwise((self.begin - self.begin[0]).tolist())])

    def take(self, index: npt.NDArray[np.int64]) -> Pieces:
        """Those at some places, in that order."""
        from featurestore.kernel.loops.pieces import take

        ends = np.zeros(len(index) + 1, dtype=np.int64)
        np.cumsum((self.begin[1:] - self.begin[:-1])[index], out=ends[1:])
        out = np.empty(ends[-1], dtype=np.uint8)
        take(self.data, self.begin, index, ends, out)
        return Pieces(out, ends)

    def between(self, first: int, end: int) -> Pieces:
        """Some neighbours; the bytes are shared."""
        return Pieces(self.data, self.begin[first : end + 1])
