"""Many histories, each from its seed: `python -m tests.log_histories --seeds 1000`, or `--seed N` to replay one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import histories
from tests.log_histories.history import History


@contextmanager
def made(seed: int) -> Iterator[History]:
    """In a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield History(seed, Path(folder))


if __name__ == "__main__":
    sys.exit(histories.command(__doc__, made, seeds=1_000, step=10))
