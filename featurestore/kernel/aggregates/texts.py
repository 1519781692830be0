"""The first and the last text of a column in the order of code points, which is that of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from featurestore.kernel.aggregates.compiled import Compiled, Finished, Span
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.heaped import Heaped
from featurestore.kernel.aggregates.packed import listed
from featurestore.kernel.aggregates.partial import Input, Ints, State
from featurestore.kernel.events import Events

# Stands before every text, so that an empty one is not taken for none.
_THERE = b"\x01"


@dataclass(frozen=True, slots=True)
class TextExtremePartial(Heaped):
    """The smallest or largest text; nothing where there is none."""

    column: str
    which: Literal["min", "max"]

    @property
    def name(self) -> str:
        return f"{self.which}({self.column})"

    def lift(self, events: Events) -> State:
        column = events.columns[self.column]
        valid = np.ones(len(events), dtype=np.bool_) if column.valid is None else column.valid
        texts = zip(column.values.tolist(), valid.tolist(), strict=True)
        return {"value": listed([_THERE + text if held else b"" for text, held in texts])}

    def merge(self, state: State, starts: Ints) -> State:
        texts, choose = state["value"].tolist(), min if self.which == "min" else max
        edges = pairwise([*starts.tolist(), len(texts)])
        return {"value": listed([choose((text for text in texts[a:b] if text), default=b"") for a, b in edges])}

    def over(self, state: State, low: Ints, high: Ints) -> State:
        """The extreme of the texts' ranks, where nothing is out of the way of both."""
        texts = state["value"].tolist()
        ranked = sorted({text for text in texts if text})
        rank_of = {text: rank for rank, text in enumerate(ranked)}
        nothing = len(ranked) if self.which == "min" else -1
        ranks = np.array([rank_of.get(text, nothing) for text in texts], dtype=np.int64)
        found = ExtremePartial(self.column, "int64", self.which).over({"value": ranks}, low, high)["value"]
        return {"value": listed([b"" if rank == nothing else ranked[rank] for rank in found.tolist()])}


def text_extreme(column: Input, which: Literal["min", "max"]) -> Compiled:
    found = TextExtremePartial(column.name, which)

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        texts = states[found.name]["value"]
        held = np.array([len(text) > 0 for text in texts], dtype=np.bool_)
        return Finished(listed([text[len(_THERE) :] for text in texts]), held)

    return Compiled((found,), "string", finish)
