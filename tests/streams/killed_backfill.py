"""A backfill that kills itself at a point: `python -m tests.streams.killed_backfill VIEW POINT NTH`."""

from __future__ import annotations

import os
import signal
import sys

from featurestore.monitoring import compare_shadow
from featurestore.settings import Settings
from featurestore.spec import load
from streams.backfill import Backfill
from streams.build import online_store


def main(view: str, point: str, nth: int) -> None:
    settings = Settings()
    wanted, store = load(settings.definitions).view(view), online_store(settings)
    reached = [0]

    def at(here: str) -> None:
        reached[0] += here == point
        if reached[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def compare(row_id: str, log: object) -> str:
        return compare_shadow(store, wanted, row_id, log, 1_000)  # type: ignore[arg-type]

    print(Backfill(settings, wanted, compare, at=at, events_max=300).run(keep_following_s=1.0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
