"""The words of a refusal: what msgspec says of each fault that the compiled loop tells by itself.

It is asked once a topic, with records that have each fault, so the loop's refusals read like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from featurestore.kernel import DataType
from featurestore.spec import Topic
from streams.codecs import json_loop
from streams.codecs.rejections import Rejections

Ints = npt.NDArray[np.int64]

_VALUES: dict[DataType, bytes] = {"string": b'""', "int64": b"0", "timestamp": b"0", "float64": b"0", "bool": b"true"}
_MISFITS = {
    json_loop.NULL: b"null",
    json_loop.STRING_THERE: b'""',
    json_loop.TRUTH_THERE: b"true",
    json_loop.LIST_THERE: b"[]",
    json_loop.OBJECT_THERE: b"{}",
}
# A fault and its field are one number.
_FIELDS_MAX = 64


@dataclass(frozen=True, slots=True)
class _Word:
    """What is said of a fault.

    names_byte  whether `(byte N)` follows
    """

    reason: str
    detail: str
    names_byte: bool


class Words:
    """What is said of the faults of one topic's records.

    ask  what msgspec says of those records that it does not take
    """

    def __init__(self, topic: Topic, ask: Callable[[Sequence[bytes]], Rejections]) -> None:
        self._words: dict[int, _Word] = {}
        samples = list(_samples(topic))
        for said in ask([sample for _, _, sample, _ in samples]):
            fault, field, _, byte = samples[said.index]
            tail = f" (byte {byte})"
            # Where another version of msgspec does not name the byte, records are asked about one by one.
            if byte is None or said.detail.endswith(tail):
                head = said.detail if byte is None else said.detail.removesuffix(tail)
                self._words[fault * _FIELDS_MAX + field] = _Word(said.reason, head, byte is not None)

    def of(self, index: Ints, fault: Ints, where: Ints) -> tuple[Rejections, Ints]:
        """The records that the loop did not read, as refusals; and which of them have to be asked about.

        index         (n) places of the records in the batch, rising
        fault, where  (n) as the loop told them
        """
        has_field = fault >= json_loop.MISSING
        codes = fault * _FIELDS_MAX + np.where(has_field, where, 0)
        reasons, details = np.empty(len(index), dtype=object), np.empty(len(index), dtype=object)
        is_said = np.zeros(len(index), dtype=np.bool_)
        for code in np.unique(codes).tolist():
            word = self._words.get(code)
            if word is None:
                continue
            alike = codes == code
            is_said |= alike
            reasons[alike] = word.reason
            if word.names_byte:
                details[alike] = [f"{word.detail} (byte {byte})" for byte in where[alike].tolist()]
            else:
                details[alike] = word.detail
        said = Rejections(index[is_said], reasons[is_said].tolist(), details[is_said].tolist())
        return said, index[~is_said]


def _samples(topic: Topic) -> Iterator[tuple[int, int, bytes, int | None]]:
    """Fault, field (0 where it has none), a record that has it, and the byte at which reading ends."""
    names = [msgspec.json.encode(name) for name in topic.schema]
    good = [name + b":" + _VALUES[dtype] for name, dtype in zip(names, topic.schema.values(), strict=True)]
    # Longer than any of them, so it is none.
    other = b'"%b"' % (b"x" * (max(map(len, names)) + 1))
    for fault, sample, behind in (
        (json_loop.NO_NAME, b"{", 0),
        (json_loop.NO_COLON, b"{" + other, 0),
        (json_loop.NO_COMMA, b"{" + other + b":true", 0),
        (json_loop.LONGER, b"{" + b",".join(good) + b"}", 1),
    ):
        yield fault, 0, sample + b"?", len(sample) + behind
    yield json_loop.CUT, 0, b"{", None
    for field, name in enumerate(names):
        yield json_loop.MISSING, field, b"{" + b",".join(good[:field] + good[field + 1 :]) + b"}", None
        for fault, value in _MISFITS.items():
            yield fault, field, b"{" + name + b":" + value + b"}", None
