"""What records of one kind cost beside those of another, where one worker meets blocks of both in turn.

Runs of new workers differ by a tenth from one to the next, and so does a machine from minute to minute: two kinds that
cost nearly the same cannot be told apart by runs of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from featurestore.errors import FeatureStoreError

# Partition -> offset.
Ends = Mapping[int, int]


def seconds_a_record(looks: Sequence[tuple[float, Ends]], borders: Sequence[Ends]) -> tuple[float, float]:
    """What a record of the even blocks costs, and one of the odd ones.

    Partitions do not go on alike, so blocks of both kinds may be worked at the same time. Hence the two costs that
    explain best (least squares) how long it took from look to look.
    looks    seconds, and how far each partition was then
    borders  where the blocks begin in each partition, and where the last one ends
    Raises FeatureStoreError when too few looks saw the worker on its way.
    """
    done = np.array([[seconds, *_of_both(ends, borders)] for seconds, ends in looks])
    # A look ends somewhere in a batch: over a quarter of a block that is little.
    step = sum(borders[-1].values()) / (len(borders) - 1) / 4
    on_its_way = done[(done[:, 1:].sum(1) > 0)]
    # The last one may have waited for nothing.
    kept = on_its_way[:1]
    for look in on_its_way[:-1]:
        if (look[1:] - kept[-1, 1:]).sum() >= step:
            kept = np.vstack([kept, look])
    if len(kept) < len(borders):
        raise FeatureStoreError(f"bench: {len(kept)} looks are too few to tell {len(borders) - 1} blocks apart")
    took = np.diff(kept, axis=0)
    (even_s, odd_s), *_ = np.linalg.lstsq(took[:, 1:], took[:, 0])
    return float(even_s), float(odd_s)


def _of_both(ends: Ends, borders: Sequence[Ends]) -> tuple[int, int]:
    """How many records of the even blocks lie before these offsets, and how many of the odd ones."""
    each = [
        sum(min(max(ends.get(p, 0), low), high[p]) - low for p, low in first.items())
        for first, high in pairwise(borders)
    ]
    return sum(each[::2]), sum(each[1::2])
