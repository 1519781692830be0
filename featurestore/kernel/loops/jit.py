"""How every loop is compiled: without the interpreter's lock, and kept on disk for the next process.

Numba notices that a loop's own file changed, but not that a loop which it calls did. So what is compiled lies in a
folder named by the sources of them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numba


def loop(function: Callable[..., Any]) -> Any:
    """The function as machine code; it takes NumPy arrays, numbers and truths, by position."""
    settings: Any = numba.config
    before, folder = settings.CACHE_DIR, _folder(Path(function.__code__.co_filename).parent)
    # A folder that the user named is the user's choice; ours is for our loops alone.
    settings.CACHE_DIR = before or folder
    try:
        is_kept = bool(before or folder)
        return numba.njit(cache=is_kept, nogil=True, error_model="numpy", boundscheck=False)(function)
    finally:
        settings.CACHE_DIR = before


@lru_cache(maxsize=8)
def _folder(room: Path) -> str:
    """Beside the sources, or in the user's cache where they are read-only; "" where neither can be written.

    room  the folder of the loop's own file; loops call those beside them and the kernel's
    Numba wants to write even where everything is there already. Without a folder each process compiles for itself.
    """
    here = Path(__file__).parent
    sources = [*sorted({*here.glob("*.py"), *room.glob("*.py")}), here.parent / "program.py", here.parent / "exact.py"]
    digest = blake2b(b"".join(source.read_bytes() for source in sources), digest_size=8).hexdigest()
    for place in (here / "__pycache__", Path.home() / ".cache" / "featurestore"):
        folder = place / f"loops-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return ""
