"""How much partials of no fixed width keep beside their records; the bytes of texts come on top."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.kernel import hyperloglog
from featurestore.kernel.aggregates.distinct import HASH_BYTES, DistinctPartial
from featurestore.kernel.aggregates.lists import ENTRY_BYTES, ListPartial
from featurestore.kernel.aggregates.order import OrderPartial
from featurestore.kernel.aggregates.packed import value_bytes
from featurestore.kernel.aggregates.pairs import PAIR, PairsPartial
from featurestore.kernel.aggregates.partial import Partial
from featurestore.kernel.aggregates.tallies import COUNTED_BYTES, TallyPartial
from featurestore.kernel.aggregates.texts import TextExtremePartial


@dataclass(frozen=True, slots=True)
class Heap:
    """Bytes of a tile with one event, and of any tile at most; whether texts of any length come on top."""

    one: int
    most: int
    has_texts: bool = False


def heap_of(partial: Partial) -> Heap:
    match partial:
        case DistinctPartial():
            return Heap(HASH_BYTES, hyperloglog.REGISTERS_BYTES)
        case PairsPartial():
            return Heap(PAIR.itemsize, PAIR.itemsize * partial.most)
        case ListPartial():
            one = ENTRY_BYTES + value_bytes(partial.dtype)
            return Heap(one, one * partial.length, partial.dtype == "string")
        case TallyPartial():
            one = COUNTED_BYTES + value_bytes(partial.dtype)
            return Heap(one, one * partial.most, partial.dtype == "string")
        case OrderPartial(dtype="string"):
            return Heap(0, 0, has_texts=True)
        case TextExtremePartial():
            return Heap(1, 1, has_texts=True)
    assert not partial.has_heap, "every partial with a heap says how much it keeps"
    return Heap(0, 0)
