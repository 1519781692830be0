"""Back-pressure: what waits stays bounded, pausing is the last resort, and nothing stays paused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.pressure import STALLED_S, Advice, Pressure
from streams.transport.ranges import Place

RECORDS_MAX, BYTES_MAX, POLL = 100, 1_000, 30
PLACES: list[Place] = [("clicks", number) for number in range(3)]


def test_a_full_partition_makes_the_thread_wait_before_it_pauses() -> None:
    # Trap 8: pausing throws the prefetch away and reads it again.
    pressure = Pressure(RECORDS_MAX, BYTES_MAX)
    held = {PLACES[0]: (RECORDS_MAX, 10), PLACES[1]: (0, 0)}
    assert pressure.look(held, 0.0) == Advice(wait=True)
    assert pressure.look(held, STALLED_S - 0.1) == Advice(wait=True)
    # Only what is full is paused: the others read on.
    assert pressure.look(held, STALLED_S) == Advice(pause=frozenset({PLACES[0]}))
    assert pressure.look(held, STALLED_S + 1) == Advice()
    assert pressure.look({PLACES[0]: (50, 5), PLACES[1]: (0, 0)}, 20.0) == Advice(resume=frozenset({PLACES[0]}))


def test_bytes_of_all_partitions_together_are_bounded() -> None:
    pressure = Pressure(RECORDS_MAX, BYTES_MAX)
    # Few records, and no partition has much by itself.
    held = dict.fromkeys(PLACES, (2, BYTES_MAX // 3 + 1))
    assert pressure.look(held, 0.0) == Advice(wait=True)
    assert pressure.look(held, STALLED_S) == Advice(pause=frozenset(PLACES))
    half = dict.fromkeys(PLACES, (1, BYTES_MAX // 6))
    assert pressure.look(half, STALLED_S + 1) == Advice(resume=frozenset(PLACES))


def test_a_short_stall_pauses_nothing() -> None:
    pressure = Pressure(RECORDS_MAX, BYTES_MAX)
    full, free = {PLACES[0]: (RECORDS_MAX, 10)}, {PLACES[0]: (0, 0)}
    for second in range(100):
        assert pressure.look(full if second % 4 else free, float(second)).pause == frozenset()


def test_a_new_assignment_is_paused_nowhere() -> None:
    pressure = Pressure(RECORDS_MAX, BYTES_MAX)
    held = {PLACES[0]: (RECORDS_MAX, 10)}
    pressure.look(held, 0.0)
    pressure.look(held, STALLED_S)
    assert pressure.forget() == {PLACES[0]}
    assert pressure.look(held, STALLED_S + 1) == Advice(wait=True)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 4),
            st.lists(st.tuples(st.integers(0, POLL), st.integers(1, 20)), min_size=3, max_size=3),
            st.integers(0, 2),
            st.integers(0, 200),
        ),
        max_size=60,
    )
)
def test_what_waits_is_bounded_and_what_is_paused_goes_on(
    steps: list[tuple[float, list[tuple[int, int]], int, int]],
) -> None:
    pressure = Pressure(RECORDS_MAX, BYTES_MAX)
    held: dict[Place, list[int]] = {place: [0, 0] for place in PLACES}
    paused: set[Place] = set()
    now_s = 0.0

    def look() -> Advice:
        nonlocal paused
        advice = pressure.look({place: (records, size) for place, (records, size) in held.items()}, now_s)
        paused = (paused - advice.resume) | advice.pause
        assert paused == pressure.paused
        return advice

    for passed_s, arrivals, taker, taken in steps:
        now_s += passed_s
        if not look().wait:
            for place, (records, size) in zip(PLACES, arrivals, strict=True):
                if place not in paused:
                    held[place][0] += records
                    held[place][1] += records * size
        # One poll may go over a bound, and no more.
        assert all(records <= RECORDS_MAX + POLL for records, _ in held.values())
        assert sum(size for _, size in held.values()) <= BYTES_MAX + 3 * POLL * 20
        records = min(taken, held[PLACES[taker]][0])
        if records:
            held[PLACES[taker]][1] -= held[PLACES[taker]][1] * records // held[PLACES[taker]][0]
            held[PLACES[taker]][0] -= records
    for place in PLACES:
        held[place] = [0, 0]
    assert not look().wait
    assert not paused
