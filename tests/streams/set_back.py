"""A worker whose clock is set back an hour once a file appears: `python -m tests.streams.set_back FILE`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

_HOUR_NS = 3_600 * 10**9


def main(file: Path) -> int:
    right, right_ns = time.time, time.time_ns
    time.time_ns = lambda: right_ns() - _HOUR_NS * file.exists()
    time.time = lambda: right() - _HOUR_NS / 1e9 * file.exists()
    # It comes to know the clock as it is now.
    from featurestore.cli import main as command

    sys.argv = ["featurestore", "worker"]
    command()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
