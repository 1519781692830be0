"""The records of a batch that keep no contract, side by side in columns: a batch may have as many as it has records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A record that breaks the contract: where it stands in the batch, and why.

    position  of the event in its record, where only that event is meant and the others of the record are taken
    """

    index: int
    reason: str
    detail: str
    position: int | None = None


class Rejections(Sequence[Rejected]):
    """What a codec rejects of a batch, by record, then by place in the record; one is made a `Rejected` when asked for.

    records    (n) their places in the batch, rising
    reasons    (n)
    details    (n)
    positions  (n) of events in their records, where only these are meant
    """

    __slots__ = ("details", "positions", "reasons", "records")

    def __init__(
        self, records: Ints, reasons: list[str], details: list[str], positions: list[int | None] | None = None
    ) -> None:
        self.records, self.reasons, self.details = records, reasons, details
        nowhere: list[int | None] = [None] * len(reasons)
        self.positions = nowhere if positions is None else positions

    @classmethod
    def of(cls, rejected: Iterable[Rejected]) -> Rejections:
        """Those in any order."""
        ordered = sorted(rejected, key=lambda one: (one.index, -1 if one.position is None else one.position))
        return cls(
            np.fromiter((one.index for one in ordered), dtype=np.int64, count=len(ordered)),
            [one.reason for one in ordered],
            [one.detail for one in ordered],
            [one.position for one in ordered],
        )

    def beside(self, others: Rejections) -> Rejections:
        """Both, where no record is in both."""
        if not len(self) or not len(others):
            return self if len(self) else others
        return Rejections.of([*self, *others])

    def between(self, first: int, end: int) -> Rejections:
        """Those of the records [first, end), as if these were the batch."""
        low, high = np.searchsorted(self.records, [first, end]).tolist()
        return Rejections(
            self.records[low:high] - first, self.reasons[low:high], self.details[low:high], self.positions[low:high]
        )

    def where(self, chosen: Truths) -> Rejections:
        """Those that are chosen, of all n."""
        return Rejections(
            self.records[chosen],
            list(compress(self.reasons, chosen)),
            list(compress(self.details, chosen)),
            list(compress(self.positions, chosen)),
        )

    def __len__(self) -> int:
        return len(self.reasons)

    @overload
    def __getitem__(self, place: int) -> Rejected: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Rejected]: ...

    def __getitem__(self, place: int | slice) -> Rejected | Sequence[Rejected]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        return Rejected(int(self.records[place]), self.reasons[place], self.details[place], self.positions[place])

    def __iter__(self) -> Iterator[Rejected]:
        return map(Rejected, self.records.tolist(), self.reasons, self.details, self.positions)

    def __repr__(self) -> str:
        return f"<{len(self)} rejected>"


NONE_REJECTED = Rejections(np.zeros(0, dtype=np.int64), [], [])
