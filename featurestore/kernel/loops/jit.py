"""How every loop is compiled: cached on disk, and without the interpreter's lock."""

from __future__ import annotations

import numba

loop = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)
