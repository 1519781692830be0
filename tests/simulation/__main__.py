"""Many histories, each from its seed: `make simulate SEEDS=10000`. A failure is replayed by `--seed`."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext

from tests import histories
from tests.simulation.history import History


def made(seed: int) -> AbstractContextManager[History]:
    return nullcontext(History(seed))


def _quiet() -> None:
    """What the worker warns of is what happens here all the time."""
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(histories.command(__doc__, made, seeds=1_000, step=25, start=_quiet))
