"""What an engine counts of its records: each one once, however often its partition is read again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featurestore.event_time import REPEATED_US
from streams.codecs import Decoded
from streams.transport import Batch
from streams.watermark import Judged

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Records and events since the engine was made; what is read again counts in `batches` alone.

    records == applied + repeated + dead. Where records hold many events, the three count events, and a record that
    is bad as a whole is one of the dead: they add up to the events of the good records and the bad records. A record
    whose letters were all taken back before its log was lost is none here: it counts where it stands again.

    batches   applied, again ones too; of each partition
    applied   taken by a view at least
    repeated  left out, since their id was seen already
    clamped   of the future by a little: they count, as of their arrival
    dead      by reason
    """

    batches: int = 0
    records: int = 0
    applied: int = 0
    repeated: int = 0
    clamped: int = 0
    dead: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.batches + other.batches,
            self.records + other.records,
            self.applied + other.applied,
            self.repeated + other.repeated,
            self.clamped + other.clamped,
            self.dead + other.dead,
        )


def counts_of(
    batch: Batch,
    whole: Decoded,
    decoded: Decoded,
    event_us: Ints,
    judged: Judged,
    late: npt.NDArray[np.bool_],
    first: int,
) -> Counts:
    """One batch, of which the records before offset `first` have been counted.

    whole    with events that stand elsewhere by now ...
    decoded  ... and without them, as all the rest
    late     (n) which events are later than any view waits
    """
    cut = int(np.searchsorted(batch.offsets, first))
    begin = int(np.searchsorted(decoded.index, cut))
    future, late = judged.future[begin:], late[begin:]
    repeated = judged.late_by_us[begin:] == REPEATED_US
    clamped = judged.effective_us[begin:] < event_us[begin:]
    rejected = decoded.rejected
    dead = Counter(rejected.reasons[int(np.searchsorted(rejected.records, cut)) :])
    dead += Counter(future=int(future.sum()), too_late=int(late.sum()))
    elsewhere = 0 if whole is decoded else _records(whole, cut) - _records(decoded, cut)
    return Counts(
        1,
        len(batch.offsets) - cut - elsewhere,
        int((~future & ~repeated & ~late).sum()),
        int(repeated.sum()),
        int((clamped & ~future).sum()),
        dead,
    )


def _records(decoded: Decoded, cut: int) -> int:
    """How many have good events, from this one of the batch on."""
    return len(np.unique(decoded.index[np.searchsorted(decoded.index, cut) :]))
