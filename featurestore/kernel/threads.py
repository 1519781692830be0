"""Independent pieces of one computation in a few threads: the compiled loops let go of the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

# More would wait for memory, not for the processor.
_THREADS_MAX = 4

Run = Callable[[Sequence[Callable[[], Any]]], list[Any]]


def in_turn(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """One after the other."""
    return [each() for each in work]


@contextmanager
def at_once(is_worth_it: bool) -> Iterator[Run]:
    """Gives what runs many pieces and returns their results in order; one after the other where that is cheaper."""
    threads = min(os.cpu_count() or 1, _THREADS_MAX)
    if not is_worth_it or threads == 1:
        yield in_turn
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="kernel") as pool:
        yield lambda work: [done.result() for done in [pool.submit(each) for each in work]]
