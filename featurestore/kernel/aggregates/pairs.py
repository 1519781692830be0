"""Sorted (key, count) pairs: what entropies and quantiles are finished from.

A value becomes a 64-bit key. Merging adds the counts of equal keys, so neither order nor grouping can show. No more
than a stated number of different keys is kept. With one more the pairs are full, and their features null; whether they
are depends on the values alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.hashed import hashes_of
from featurestore.kernel.aggregates.heaped import Heaped, pieces
from featurestore.kernel.aggregates.partial import Array, Ints, State, runs_of
from featurestore.kernel.decimals import floats_of, scale_of
from featurestore.kernel.events import DataType, Events
from featurestore.kernel.logarithm import log2

PAIR = np.dtype([("key", "<u8"), ("count", "<u4")])
_FULL = bytes(PAIR.itemsize)

# Different values of an entropy, and buckets of a quantile: 64 of them between a number and its double.
VALUES_MAX = 1_024
BUCKETS_MAX = 4_096
# Bits of a float's mantissa that a bucket keeps: its width is 1/64 of its start, its middle 1/128 from its ends.
_MANTISSA_BITS = 6
_DROPPED_BITS = np.uint64(52 - _MANTISSA_BITS)
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True)
class PairsPartial(Heaped):
    """Counts of a column's values by hash (of the whole value) or by bucket (of a number, ordered).

    most  how many different keys there may be
    """

    column: str
    dtype: DataType
    by: Literal["hash", "bucket"]
    most: int

    @property
    def name(self) -> str:
        return f"pairs({self.column} by {self.by} to {self.most})"

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        if self.by == "hash":
            keys = hashes_of(column, self.dtype)
        else:
            scale = scale_of(self.dtype)
            keys = buckets_of(floats_of(column.values, scale) if scale else column.values)
        pairs = np.zeros(len(keys), dtype=PAIR)
        pairs["key"], pairs["count"] = keys, 1
        return {"value": pieces(pairs, column.valid)}

    def merge(self, state: State, starts: Ints) -> State:
        packed = state["value"]
        if len(starts) == len(packed):
            return state
        sizes = np.array([len(each) for each in packed], dtype=np.int64) // PAIR.itemsize
        run = np.repeat(runs_of(starts, len(packed)), sizes)
        pairs = np.frombuffer(b"".join(packed), dtype=PAIR)
        order = np.lexsort((pairs["key"], run))
        run, key, count = run[order], pairs["key"][order], pairs["count"][order].astype(np.int64)
        firsts = np.flatnonzero(np.concatenate(([True], (run[1:] != run[:-1]) | (key[1:] != key[:-1])))[: len(run)])
        added = np.zeros(len(firsts), dtype=PAIR)
        if len(firsts):
            added["key"], added["count"] = key[firsts], np.add.reduceat(count, firsts)
        # No key came 0 times but the one that says that there were too many: it makes its whole run full.
        full = np.zeros(len(starts), dtype=np.bool_)
        full[run[pairs["count"][order] == 0]] = True
        return {"value": self._split(added, run[firsts], full)}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """One pass with a window that slides over the events; ranges of one window rise on both ends."""
        single = [int.from_bytes(each[:8], "little") if each else None for each in state["value"]]
        out = np.empty(len(low), dtype=object)
        held: Counter[int] = Counter()
        start = end = 0
        for place in np.lexsort((low, high)).tolist():
            wanted_low, wanted_high = int(low[place]), int(high[place])
            if wanted_low < start or wanted_low >= end:
                held.clear()
                start = end = wanted_low
            for index in range(end, wanted_high):
                if single[index] is not None:
                    held[single[index]] += 1  # type: ignore[index]  # None was left out
            for index in range(start, wanted_low):
                key = single[index]
                if key is not None:
                    held[key] -= 1
                    if not held[key]:
                        del held[key]
            start, end = wanted_low, wanted_high
            if len(held) > self.most:
                out[place] = _FULL
                continue
            kept = sorted(held)
            pairs = np.zeros(len(kept), dtype=PAIR)
            pairs["key"], pairs["count"] = kept, [held[key] for key in kept]
            out[place] = pairs.tobytes()
        return {"value": out}

    def _split(self, pairs: npt.NDArray[np.void], run: Ints, full: npt.NDArray[np.bool_]) -> Array:
        """The pairs of each run as bytes."""
        bounds = np.searchsorted(run, np.arange(len(full) + 1)).tolist()
        raw, size = pairs.tobytes(), PAIR.itemsize
        out = np.empty(len(full), dtype=object)
        for index, (start, end) in enumerate(pairwise(bounds)):
            out[index] = _FULL if full[index] or end - start > self.most else raw[start * size : end * size]
        return out


def unpacked(state: State) -> list[npt.NDArray[np.void]]:
    """The pairs of each partial, by rising key; none where there were too many."""
    return [np.frombuffer(b"" if packed == _FULL else packed, dtype=PAIR) for packed in state["value"]]


def buckets_of(values: Array) -> npt.NDArray[np.uint64]:
    """The bucket of each number, rising with the numbers: sign, exponent and the first bits of the mantissa.

    Bits of the number itself decide, and no logarithm, so that every machine puts it into the same bucket.
    """
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    whole = bits >> _DROPPED_BITS
    # Negative numbers fall as their bits rise: turn them round, and put them below the others.
    top = _SIGN >> _DROPPED_BITS
    return np.where(bits >= _SIGN, top - np.uint64(1) - (whole - top), whole + top)


def middles_of(buckets: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The middle of each bucket; zero for the one that zero is in."""
    top = _SIGN >> _DROPPED_BITS
    negative = buckets < top
    magnitude = np.where(negative, top - np.uint64(1) - buckets, buckets - top)
    start = (magnitude << _DROPPED_BITS).view(np.float64)
    end = ((magnitude << _DROPPED_BITS) | ((np.uint64(1) << _DROPPED_BITS) - np.uint64(1))).view(np.float64)
    middle = np.where(magnitude == 0, 0.0, start / 2 + end / 2)
    return np.where(negative & (middle != 0), -middle, middle)


def entropy(ask: Ask) -> Compiled:
    column = given(ask.column)
    pairs = PairsPartial(column.name, column.dtype, "hash", VALUES_MAX)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        counts = [each["count"].astype(np.float64) for each in unpacked(states[pairs.name])]
        values = [_entropy_of(each) if len(each) else 0.0 for each in counts]
        known = [len(each) > 0 for each in counts]
        return Finished(np.array(values, dtype=np.float64), np.array(known, dtype=np.bool_))

    return Compiled((pairs,), "float64", finish)


def quantile(ask: Ask) -> Compiled:
    column, q = given(ask.column), given(ask.argument)
    pairs = PairsPartial(column.name, column.dtype, "bucket", BUCKETS_MAX)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        held = unpacked(states[pairs.name])
        buckets = np.array([_bucket_at(each, q) if len(each) else 0 for each in held], dtype=np.uint64)
        some = np.array([len(each) > 0 for each in held], dtype=np.bool_)
        return Finished(np.where(some, middles_of(buckets), 0.0), some)

    return Compiled((pairs,), "float64", finish)


def _entropy_of(counts: npt.NDArray[np.float64]) -> float:
    shares = counts / counts.sum()
    return abs(math.fsum((-shares * log2(shares)).tolist()))


def _bucket_at(pairs: npt.NDArray[np.void], q: float) -> int:
    up_to = np.cumsum(pairs["count"].astype(np.int64))
    return int(pairs["key"][np.searchsorted(up_to, int(q * (int(up_to[-1]) - 1)), side="right")])
