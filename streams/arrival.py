"""When a record arrived: as its broker says, or at the latest when it is read.

A broker stamps the records of topics that `apply` creates. Elsewhere the producer may be the one who does, and what it
says of the future would let an event come from there. What it says of the past stands, so that a second reader of the
record judges it as the first one did. Of the future the clock decides, which is another one at a second reading:
what the event log does not have yet may come out otherwise (`docs/semantics.md`).

Why no rule does without a clock: one that took such stamps as they are would let a wrong clock make all others' events
late, and one that held them to what came before in the partition would set an event after a quiet hour back by it.
"""

from __future__ import annotations

import time

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME

BY_BROKER = int(TIMESTAMP_LOG_APPEND_TIME)


def now_ms() -> int:
    """The clock that a producer's stamps are held to."""
    return time.time_ns() // 1_000_000
