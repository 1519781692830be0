"""Room for results, from Arrow's own pool.

Large arrays that NumPy allocates are new pages of the system each time, and a new page costs several times what filling
it does. The pool keeps the pages of what was let go.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def room(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.int64) -> Any:
    """An array that holds anything at all until it is written, like `numpy.empty`."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    held = pa.allocate_buffer(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(held, dtype=dtype).reshape(shape)
