"""A replay that kills itself: `python -m tests.streams.killed_replay TOPIC FIRST END SOURCE NTH`."""

from __future__ import annotations

import os
import signal
import sys

from featurestore.settings import Settings
from featurestore.spec import load
from streams.replay import Replay


def main(topic: str, first: str, end: str, source: str, nth: int) -> None:
    settings = Settings()
    reached = [0]

    def at(here: str) -> None:
        reached[0] += 1
        if reached[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    chosen = "log" if source == "log" else "kafka"
    Replay(settings, load(settings.definitions), topic, first=first, end=end, source=chosen, at=at).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))  # type: ignore[misc]
