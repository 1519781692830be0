"""Exponential decay: weights of 2 ** (age / half-life), the same bits on every machine.

A value is first weighed for the end of its tile, and added up exactly there; then each tile's sum is weighed for the
moment of asking, and the tiles are added from the oldest to the newest. The worker, the reader and the join have the
same tiles, so they have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Half-lives that a decayed value looks back when no window says otherwise: what is older weighs under 2**-64.
HALF_LIVES = 64
# 2**x = sum (x ln 2)**k / k!: on [0, 1) the 18th term is below the last bit.
# Written out, since a power of the standard library may differ between machines in its last bit.
_TERMS = (
    1.0,
    0.6931471805599453,
    0.24022650695910072,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.0001540353039338161,
    1.5252733804059841e-05,
    1.321548679014431e-06,
    1.01780860092397e-07,
    7.054911620801123e-09,
    4.4455382718708116e-10,
    2.5678435993488206e-11,
    1.3691488853904128e-12,
    6.778726354822545e-14,
    3.1324367070884287e-15,
    1.3570247948755148e-16,
    5.533046532458242e-18,
    2.130675335489118e-19,
)


def weights(age_us: Ints, half_life_us: int) -> Floats:
    """2 ** (age / half-life), for ages of either sign; only sums and products, so no libm shows."""
    whole, rest = np.divmod(age_us, half_life_us)
    share = rest / float(half_life_us)
    power = np.full(len(share), _TERMS[-1])
    for term in reversed(_TERMS[:-1]):
        power = power * share + term
    weighed: Floats = np.ldexp(power, whole)
    return weighed


def faded(
    first_tile: Ints,
    end_tile: Ints,
    sums_of: Callable[[Ints, Ints], Floats],
    ends_us: Callable[[Ints], Ints],
    moments_us: Ints,
    half_life_us: int,
) -> Floats:
    """The decayed sum of each span, tile by tile from the oldest to the newest.

    It is NaN where tiles of both signs are infinite.

    first_tile, end_tile  (n) the tiles of each span, end exclusive
    sums_of               (chosen spans, a tile each) -> the sums of these tiles, 0 where there is no such tile
    ends_us               tiles -> where they end
    """
    out = np.zeros(len(moments_us))
    for back in range(int((end_tile - first_tile).max(initial=0)), 0, -1):
        some = np.flatnonzero(end_tile - first_tile >= back)
        tile = end_tile[some] - back
        # What is beyond float64 is infinite, as every sum is.
        with np.errstate(over="ignore", invalid="ignore"):
            out[some] += sums_of(some, tile) * weights(ends_us(tile) - moments_us[some], half_life_us)
    return out


class TileSums:
    """The sums of tiles, found by entity and tile."""

    def __init__(self, row: Ints, tile: Ints, sums: Floats) -> None:
        self._tiles, self._sums = np.unique(tile), sums
        self._step = len(self._tiles) + 1
        self._keys = row * self._step + np.searchsorted(self._tiles, tile)

    def __call__(self, row: Ints, tile: Ints) -> Floats:
        if not len(self._keys):
            return np.zeros(len(row))
        rank = np.minimum(np.searchsorted(self._tiles, tile), len(self._tiles) - 1)
        keys = row * self._step + rank
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where((self._keys[at] == keys) & (self._tiles[rank] == tile), self._sums[at], 0.0)
