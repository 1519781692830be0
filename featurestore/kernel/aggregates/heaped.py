"""Partials that are bytes of any length: hashes, pairs, lists, tallies and texts.

A record keeps how long one is, and the bytes themselves lie on the heap after the records; no bytes are no events. What
a family says is how one event looks, how neighbours are merged, and what is finished from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.partial import Array, Field, Mask, State, concat, rungless


class Heaped:
    """The part of `Partial` in which these families do not differ.

    A base class, since functions of a line each would leave the same twenty lines of calls in every family.
    """

    __slots__ = ()
    column: str
    has_rung: ClassVar[bool] = False
    has_heap: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fields(self, rung: int) -> tuple[Field, ...]:
        return (Field("value", "<u4"),)

    def concat(self, states: Sequence[State]) -> State:
        return concat(states)

    def rungs(self, state: State) -> npt.NDArray[np.uint8]:
        return rungless(state)

    def store(self, state: State, rung: int) -> State:
        return state

    def load(self, stored: State, rung: int) -> State:
        return {"value": stored["value"].astype(object)}


def pieces(records: Array, valid: Mask | None) -> Array:
    """Each record's bytes as a partial of its own, the empty one where `valid` is false."""
    raw, size = records.tobytes(), records.dtype.itemsize
    out = np.empty(len(records), dtype=object)
    out[:] = [raw[at : at + size] for at in range(0, len(raw), size)]
    if valid is not None:
        out[~valid] = b""
    return out
