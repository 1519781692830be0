"""Values as 64-bit hashes: equal values have one, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featurestore.kernel.events import Column, DataType
from featurestore.kernel.keys import hash64


def hashes_of(column: Column, dtype: DataType) -> npt.NDArray[np.uint64]:
    """The hash of each value; of a null it means nothing."""
    texts: Sequence[bytes]
    if dtype == "string":
        texts = [value if isinstance(value, bytes) else b"" for value in column.values]
    else:
        # Adding zero turns -0.0 into 0.0: they are one value.
        values = column.values
        whole = values.astype(np.float64) + 0.0 if dtype == "float64" else values.astype(np.int64)
        raw = whole.tobytes()
        texts = [raw[at : at + 8] for at in range(0, len(raw), 8)]
    known: dict[bytes, int] = {}
    hashes = [known[text] if text in known else known.setdefault(text, hash64(text)) for text in texts]
    return np.array(hashes, dtype=np.uint64)
