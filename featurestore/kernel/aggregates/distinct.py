"""How many different values there are: exact up to a bound, then estimated by HyperLogLog.

Up to 512 values are kept as their hashes, rising. With one more the hashes become registers. Whether they did depends
on the set of values alone, and so do the registers, so neither order nor grouping can show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from featurestore.kernel import hyperloglog as hll
from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, always, given
from featurestore.kernel.aggregates.hashed import hashes_of
from featurestore.kernel.aggregates.heaped import Heaped, pieces
from featurestore.kernel.aggregates.partial import Ints, State, runs_of
from featurestore.kernel.events import DataType, Events

EXACT_MAX = 512
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class DistinctPartial(Heaped):
    """The hashes of a column's values, or registers made of them, which are longer than any hashes that are kept."""

    column: str
    dtype: DataType

    @property
    def name(self) -> str:
        return f"distinct({self.column})"

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        return {"value": pieces(hashes_of(column, self.dtype), column.valid)}

    def merge(self, state: State, starts: Ints) -> State:
        kept = state["value"]
        if len(starts) == len(kept):
            return state
        sizes = np.array([len(each) for each in kept], dtype=np.int64)
        run = runs_of(starts, len(kept))
        sketched = sizes == hll.REGISTERS_BYTES
        hashes = np.frombuffer(b"".join(kept[~sketched]), dtype=np.uint64)
        hashes, run_of_hash = _different(hashes, np.repeat(run[~sketched], sizes[~sketched] // HASH_BYTES))
        runs = np.arange(len(starts) + 1)
        hash_at, sketch_at = np.searchsorted(run_of_hash, runs), np.searchsorted(run[sketched], runs)
        raw, sketches = hashes.tobytes(), kept[sketched]
        out = np.empty(len(starts), dtype=object)
        for place, ((start, end), (first, stop)) in enumerate(
            zip(pairwise(hash_at.tolist()), pairwise(sketch_at.tolist()), strict=True)
        ):
            if first == stop and end - start <= EXACT_MAX:
                out[place] = raw[HASH_BYTES * start : HASH_BYTES * end]
                continue
            registers = hll.registers_of(hashes[start:end])
            if first < stop:
                others = hll.unpacked(b"".join(sketches[first:stop])).reshape(-1, hll.REGISTERS)
                registers = np.maximum(registers, others.max(axis=0))
            out[place] = hll.packed(registers)
        return {"value": out}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """What is finished from: how many different values are in each range, and how many registers have each rank."""
        from featurestore.kernel.loops.distinct import slide

        singles = state["value"]
        there = np.array([len(each) > 0 for each in singles], dtype=np.bool_)
        hashes, codes = np.unique(np.frombuffer(b"".join(singles), dtype=np.uint64), return_inverse=True)
        code = np.full(len(singles), -1, dtype=np.int64)
        code[there] = codes.reshape(-1)
        index, rank = (np.append(each, 0)[code].astype(np.int64) for each in hll.places_of(hashes))
        # Where no range can have too many values nothing is estimated, so one register will do.
        registers = hll.REGISTERS if len(hashes) > EXACT_MAX else 1
        ranks = np.zeros(hll.RANK_MAX + 1, dtype=np.int64)
        ranks[0] = registers
        different = np.empty(len(low), dtype=np.int64)
        out = np.empty((len(low), hll.RANK_MAX + 1), dtype=np.int64)
        slide(
            code,
            np.minimum(index, registers - 1),
            rank,
            np.lexsort((low, high)),
            np.ascontiguousarray(low),
            np.ascontiguousarray(high),
            np.zeros(len(hashes), dtype=np.int64),
            np.zeros((registers, hll.RANK_MAX + 1), dtype=np.int32),
            np.zeros(registers, dtype=np.int64),
            ranks,
            different,
            out,
        )
        return {"different": different, "ranks": out}


def distinct(ask: Ask) -> Compiled:
    column = given(ask.column)
    partial = DistinctPartial(column.name, column.dtype)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        state = states[partial.name]
        return always(_counted(**state) if "ranks" in state else _counted(*_summary(state["value"])))

    return Compiled((partial,), "int64", finish, zero_when_empty=True)


def _summary(kept: npt.NDArray[np.object_]) -> tuple[Ints, Ints]:
    """What `over` gives, of partials that rows keep; of those that are exact the registers are not needed."""
    different = np.array([len(each) // HASH_BYTES for each in kept], dtype=np.int64)
    ranks = np.zeros((len(kept), hll.RANK_MAX + 1), dtype=np.int64)
    ranks[:, 0] = hll.REGISTERS
    for place in np.flatnonzero(different > EXACT_MAX).tolist():
        ranks[place] = hll.histogram(hll.unpacked(kept[place]))
    return different, ranks


def _counted(different: Ints, ranks: Ints) -> Ints:
    out = different.copy()
    many = np.flatnonzero(different > EXACT_MAX)
    # There are more than the bound, so an estimate of fewer is known to be wrong.
    out[many] = np.maximum(hll.estimates(ranks[many]), EXACT_MAX + 1).astype(np.int64)
    return out


def _different(hashes: npt.NDArray[np.uint64], run: Ints) -> tuple[npt.NDArray[np.uint64], Ints]:
    """The hashes of each run, rising and each of them once."""
    order = np.lexsort((hashes, run))
    hashes, run = hashes[order], run[order]
    new = np.ones(len(hashes), dtype=np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (run[1:] != run[:-1])
    return hashes[new], run[new]
