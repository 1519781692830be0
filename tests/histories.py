"""Many histories, each from its seed, on all cores: what the commands of every kind of history share."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from rich.console import Console
from rich.progress import Progress


class History(Protocol):
    """One of them. `trace` says what happened, for people."""

    trace: list[str]

    def run(self) -> None:
        """Play it; raises ViolationError where a promise is broken."""


class ViolationError(Exception):
    """A promise was broken."""


# Of a seed: in the world that it needs, which is gone afterwards.
Made = Callable[[int], AbstractContextManager[History]]


def broken(made: Made, seeds: range) -> list[tuple[int, str]]:
    """The seeds of a range whose history breaks a promise, and which."""
    out = []
    for seed in seeds:
        with made(seed) as history:
            try:
                history.run()
            except ViolationError as error:
                out.append((seed, str(error)))
            except Exception as error:
                out.append((seed, f"{type(error).__name__}: {error}"))
    return out


def command(description: str | None, made: Made, seeds: int, step: int, start: Callable[[], None] | None = None) -> int:
    """Play many, or one again; returns the exit code.

    seeds  how many unless it is said
    step   how many one process plays before the bar moves
    start  called in each process first
    """
    asked = argparse.ArgumentParser(description=description)
    asked.add_argument("--seeds", type=int, default=seeds, help="how many, from --first on")
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="how many at a time")
    asked.add_argument("--seed", type=int, help="replay this one and say what happened")
    asked.add_argument("--until-broken", action="store_true", help="end at the first failure")
    chosen = asked.parse_args()
    console = Console()
    if chosen.seed is not None:
        with made(chosen.seed) as history:
            try:
                history.run()
            finally:
                console.print("\n".join(history.trace), highlight=False, markup=False)
        console.print(f"seed {chosen.seed}: no violation")
        return 0
    began, last = time.monotonic(), chosen.first + chosen.seeds
    parts = [range(first, min(first + step, last)) for first in range(chosen.first, last, step)]
    found: list[tuple[int, str]] = []
    played = 0
    with ProcessPoolExecutor(chosen.jobs, initializer=start) as pool, Progress(console=console) as progress:
        task = progress.add_task("histories", total=chosen.seeds)
        for part, bad in zip(parts, pool.map(partial(broken, made), parts), strict=True):
            found += bad
            played += len(part)
            progress.advance(task, len(part))
            if found and chosen.until_broken:
                pool.shutdown(cancel_futures=True)
                break
    seconds = time.monotonic() - began
    for seed, what in found[:20]:
        console.print(f"seed {seed}: {what}", highlight=False, markup=False)
    console.print(f"{played:,} histories, {len(found)} violations, {played / seconds:,.0f} seeds/s, {seconds:.0f} s")
    return 1 if found else 0
