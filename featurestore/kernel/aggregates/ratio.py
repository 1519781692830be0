"""One aggregate divided by another, over the same events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featurestore.errors import UnsupportedAggregateError
from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span
from featurestore.kernel.aggregates.partial import State


def ratio(ask: Ask) -> Compiled:
    above, below = ask.parts
    for part in ask.parts:
        if part.dtype not in ("int64", "float64"):
            raise UnsupportedAggregateError(f"a ratio divides numbers, but one of its parts gives {part.dtype}")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        up, down = above.finish(states, span), below.finish(states, span)
        some = up.valid & down.valid & (down.values != 0)
        return Finished(up.values.astype(np.float64) / np.where(some, down.values, 1).astype(np.float64), some)

    partials = {partial.name: partial for part in ask.parts for partial in part.partials}
    return Compiled(tuple(partials.values()), "float64", finish)
