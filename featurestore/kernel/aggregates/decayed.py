"""Exponentially decayed sum and mean: exact inside a tile, weighed by age across tiles (see `kernel.decay`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span, given
from featurestore.kernel.aggregates.counting import counter_of
from featurestore.kernel.aggregates.partial import Mask, State
from featurestore.kernel.aggregates.sums import SumPartial


def decayed_sum(ask: Ask) -> Compiled:
    counter, added = counter_of(given(ask.column)), SumPartial(given(ask.faded).name, "float64")

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        return _known(states[added.name]["value"], states[counter.name]["count"] > 0)

    return Compiled((counter, added), "float64", finish, faded=(added.name,), half_life_us=int(given(ask.argument)))


def decayed_mean(ask: Ask) -> Compiled:
    counter = counter_of(given(ask.column))
    above, below = (SumPartial(given(column).name, "float64") for column in (ask.faded, ask.weight))

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        weight = states[below.name]["value"]
        # Weights that have faded below the smallest float leave nothing to divide by.
        some = (states[counter.name]["count"] > 0) & (weight > 0)
        with np.errstate(over="ignore"):
            return _known(states[above.name]["value"] / np.where(some, weight, 1.0), some)

    names = (above.name, below.name)
    return Compiled((counter, above, below), "float64", finish, faded=names, half_life_us=int(given(ask.argument)))


def _known(values: npt.NDArray[np.float64], some: Mask) -> Finished:
    """Infinite parts of both signs have no sum."""
    held = some & ~np.isnan(values)
    return Finished(np.where(held, values, 0.0), held)
