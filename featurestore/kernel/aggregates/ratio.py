"""One aggregate divided by another, over the same events."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.compiled import Ask, Compiled, Finished, Span
from featurestore.kernel.aggregates.partial import State
from featurestore.kernel.decimals import decimal_type, scale_of, wholes_of
from featurestore.kernel.events import ValueType

# Whole numbers up to here are floats without rounding.
_FLOAT_WHOLE_MAX = 2**53


def ratio(ask: Ask) -> Compiled:
    above, below = ask.parts

    def finish(states: Mapping[str, State], span: Span) -> Finished:
        up, down = above.finish(states, span), below.finish(states, span)
        some = up.valid & down.valid
        return _divided(_numbers(up, above.dtype), _numbers(down, below.dtype), some)

    partials = {partial.name: partial for part in ask.parts for partial in part.partials}
    return Compiled(tuple(partials.values()), "float64", finish)


def _numbers(part: Finished, kind: ValueType) -> npt.NDArray[Any]:
    """Floats where they hold the values as they are; else Python's fractions."""
    if decimal_type(kind) is not None:
        below = 10 ** scale_of(kind)
        out = np.empty(len(part.valid), dtype=object)
        out[:] = [Fraction(whole, below) for whole in wholes_of(part.values)]
        return out
    # Compared as whole numbers: as floats, the first one that is none would pass for its neighbour.
    if kind == "int64" and (part.valid & ((part.values > _FLOAT_WHOLE_MAX) | (part.values < -_FLOAT_WHOLE_MAX))).any():
        out = np.empty(len(part.valid), dtype=object)
        out[:] = [Fraction(whole) for whole in part.values.tolist()]
        return out
    return part.values.astype(np.float64)


def _divided(up: npt.NDArray[Any], down: npt.NDArray[Any], some: npt.NDArray[np.bool_]) -> Finished:
    some = some & (down != 0)
    if up.dtype != object and down.dtype != object:
        return Finished(up / np.where(some, down, 1.0), some)
    out = np.zeros(len(some))
    for place in np.flatnonzero(some).tolist():
        out[place] = _quotient(up[place], down[place])
    return Finished(out, some)


def _quotient(up: Fraction | float, down: Fraction | float) -> float:
    """Rounded once; of a sum that passed the largest float there is only infinity to divide."""
    if not (np.isfinite(float(up)) and np.isfinite(float(down))):
        return float(up) / float(down)
    quotient = Fraction(up) / Fraction(down)
    try:
        return float(quotient)
    except OverflowError:
        return np.inf if quotient > 0 else -np.inf
