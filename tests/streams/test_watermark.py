"""Lateness equals its definition, whatever the batches; no event comes from the future."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.event_time import FUTURE_MAX_US
from streams.watermark import judge

EVENTS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30)


def naive(events: list[tuple[int, int]], newest_us: int) -> list[tuple[int, bool, int, int]]:
    out = []
    for event_us, arrival_us in events:
        effective_us = min(event_us, arrival_us)
        is_future = event_us > arrival_us + FUTURE_MAX_US
        late_us = max(0, newest_us - effective_us)
        if not is_future:
            newest_us = max(newest_us, effective_us)
        out.append((effective_us, is_future, late_us, newest_us))
    return out


@given(EVENTS, st.integers(0, 10**9), st.integers(0, 30))
def test_judged_in_two_batches_or_one_it_is_the_definition(
    events: list[tuple[int, int]], newest_us: int, cut: int
) -> None:
    found: list[tuple[int, bool, int, int]] = []
    wanted = naive(events, newest_us)
    for part in (events[:cut], events[cut:]):
        event = np.array([e for e, _ in part], dtype=np.int64)
        arrival = np.array([a for _, a in part], dtype=np.int64)
        judged = judge(event, arrival, newest_us)
        found += zip(
            judged.effective_us.tolist(),
            judged.future.tolist(),
            judged.late_by_us.tolist(),
            judged.newest_us.tolist(),
            strict=True,
        )
        newest_us = int(judged.newest_us[-1]) if len(part) else newest_us
    assert found == wanted
