"""Many histories, each from its seed: `make simulate SEEDS=10000`. A failure is replayed by `--seed`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import Progress

from tests.simulation.history import History, ViolationError


def broken(seeds: range) -> list[tuple[int, str]]:
    """The seeds of a range whose history breaks a promise, and which."""
    out = []
    for seed in seeds:
        try:
            History(seed).run()
        except ViolationError as error:
            out.append((seed, str(error)))
        except Exception as error:
            out.append((seed, f"{type(error).__name__}: {error}"))
    return out


def _quiet() -> None:
    """What the worker warns of is what happens here all the time."""
    logging.disable(logging.WARNING)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=1_000, help="how many, from --first on")
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--seed", type=int, help="replay this one and say what happened")
    asked.add_argument("--until-broken", action="store_true", help="end at the first failure")
    chosen = asked.parse_args()
    console = Console()
    if chosen.seed is not None:
        history = History(chosen.seed)
        try:
            history.run()
        finally:
            console.print("\n".join(history.trace), highlight=False, markup=False)
        console.print(f"seed {chosen.seed}: no violation")
        return 0
    began, step = time.monotonic(), 25
    parts = [
        range(first, min(first + step, chosen.first + chosen.seeds))
        for first in range(chosen.first, chosen.first + chosen.seeds, step)
    ]
    found: list[tuple[int, str]] = []
    with ProcessPoolExecutor(os.cpu_count(), initializer=_quiet) as pool, Progress(console=console) as progress:
        task = progress.add_task("histories", total=chosen.seeds)
        for part, bad in zip(parts, pool.map(broken, parts), strict=True):
            found += bad
            progress.advance(task, len(part))
            if found and chosen.until_broken:
                pool.shutdown(cancel_futures=True)
                break
    seconds = time.monotonic() - began
    for seed, what in found[:20]:
        console.print(f"seed {seed}: {what}", highlight=False, markup=False)
    console.print(f"{chosen.seeds:,} histories, {len(found)} violations, {chosen.seeds / seconds:.0f} seeds/s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
