"""Some of many byte strings that lie side by side, put side by side in another order."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop


@loop
def take(data, begin, index, ends, out):  # type: ignore[no-untyped-def]
    """The strings at `index`, of which each goes to out[ends[n] : ends[n + 1]]."""
    for number in range(len(index)):
        source, to = np.uint64(begin[index[number]]), np.uint64(ends[number])
        for place in range(np.uint64(ends[number + 1]) - to):
            out[to + place] = data[source + place]
