"""What keeps a worker's memory small.

`keep_small`, before anything else is imported. One heap: memory that a batch took is there for the next one, whichever
thread and library asks for it. By default each thread keeps a heap of its own, and so does Arrow: each keeps what it
once needed at most. And no pandas, which Arrow would import with its first array where it is installed, as it is with
Feast: 40 MB, and nothing in a worker uses it. Definitions may: they are their author's code, and import what they like.

`let_compiler_go`, once the loops are there: of LLVM, which only brought them into memory, 90 MB.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Of glibc's malloc.h, and of Linux' mman-common.h.
_M_ARENA_MAX = -8
_MADV_DONTNEED = 4
_COMPILER = "libllvmlite"

log = logging.getLogger("featurestore.worker")


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
    # Arrow reads it when it is imported. Told later, it still takes its own heap for what it does by itself.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import pyarrow as pa

    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        # Arrow looks for pandas once, with its first array, and again only where it is asked for pandas' own types.
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)


def let_compiler_go() -> int:
    """Give back the pages of LLVM that are as its file has them: if they are needed again, they come from there.

    Returns how many bytes of them this process had in memory; 0 where they cannot be given back.
    """
    import psutil

    # Of Linux, where it is an option of the kernel to say what a process has in memory; elsewhere it says less.
    if not (sys.platform.startswith("linux") and hasattr(psutil.Process, "memory_maps")):
        return 0
    try:
        mappings = psutil.Process().memory_maps(grouped=False)
    except psutil.Error as error:
        log.info("LLVM's pages stay in memory, since the system does not say where they are: %s", error)
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    let_go = 0
    for each in mappings:
        # What was written to is in no file: it would be lost.
        is_as_in_file = "w" not in each.perms and not each.anonymous and not each.swap
        if _COMPILER in each.path and is_as_in_file:
            start = int(each.addr.split("-")[0], 16)
            if madvise(start, each.size, _MADV_DONTNEED) == 0:
                let_go += each.rss
    return let_go
