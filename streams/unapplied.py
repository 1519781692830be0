"""Dead letters of a batch: the records that its codec rejected, then the events whose time cannot be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featurestore.event_time import SECOND_US
from streams.codecs import Decoded
from streams.letters import DeadLetter
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
    offsets = batch.offsets[np.array([bad.index for bad in decoded.rejected], dtype=np.int64)].tolist()
    rejected = [
        DeadLetter(
            topic,
            batch.partition,
            offset,
            bad.reason,
            bad.detail,
            _bytes(batch.values[bad.index], bad.position),
            batch.key(bad.index),
            bad.position,
        )
        for bad, offset in zip(decoded.rejected, offsets, strict=True)
    ]
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
    record = decoded.index[places]
    position = [None] * len(places) if decoded.position is None else decoded.position[places].tolist()
    return [
        DeadLetter(
            topic, batch.partition, offset, reason, detail, _bytes(batch.values[at], within), batch.key(at), within
        )
        for offset, at, within, detail in zip(
            batch.offsets[record].tolist(), record.tolist(), position, details, strict=True
        )
    ]


def _bytes(payload: bytes | None, position: int | None) -> bytes | None:
    """A record, or where only one of its events is meant, a record of that event alone."""
    if position is None or payload is None:
        return payload
    # A topic of another format needs no Arrow records.
    from streams.codecs.arrow import one_row

    return one_row(payload, position)
