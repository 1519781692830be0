"""One process at a time: a lock on a file, on all machines that share the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path


@contextmanager
def alone(path: Path, refused: Exception) -> Iterator[None]:
    """Hold the lock; raises `refused` where somebody else does, OSError where the disk has none for us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            # Given back by the system when a process ends, however it ends: a killed one holds up no other.
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise refused from None
        yield
