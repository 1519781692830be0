"""What keeps a worker's memory small; to be called before anything else is imported.

One heap: memory that a batch took is there for the next one, whichever thread and library asks for it. By default each
thread keeps a heap of its own, and so does Arrow: each keeps what it once needed at most. And no pandas, which Arrow
would import with its first array where it is installed, as it is with Feast: 40 MB, and nothing in a worker uses it.
Definitions may: they are their author's code, and import what they like.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Of glibc's malloc.h.
_M_ARENA_MAX = -8


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("a worker does without pandas", name=fullname)
        return None


def keep_small() -> None:
    """One heap where the C library is glibc, and no pandas unless somebody imports it by name."""
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)
    import pyarrow as pa

    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        # Arrow looks for pandas once, with its first array, and again only where it is asked for pandas' own types.
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
    pa.set_memory_pool(pa.system_memory_pool())
