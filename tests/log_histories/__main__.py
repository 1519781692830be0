"""Many histories, each from its seed: `python -m tests.log_histories --seeds 1000`, or `--seed N` to replay one."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.log_histories.history import History


def broken(seeds: range) -> list[tuple[int, str]]:
    """The seeds of a range whose history breaks a promise, and which."""
    out = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                History(seed, Path(folder)).run()
            except Exception as error:
                out.append((seed, f"{type(error).__name__}: {error}"))
    return out


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=1_000, help="how many, from --first on")
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="how many at a time")
    asked.add_argument("--seed", type=int, help="replay this one and say what happened")
    chosen = asked.parse_args()
    if chosen.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            history = History(chosen.seed, Path(folder))
            try:
                history.run()
            finally:
                print("\n".join(history.trace))
        print(f"seed {chosen.seed}: no violation")
        return 0
    began, step, last = time.monotonic(), 10, chosen.first + chosen.seeds
    parts = [range(first, min(first + step, last)) for first in range(chosen.first, last, step)]
    with ProcessPoolExecutor(chosen.jobs) as pool:
        found = [one for bad in pool.map(broken, parts) for one in bad]
    for seed, what in found[:20]:
        print(f"seed {seed}: {what}")
    seconds = time.monotonic() - began
    print(f"{chosen.seeds:,} histories, {len(found)} violations, {chosen.seeds / seconds:.0f} seeds/s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
