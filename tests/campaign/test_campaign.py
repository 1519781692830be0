"""What judges must be judged: the oracle, the tally, the proxy, and the watch for flat curves."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal

import pytest

from tests.campaign import payments
from tests.campaign.__main__ import _ROWS, numbers
from tests.campaign.audit import bits
from tests.campaign.lag import RISE_S, lag_of
from tests.campaign.oracle import (
    HOUR_US,
    REPEATED_US,
    SECOND_US,
    Contract,
    Output,
    RefusedError,
    expect,
    read,
    value,
)
from tests.campaign.proxy import Proxy
from tests.campaign.recorder import Sent
from tests.campaign.soak import Sample, rise, warm_of
from tests.campaign.tally import Tally

BASE_MS = 1_767_225_600_000
CONTRACT = payments.contract(HOUR_US)


def sent(offset: int, payload: bytes | None, stamp_ms: int = BASE_MS, partition: int = 0) -> Sent:
    return Sent("payments", partition, offset, stamp_ms, payload)


def event(at_us: int, **changed: object) -> bytes:
    return json.dumps({"user": "u", "shop": "s", "at": at_us, "amount": 0.1, "cents": 1, **changed}).encode()


def test_an_event_a_microsecond_too_late_is_dead_and_still_in_the_log() -> None:
    newest = BASE_MS * 1_000
    records = [event(newest), event(newest - HOUR_US), event(newest - HOUR_US - 1)]
    found = expect(CONTRACT, [sent(place, one) for place, one in enumerate(records)])
    assert found.dead == {(0, 2): "too_late"}
    assert len(found.logged) == 3
    [by_user, by_shop] = CONTRACT.views
    assert len(found.entities(by_user)["u"]) == 2
    assert len(found.entities(by_shop)["s"]) == 1


def test_an_event_of_the_future_moves_nothing_and_a_little_of_it_is_clamped() -> None:
    stamp_us = BASE_MS * 1_000 + 999
    records = [event(stamp_us + 300 * SECOND_US + 1), event(stamp_us + 300 * SECOND_US), event(stamp_us - 1)]
    found = expect(CONTRACT, [sent(place, one) for place, one in enumerate(records)])
    assert found.dead == {(0, 0): "future"}
    assert [one.effective_us for one in found.logged.values()] == [stamp_us, stamp_us - 1]


def test_a_window_holds_its_head_to_the_microsecond_and_its_tail_by_tiles() -> None:
    base = BASE_MS * 1_000
    records = [event(base - 60 * SECOND_US - 1), event(base - 60 * SECOND_US), event(base), event(base + 1)]
    stamps = [BASE_MS + 1_000] * 4
    found = expect(CONTRACT, [sent(n, one, stamp) for n, (one, stamp) in enumerate(zip(records, stamps, strict=True))])
    events = found.entities(CONTRACT.views[0])["u"]
    minute = Output("count", None, 60 * SECOND_US, SECOND_US)
    assert [value(minute, events, base + delta) for delta in (-1, 0, 1, SECOND_US)] == [2, 2, 3, 2]


def test_sums_are_rounded_once() -> None:
    amounts = [1e20, 1.0, -1e20, 5e-324]
    records = [event(BASE_MS * 1_000, amount=amount) for amount in amounts]
    found = expect(CONTRACT, [sent(n, one) for n, one in enumerate(records)])
    events = found.entities(CONTRACT.views[0])["u"]
    assert value(Output("sum", "amount"), events, BASE_MS * 1_000) == 1.0


PRICED = payments.contract(HOUR_US, is_priced=True)


def test_a_decimal_is_its_digits_and_its_sums_are_never_rounded() -> None:
    written = ["999.99", '"-12.340"', "1e2", "9.9999e2", "-0.0", "0.10", "0.2", "null"]
    records = [event(BASE_MS * 1_000)[:-1] + f', "price": {text}}}'.encode() for text in written]
    found = expect(PRICED, [sent(n, one) for n, one in enumerate(records)])
    events = found.entities(PRICED.views[0])["u"]
    total = value(Output("sum", "price"), events, BASE_MS * 1_000)
    assert bits(total) == bits(Decimal("2087.94")) != bits(2087.94)
    assert bits(value(Output("min", "price"), events, BASE_MS * 1_000)) == bits(Decimal("-12.34"))


@pytest.mark.parametrize(
    "text", ["1000", "-1e3", "12.345", "0.001", "1e-400", "999.9900000000000000001", '"NaN"', '"1/3"']
)
def test_a_decimal_with_too_many_digits_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="price"):
        read(PRICED, event(1)[:-1] + f', "price": {text}}}'.encode())


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"{",
        b"[]",
        event(-1),
        event(1, cents=1.0),
        event(1, cents=2**63),
        event(1, cents=True),
        event(1).replace(b"0.1", b"1e400"),
        event(1).replace(b"0.1", b"NaN"),
        event(1).replace(b'"u"', b'"\\ud800"'),
        event(1).replace(b'"u"', b'"\xff"'),
        b"\xef\xbb\xbf" + event(1),
    ],
)
def test_a_record_that_breaks_the_contract_is_refused(payload: bytes | None) -> None:
    with pytest.raises(RefusedError):
        read(CONTRACT, payload)


def test_the_tally_says_what_the_oracle_says() -> None:
    draw = random.Random(4)
    records = []
    for offset in range(3_000):
        stamp_ms = BASE_MS + offset * 400
        one = payments.event(draw, stamp_ms * 1_000, users=6)
        records.append((offset % 3, offset // 3, stamp_ms, one))
    tally = Tally(CONTRACT)
    for record in records:
        tally.add(*record)
    found = expect(CONTRACT, [sent(o, json.dumps(one).encode(), stamp, p) for p, o, stamp, one in records])
    assert (tally.records, tally.logged, tally.dead) == (3_000, len(found.logged), len(found.dead))
    assert tally.newest_us == found.newest_us
    for view in CONTRACT.views:
        entities = found.entities(view)
        assert tally.entities(view) == sorted(entities)
        for moment_us in (found.newest_us, found.newest_us + 30 * SECOND_US, found.newest_us + 50 * 60 * SECOND_US):
            for name, events in entities.items():
                for feature, output in view.outputs.items():
                    wanted = value(output, events, moment_us)
                    assert bits(tally.value(view, name, feature, moment_us)) == bits(wanted), (feature, moment_us)


def test_a_curve_that_grows_is_not_flat() -> None:
    assert abs(rise([200.0] * 20)) < 0.01
    assert rise([100.0 + step for step in range(50)]) > 0.1


@pytest.mark.parametrize(("minutes", "first_s"), [(5, 180), (60, 1_440)])
def test_what_is_judged_begins_after_warm_up(minutes: int, first_s: float) -> None:
    samples = [Sample(float(second), 0, 0, 0, 0, 0, 0, 0, 0) for second in range(0, minutes * 60 + 1, 2)]
    assert [warm_of(samples)[0].second, warm_of(samples)[-1].second] == [first_s, minutes * 60]


SECONDS = [2.0 * step for step in range(150)]
KILLS = [float(second) for second in range(15, 300, 25)]
STEADY = [20_000.0] * len(SECONDS)


def sawtooth(second: float) -> float:
    """Half of what is sent waits for ten seconds after a kill, and is worked off in the five after them."""
    since_s = (second - KILLS[0]) % 25 if second >= KILLS[0] else 25.0
    return 2_000 + 10_000 * (since_s if since_s < 10 else max(30 - 2 * since_s, 0))


def test_a_sawtooth_of_kills_is_flat_and_says_how_long_a_tooth_is() -> None:
    lag = lag_of(SECONDS, list(map(sawtooth, SECONDS)), STEADY, KILLS)
    assert lag.is_flat
    assert lag.early_s == lag.late_s == 0.1
    assert 0 <= lag.above_s < 10


def test_lag_that_grows_under_its_sawtooth_is_not_flat() -> None:
    grown = lag_of(SECONDS, [sawtooth(second) + 700 * second for second in SECONDS], STEADY, KILLS)
    assert grown.late_s - grown.early_s == pytest.approx(7, abs=1)
    assert not grown.is_flat
    assert not lag_of(SECONDS, [700 * second for second in SECONDS], STEADY, []).is_flat


def test_lag_that_one_kill_leaves_behind_is_not_flat() -> None:
    stuck = lag_of(SECONDS, [150_000.0 if 180 < second < 250 else 0.0 for second in SECONDS], STEADY, [180.0])
    assert stuck.late_s - stuck.early_s <= RISE_S
    assert stuck.above_s == 66
    assert not stuck.is_flat
    assert lag_of(SECONDS, [150_000.0 if 180 < second < 205 else 0.0 for second in SECONDS], STEADY, [180.0]).is_flat


def test_at_the_cap_of_sends_workers_that_become_slower_are_not_flat() -> None:
    capped = [200_000.0] * len(SECONDS)
    assert lag_of(SECONDS, capped, STEADY, KILLS).is_flat
    slower = [20_000.0 - 40 * second for second in SECONDS]
    assert not lag_of(SECONDS, capped, slower, KILLS).is_flat


def test_lag_that_falls_is_flat() -> None:
    assert lag_of(SECONDS, [200_000.0 - 600 * second for second in SECONDS], STEADY, KILLS).is_flat


def repeated(contract: Contract, records: list[tuple[str | None, int]]) -> list[bool]:
    """Of events of one partition, as ids and seconds: which the oracle calls repeats."""
    base = BASE_MS * 1_000 - 3 * HOUR_US
    payloads = [event(base + second * SECOND_US, id=name) for name, second in records]
    found = expect(contract, [sent(place, payload) for place, payload in enumerate(payloads)])
    assert found.repeats == sum(one.late_by_us == REPEATED_US for one in found.logged.values())
    return [found.logged[0, place].late_by_us == REPEATED_US for place in range(len(records))]


def test_the_oracle_takes_an_id_again_once_the_partition_has_moved_on_by_more_than_within() -> None:
    within = payments.contract(HOUR_US, 600 * SECOND_US)
    # Of docs/dead-letters.md: 10:00, 10:20, 10:00, 11:10, 11:10 within an hour.
    hour = payments.contract(HOUR_US, HOUR_US)
    drawn = [("a", 0), ("b", 1_200), ("a", 0), ("c", 4_200), ("a", 4_200)]
    assert repeated(hour, drawn) == [False, False, True, False, False]
    # To the edge and past it. A repeat is not remembered: the event counts, from which `within` is counted.
    assert repeated(within, [("a", 0), ("a", 600), ("a", 601), ("a", 602)]) == [False, True, False, True]
    # Where an event is late, the newest time before it counts and not its own.
    assert repeated(within, [("b", 1_000), ("a", 0), ("a", 1_600)]) == [False, False, True]
    assert repeated(within, [(None, 0), (None, 0)]) == [False, False]
    assert not any(repeated(payments.contract(HOUR_US), [("a", 0), ("a", 0)]))


def test_a_repeat_counts_for_nothing_and_is_no_dead_letter() -> None:
    within = payments.contract(HOUR_US, 7_200 * SECOND_US)
    base = BASE_MS * 1_000
    late = event(base - HOUR_US - 1, id="late")
    records = [event(base, id="a"), event(base, id="a", cents=7), late, late]
    found = expect(within, [sent(place, one) for place, one in enumerate(records)])
    assert found.dead == {(0, 2): "too_late"}
    assert len(found.logged) == 4
    assert [one.values["cents"] for one in found.entities(within.views[0])["u"]] == [1]


def test_every_row_of_the_matrix_is_there_and_no_other_is_asked_for() -> None:
    asked = numbers(_ROWS)
    assert set(range(1, 29)) | set(range(37, 48)) <= set(asked)
    with pytest.raises(ValueError, match="there is no row 29"):
        numbers("28-29")


@pytest.fixture
def echo() -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers what it is sent, and what it was sent."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        while piece := connection.recv(4_096):
                            received.append(piece)
                            connection.sendall(piece)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], received
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def wait_for_the_end(connection: socket.socket) -> None:
    """Raises TimeoutError where nobody ends the connection."""
    with suppress(ConnectionError):
        while connection.recv(100):
            continue


def test_the_proxy_passes_bytes_and_cuts_inside_of_them(echo: tuple[int, list[bytes]]) -> None:
    port, received = echo
    proxy, cuts = Proxy(port, random.Random(1)), list[str]()
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as through:
            through.sendall(b"whole")
            assert through.recv(100) == b"whole"
            proxy.cut_within(3, lambda: cuts.append("cut"))
            through.sendall(b"in the middle")
            wait_for_the_end(through)
        assert cuts == ["cut"]
        assert proxy.was_cut
    finally:
        proxy.stop()
    assert b"".join(received) in (b"whole", b"wholein ")
