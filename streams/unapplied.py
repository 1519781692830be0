"""Dead letters of a batch: the records that its codec rejected, then the events whose time cannot be."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from operator import is_not

import numpy as np
import numpy.typing as npt

from featurestore.event_time import SECOND_US
from streams.codecs import Decoded
from streams.letters import DeadLetter
from streams.payloads import picked
from streams.transport import Batch
from streams.watermark import Judged

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


def letters_of(
    topic: str, batch: Batch, decoded: Decoded, event_us: Ints, judged: Judged, late: Truths, lateness_us: int
) -> list[DeadLetter]:
    """What is not applied, with its reason.

    event_us     (n) of the decoded events, as their producers gave them
    late         (n) which of them are later than any view waits ...
    lateness_us  ... and how long that is
    """
    bad = decoded.rejected
    rejected = _letters(topic, batch, bad.records, bad.reasons, bad.details, bad.positions)
    future, late_at = np.flatnonzero(judged.future), np.flatnonzero(late)
    ahead_s = (event_us[future] - judged.effective_us[future]) // SECOND_US
    ahead = [f"{each} s ahead of its arrival" for each in ahead_s.tolist()]
    behind_s, allowed_s = judged.late_by_us[late_at] // SECOND_US, lateness_us // SECOND_US
    said = f"s behind the newest event of its partition, views allow {allowed_s} s"
    behind = [f"{each} {said}" for each in behind_s.tolist()]
    return [
        *rejected,
        *_untimely(topic, batch, decoded, future, "future", ahead),
        *_untimely(topic, batch, decoded, late_at, "too_late", behind),
    ]


def _untimely(
    topic: str, batch: Batch, decoded: Decoded, places: Ints, reason: str, details: list[str]
) -> list[DeadLetter]:
    """Letters of events that were decoded, by their places among those."""
    positions = [None] * len(places) if decoded.position is None else decoded.position[places].tolist()
    return _letters(topic, batch, decoded.index[places], [reason] * len(places), details, positions)


def _letters(
    topic: str, batch: Batch, record: Ints, reasons: list[str], details: list[str], positions: list[int | None]
) -> list[DeadLetter]:
    """Letters of the records at rising places; made without a loop of Python's, for each may be many."""
    payloads = picked(batch.values, record)
    if any(map(partial(is_not, None), positions)):
        payloads = list(map(_bytes, payloads, positions))
    alike, offsets, keys = (
        (repeat(topic), repeat(batch.partition)),
        batch.offsets[record].tolist(),
        batch.keys_at(record),
    )
    return list(map(DeadLetter, *alike, offsets, reasons, details, payloads, keys, positions))


def _bytes(payload: bytes | None, position: int | None) -> bytes | None:
    """A record, or where only one of its events is meant, a record of that event alone."""
    if position is None or payload is None:
        return payload
    # A topic of another format needs no Arrow records.
    from streams.codecs.arrow import one_row

    return one_row(payload, position)
