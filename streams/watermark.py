"""Lateness, judged in offset order against each partition's own newest event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.event_time import FUTURE_MAX_US

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What time says about a batch.

    effective_us  (n) min(event time, arrival): no event comes from the future
    future        (n) the event is further ahead of its arrival than clocks may differ: a dead letter
    late_by_us    (n) how far the event is behind the newest one before it in its partition
    newest_us     (n) newest effective event time up to and including each event
    """

    effective_us: Ints
    future: npt.NDArray[np.bool_]
    late_by_us: Ints
    newest_us: Ints


def judge(event_us: Ints, arrival_us: Ints, newest_before_us: int) -> Judged:
    """Judge the events of one partition, in offset order; a future event moves nothing."""
    effective_us = np.minimum(event_us, arrival_us)
    future = event_us - arrival_us > FUTURE_MAX_US
    moving = np.where(future, np.iinfo(np.int64).min, effective_us)
    newest_us = np.maximum(np.maximum.accumulate(moving), newest_before_us) if len(moving) else moving
    before = np.concatenate(([newest_before_us], newest_us[:-1])) if len(moving) else moving
    return Judged(effective_us, future, np.maximum(before - effective_us, 0), newest_us)
