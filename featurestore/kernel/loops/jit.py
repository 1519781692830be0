"""How every loop is compiled: cached on disk, and without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def loop(function: Callable[..., Any]) -> Any:
    """The function as machine code; it takes NumPy arrays, numbers and truths, by position."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)(function)
