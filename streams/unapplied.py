"""Dead letters of a batch: the records that its codec rejected, then the events whose time cannot be.

They are made in parts. A letter of a record holds what the record holds, so letters of records take what the batch
takes; but one of a row holds the row as a record of its own, and with it the key of all: many times what was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import is_not, itemgetter

import numpy as np
import numpy.typing as npt

from featurestore.event_time import SECOND_US
from featurestore.spec import Topic
from streams.codecs import Decoded, Rejections
from streams.letters import DeadLetter, LettersOfRecords, size_bytes
from streams.payloads import taken
from streams.transport import Batch
from streams.watermark import Judged

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

# Letters of rows that are made before they are put; what is put waits for room.
PART_LETTERS_MAX, PART_BYTES_MAX = 1_000, 4 << 20


def letters_of(
    topic: Topic, batch: Batch, decoded: Decoded, event_us: Ints, judged: Judged, late: Truths, lateness_us: int
) -> Iterator[Sequence[DeadLetter]]:
    """What is not applied, with its reason, part by part.

    event_us     (n) of the decoded events, as their producers gave them
    late         (n) which of them are later than any view waits ...
    lateness_us  ... and how long that is
    """
    bad = decoded.rejected
    if batch.cut:
        is_cut = np.isin(batch.offsets[bad.records], list(batch.cut))
        yield _cut(topic, batch, bad.where(is_cut))
        bad = bad.where(~is_cut)
    yield from _letters(topic, batch, bad.records, bad.reasons, bad.details, bad.positions)
    future, late_at = np.flatnonzero(judged.future), np.flatnonzero(late)
    ahead_s = (event_us[future] - judged.effective_us[future]) // SECOND_US
    ahead = [f"{each} s ahead of its arrival" for each in ahead_s.tolist()]
    behind_s, allowed_s = judged.late_by_us[late_at] // SECOND_US, lateness_us // SECOND_US
    said = f"s behind the newest event of its partition, views allow {allowed_s} s"
    behind = [f"{each} {said}" for each in behind_s.tolist()]
    yield from _untimely(topic, batch, decoded, future, "future", ahead)
    yield from _untimely(topic, batch, decoded, late_at, "too_late", behind)


def _cut(topic: Topic, batch: Batch, bad: Rejections) -> list[DeadLetter]:
    """Letters of records of which only the beginnings are here."""
    rejected, keys = list(bad), batch.keys_at(bad.records)
    offsets, payloads = batch.offsets[bad.records].tolist(), taken(batch.values, bad.records)
    return [
        DeadLetter(
            topic.name, batch.partition, offset, one.reason, one.detail, payload, key, whole_bytes=batch.cut[offset]
        )
        for one, offset, payload, key in zip(rejected, offsets, payloads, keys, strict=True)
    ]


def _untimely(
    topic: Topic, batch: Batch, decoded: Decoded, places: Ints, reason: str, details: list[str]
) -> Iterator[Sequence[DeadLetter]]:
    """Letters of events that were decoded, by their places among those."""
    positions = [None] * len(places) if decoded.position is None else decoded.position[places].tolist()
    return _letters(topic, batch, decoded.index[places], [reason] * len(places), details, positions)


def _letters(
    topic: Topic, batch: Batch, record: Ints, reasons: list[str], details: list[str], positions: list[int | None]
) -> Iterator[Sequence[DeadLetter]]:
    """Letters of the records at rising places."""
    if any(map(partial(is_not, None), positions)):
        yield from _letters_of_rows(topic, batch, record, reasons, details, positions)
        return
    if len(record):
        offsets, payloads, keys = batch.offsets[record], taken(batch.values, record), batch.keys_at(record)
        yield LettersOfRecords(topic.name, batch.partition, offsets, reasons, details, payloads, keys)


def _letters_of_rows(
    topic: Topic, batch: Batch, record: Ints, reasons: list[str], details: list[str], positions: list[int | None]
) -> Iterator[list[DeadLetter]]:
    """The same of records that hold many events, each of which is taken out of its batch once."""
    # What decides how the event is read, and so when it comes back.
    columns = frozenset([*topic.schema, *chain.from_iterable(topic.renamed.values())])
    part: list[DeadLetter] = []
    bytes_made = 0
    for place, rows in groupby(zip(record.tolist(), reasons, details, positions, strict=True), itemgetter(0)):
        offset, payload, [key] = int(batch.offsets[place]), batch.values[place], batch.keys_at(np.array([place]))
        for _, reason, detail, position in rows:
            made = _bytes(payload, position, columns)
            part.append(DeadLetter(topic.name, batch.partition, offset, reason, detail, made, key, position))
            bytes_made += size_bytes(part[-1:])
            if len(part) == PART_LETTERS_MAX or bytes_made >= PART_BYTES_MAX:
                yield part
                part, bytes_made = [], 0
    yield part


def _bytes(payload: bytes | None, position: int | None, columns: frozenset[str]) -> bytes | None:
    """A record, or where only one of its events is meant, a record of that event alone."""
    if position is None or payload is None:
        return payload
    # A topic of another format needs no Arrow records.
    from streams.codecs.arrow import one_row

    return one_row(payload, position, columns)
