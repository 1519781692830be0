"""Rows 37 to 46: bytes that are no events, events that are strange, times that cannot be, keys that want out."""

from __future__ import annotations

import gzip
import json
import random
import struct
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from featurestore.settings import Settings
from tests.campaign import payments
from tests.campaign.http import Http
from tests.campaign.lookups import Lookups
from tests.campaign.oracle import HOUR_US, SECOND_US, RefusedError, read
from tests.campaign.verdict import expect, row
from tests.campaign.world import World

_LIMIT_S = 60.0
# What Kafka takes of one record with its usual settings.
_RECORD_BYTES_MAX = 1_048_588


def good(**changed: Any) -> dict[str, Any]:
    """A payment of now that keeps the contract, but for what is changed."""
    event = {"user": "u1", "shop": "s1", "at": payments.now_us(), "amount": 1.5, "cents": 5}
    return {**event, **changed}


def _ours(number: int) -> bytes:
    return json.dumps(good(user=f"u{number % 5}")).encode()


def run(
    world: World, records: Iterable[bytes | None], *, alone: bool = False, ours: Callable[[int], bytes] = _ours
) -> str:
    """Send records to one partition in this order, good ones of now between them, and check everything.

    alone  without the good ones, which would make everything after them late
    ours   makes such a one
    """
    worker = world.worker()
    world.until_reading(worker)
    recorder = world.recorder()
    for number, payload in enumerate(records):
        recorder.send(world.topic, payload, b"k", 0)
        if number % 7 == 0 and not alone:
            recorder.send(world.topic, ours(number), b"k", 0)
    recorder.flush()
    world.until_applied(_LIMIT_S)
    seen = world.check()
    expect(world.restarts == 0, f"the worker ended {world.restarts} times; {seen}")
    return seen


def _poison(world: World) -> list[bytes]:
    draw, plain = world.draw, json.dumps(good()).encode()
    out = [draw.randbytes(draw.randrange(1, 400)) for _ in range(300)]
    out += [plain[: draw.randrange(1, len(plain))] for _ in range(200)]
    # Framed as Confluent's serializers do, with the right and with a wrong magic byte.
    out += [bytes([magic]) + struct.pack(">I", 7) + plain for magic in (0, 0, 1, 255)]
    out += [plain.replace(b"u1", bad) for bad in (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\x00", b"\n")]
    out += [gzip.compress(b"0" * 20_000_000), b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"null", b"1", b'""', b"{}"]
    out += [plain + b",", plain + plain, b"\xef\xbb\xbf" + plain, plain.decode().encode("utf-16"), b"[" + plain + b"]"]
    out += [b" " * 900_000 + plain, plain + b" " * 900_000, b'{"user":"u1","user":"u2",' + plain[1:]]
    draw.shuffle(out)
    return out


@row(
    37,
    "poison bytes",
    "random, cut off, framed, bad UTF-8, gzip bomb, deep nesting, UTF-16",
    "all dead letters, no crash",
)
def poison(world: World) -> str:
    world.define(partitions=1)
    return run(world, _poison(world))


# So many are checked value by value; as many make a block of those that are timed, some batches of the usual size.
_DILUTED = 200_000
# So many poisoned blocks, each between two clean ones that the same worker does within a second of it: a machine that
# others use as well changes its speed within seconds.
_PAIRS = 12
_BATCH_RECORDS_MAX = Settings.model_fields["batch_records_max"].default
# Nothing that `payments.event` draws is too late then: without poison there is no dead letter.
_ALL_IN_TIME = "3h"
_CONTRACT = payments.contract(3 * HOUR_US)


@row(
    38,
    "10 % poison",
    f"{_DILUTED:,} records clean, as many with a tenth mutilated; then {_PAIRS} such blocks between clean ones",
    ">= 95 % of the clean speed",
)
def diluted(world: World) -> str:
    clean = list(payments.payloads(world.draw, _DILUTED))
    mixed = [(key, payload if n % 10 else _mutilated(world.draw, payload)) for n, (key, payload) in enumerate(clean)]
    seen = [_checked(world.beside(name), of) for name, of in (("clean", clean), ("poisoned", mixed))]
    timed = world.beside("timed")
    timed.define(partitions=1, lateness=_ALL_IN_TIME, batch_records_max=_BATCH_RECORDS_MAX)
    timed.pour([*clean, *clean, *(mixed + clean) * _PAIRS])
    # In the first one is the worker's start.
    (_, *took_s), cost_us = _times_of_blocks(timed, 2 + 2 * _PAIRS)
    clean_s, mixed_s = took_s[::2], took_s[1::2]
    ratios = [(before + after) / 2 / at for (before, after), at in zip(pairwise(clean_s), mixed_s, strict=True)]
    rates = [_DILUTED / median(each) for each in (clean_s, mixed_s)]
    shown = f"{rates[0]:,.0f} records/s clean, {rates[1]:,.0f} with poison, each the median of {_PAIRS} blocks"
    shown = f"{shown}: {median(ratios):.1%} of the neighbours, from {min(ratios):.0%} to {max(ratios):.0%}"
    shown = f"{shown} ({cost_us:.2f} us of the worker's processor a record); clean: {seen[0]}; poisoned: {seen[1]}"
    expect(", 0 dead" in seen[0], f"what should be clean has dead letters: {shown}")
    expect(median(ratios) >= 0.95, shown)
    return shown


def _checked(world: World, records: list[tuple[bytes, bytes]]) -> str:
    world.define(partitions=1, lateness=_ALL_IN_TIME, batch_records_max=_BATCH_RECORDS_MAX)
    recorder = world.recorder()
    for key, payload in records:
        recorder.send(world.topic, payload, key)
    recorder.flush()
    worker = world.worker(restarting=False)
    world.until_applied(_LIMIT_S)
    expect(worker.is_alive, f"the worker ended: {worker.said()[-300:]}")
    seen = world.check(1)
    world.stop()
    return seen


def _mutilated(draw: random.Random, payload: bytes) -> bytes:
    """A payment as it arrives broken, about as long as it was: cut off, bits flipped, a field missing or retyped."""
    kind, made = draw.randrange(4), payload
    while _is_taken(made):
        said = json.loads(payload)
        name = draw.choice(["user", "at", "cents"])
        match kind:
            case 0:
                made = payload[: -draw.randrange(1, len(payload) // 3)]
            case 1:
                flipped = bytearray(payload)
                for _ in range(draw.randrange(1, 5)):
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
                made = bytes(flipped)
            case 2:
                del said[name]
                made = json.dumps(said).encode()
            case _:
                said[name] = draw.choice([f"{said[name]},00", [said[name]], {"value": said[name]}, 1.5, None])
                made = json.dumps(said).encode()
    return made


def _is_taken(payload: bytes) -> bool:
    try:
        read(_CONTRACT, payload)
    except RefusedError:
        return False
    return True


def _times_of_blocks(world: World, blocks: int) -> tuple[list[float], float]:
    """A new worker works off so many blocks that wait: seconds of each, and its processor's microseconds a record."""
    worker = world.worker(restarting=False)
    seen, total = [(time.monotonic(), 0)], blocks * _DILUTED
    limit_s = time.monotonic() + 2 * _LIMIT_S * world.patience
    while seen[-1][1] < total:
        expect(worker.is_alive, f"the worker ended: {worker.said()[-300:]}")
        expect(time.monotonic() < limit_s, f"it takes too long: {seen[-1][1]} of {total} are applied")
        time.sleep(0.005)
        if (end := sum(world.sinks.row_ends().values())) > seen[-1][1]:
            seen.append((time.monotonic(), end))
    moments, ends = zip(*seen, strict=True)
    # Batches do not end with blocks.
    edges = np.interp(np.arange(blocks + 1) * _DILUTED, ends, moments)
    return np.diff(edges).tolist(), worker.processor_s / total * 1e6


@row(39, "sizes", "limit-1, limit, limit+1; good and bad; empty, null value, null key", "applied, dead, or refused")
def sizes(world: World) -> str:
    world.define(partitions=1)
    worker = world.worker()
    world.until_reading(worker)
    recorder = world.recorder(**{"message.max.bytes": 4 << 20})
    exact = _largest(world)
    asked = 0
    for size in (exact - 1, exact, exact + 1, exact + 100_000):
        for stem in (json.dumps(good()).encode(), b"{broken"):
            asked += 1
            recorder.send(world.topic, stem.ljust(size), None, 0)
            recorder.flush()
    for payload, key in ((b"", b"k"), (None, b"k"), (None, None), (json.dumps(good()).encode(), None)):
        recorder.send(world.topic, payload, key, 0)
    recorder.flush()
    world.until_applied(_LIMIT_S)
    seen = world.check()
    expect(world.restarts == 0, f"the worker ended {world.restarts} times; {seen}")
    expect(len(recorder.refused) == asked // 2, f"{len(recorder.refused)} of {asked} were refused")
    return f"limit {exact:,} bytes: {asked - len(recorder.refused)} kept, {len(recorder.refused)} refused; {seen}"


def _largest(world: World) -> int:
    """The largest payload that the broker takes, found by halving in a topic of its own."""
    from confluent_kafka.cimpl import NewTopic

    name = f"{world.name}-sizes"
    for done in world.admin.create_topics([NewTopic(name, 1, 1)]).values():
        done.result(20.0)
    recorder = world.recorder(**{"message.max.bytes": 4 << 20, "client.id": "sizes"})
    taken, refused = _RECORD_BYTES_MAX - 500, _RECORD_BYTES_MAX + 500
    while refused - taken > 1:
        middle = (taken + refused) // 2
        before = len(recorder.refused)
        recorder.send(name, b"x" * middle, None, 0)
        recorder.flush()
        taken, refused = (taken, middle) if len(recorder.refused) > before else (middle, refused)
    return taken


@row(
    41,
    "edges of numbers",
    "NaN, inf, 1e400, -0.0, subnormal, int64 edges, sums beyond, decimals of too many digits",
    "by contract; JSON stays valid",
)
def numbers(world: World) -> str:
    # Such a topic's records are decoded one by one, others by the compiled loop.
    priced = world.beside("priced")
    return f"{_floats_and_integers(world)}; decimals: {_decimals(priced)}"


def _floats_and_integers(world: World) -> str:
    world.define(partitions=1)
    records = []

    def add(user: str, amount: str, cents: str = "1") -> None:
        at = payments.now_us()
        records.append(f'{{"user":"{user}","shop":"s1","at":{at},"amount":{amount},"cents":{cents}}}'.encode())

    for amount in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-0.0", "-0", "5e-324", "2.5e-324", "1e-400"):
        add("odd", amount)
    for amount in ("1.7976931348623157e308", "1.7976931348623159e308", "9007199254740993", "1" * 309, "1" * 310, "0x1"):
        add("large", amount)
    for cents in ("9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809", "1e3"):
        add("cents", "1", cents)
    for _ in range(3):
        add("beyond", "1.7976931348623157e308", "9223372036854775807")
        add("below", "-1.7976931348623157e308", "-9223372036854775808")
    for amount in ("1e16", "1", "-1e16", "0.1", "1e-320", "-0.1"):
        add("cancels", amount)
    add("zero", "-0.0")
    seen = run(world, records)
    http = Http(world, world.settings.redis_url)
    users = ["odd", "large", "cents", "beyond", "below", "cancels", "zero"]
    status, body = http.features("by_user", {"user": users})
    expect(status == 200, f"HTTP {status}: {body[:200]!r}")
    said = json.loads(body, parse_constant=lambda word: expect(False, f"the answer has {word}, which is not JSON"))
    return f"{seen}; HTTP says paid_1h of 'beyond' is {said['columns']['by_user__paid_1h'][3]}"


_FIT = ["999.99", "-999.99", "12.34", "1e2", "9.9999e2", "-1e-2", "0.01", "0.0100", "0", "-0", "-0.0", "null"]
_FIT += ['"12.340"', '"-1E+2"']
_TOO_MUCH = ["1000", "-1000", "999.991", "12.345", "1e3", "0.001", "-1e-3", "5e-324", "1e400", "1e-400", "1" * 400]
_TOO_MUCH += ["1000.00", "99999", "9223372036854775807", "true", "[1]", *(f'"{text}"' for text in _TOO_MUCH)]
_TOO_MUCH += [f'"{text}"' for text in ("NaN", "Infinity", "1_0", "1/3", "0x1", "", " 1", "1,5", "1e", "\\u0661")]


def _decimals(world: World) -> str:
    """A column of five digits: what it has too few for is dead and not rounded, and sums have more digits than it."""
    world.define(partitions=1, is_priced=True)
    cents = [world.draw.randrange(100_000) for _ in range(300)]
    prices = {
        "edges": _FIT + _TOO_MUCH,
        "beyond": ["999.99"] * 200,
        "below": ["-999.99"] * 200,
        "drawn": [f"{world.draw.choice(['', '-'])}{each // 100}.{each % 100:02}" for each in cents],
    }
    stems = {user: json.dumps(good(user=user))[:-1] for user in prices}
    seen = run(world, [f'{stems[user]}, "price": {each}}}'.encode() for user in prices for each in prices[user]])
    dead = len(world.expected().dead)
    expect(dead == len(_TOO_MUCH), f"{dead} are dead, and {len(_TOO_MUCH)} prices do not fit: {seen}")
    return seen


@row(42, "impossible times", "far future, negative, zero, seconds or ms for us", "quarantined; windows not moved on")
def times(world: World) -> str:
    world.define(partitions=1)
    now = payments.now_us()
    moments = [now, now + 301 * SECOND_US, now + 10**15, 253_402_300_799_999_999, 253_402_300_800_000_000, 2**63, -1]
    moments += [-(2**63), 0, now // 1_000_000, now // 1_000, now * 1_000, 4_102_444_800_000_000, now - 1]
    # On an edge of five minutes nobody knows which millisecond the broker stamps: the oracle knows it afterwards.
    moments += [now + 299 * SECOND_US, now + 5 * SECOND_US, now + 1]
    return run(world, [json.dumps(good(at=moment)).encode() for moment in moments for _ in range(3)])


@row(43, "late by the edge", "late by lateness-1, lateness, lateness+1 us, for both views; window edges", "exact edges")
def late(world: World) -> str:
    world.define(partitions=1)
    base = payments.now_us() - 10 * HOUR_US
    records = []
    for step in range(40):
        newest = base + step * 5 * 60 * SECOND_US
        # The views' own lateness, an hour and a minute; tile edges of a second and of a minute.
        offsets = [0, 60 * SECOND_US, HOUR_US, 3_540 * SECOND_US, SECOND_US]
        edges = [newest % (60 * SECOND_US), newest % SECOND_US]
        for offset in [*offsets, *edges]:
            records += [good(at=newest - offset + delta, user=f"u{step % 3}") for delta in (-1, 0, 1)]
        records.insert(-1, good(at=newest, user="mover"))
    return run(world, [json.dumps(one).encode() for one in records], alone=True)


@row(
    44,
    "duplicates and disorder",
    "each record twice, shuffled, reversed, two partitions; then event ids sent again, before and after a kill",
    "by offset: all count, exactly; with dedupe each id once within 10 min",
)
def disorder(world: World) -> str:
    world.define(partitions=2)
    now = payments.now_us()
    ordered = [json.dumps(payments.event(world.draw, now - (400 - n) * SECOND_US)).encode() for n in range(400)]
    shuffled = ordered[:]
    world.draw.shuffle(shuffled)
    worker = world.worker()
    world.until_reading(worker)
    recorder = world.recorder()
    for partition, records in ((0, ordered + shuffled), (1, ordered[::-1] + ordered)):
        for payload in records:
            recorder.send(world.topic, payload, b"k", partition)
    recorder.flush()
    world.until_applied(_LIMIT_S)
    return f"{world.check()}; by event id: {_repeated(world)}"


_WITHIN = "10m"
_WITHIN_US = 600 * SECOND_US


def _repeated(world: World) -> str:
    """A producer that sends again, to a topic that leaves repeats out, in a project of its own."""
    once = world.beside("once")
    once.define(partitions=2, within=_WITHIN)
    worker = once.worker()
    once.until_reading(worker)
    recorder, draw, sent = once.recorder(), once.draw, 0

    def send(events: Iterable[dict[str, Any]], partition: int) -> None:
        nonlocal sent
        for one in events:
            recorder.send(once.topic, json.dumps(one).encode(), b"k", partition)
            sent += 1

    # Some are too late for every view; their letters may not come twice either.
    base_us = payments.now_us() - 2 * HOUR_US
    events = [payments.event(draw, base_us - (400 - n) * SECOND_US) for n in range(400)]
    for n, one in enumerate(events):
        one["id"] = None if n % 40 == 0 else f"e{n}"
    for partition, order in ((0, events), (1, events[::-1])):
        # At once, as a producer does that got no answer; then all of it again, some with other words under their id.
        send([copy for one in order for copy in [one] * draw.choice([1, 1, 2, 3])], partition)
        send(draw.sample(events, 200), partition)
        send([{**one, "cents": 7, "at": one["at"] + SECOND_US} for one in draw.sample(events, 50)], partition)
    recorder.flush()
    time.sleep(draw.uniform(0.0, 1.5))
    worker.kill()
    for partition in (0, 1):
        send(draw.sample(events, 200), partition)
        # Event time goes on: to the last microsecond of the ids that came when it was newest, and past it.
        newest_us = max(one["at"] for one in events) + SECOND_US
        for step_us in (_WITHIN_US, 1, _WITHIN_US, _WITHIN_US + 1):
            newest_us += step_us
            send([good(at=newest_us, id=None), *draw.sample(events, 100)], partition)
    recorder.flush()
    once.until_applied(_LIMIT_S)
    expected = once.expected()
    names = {(place[0], event.values["id"]) for place, event in expected.logged.items()}
    taken = sum(event.values["id"] is not None for event in expected.logged.values()) - expected.repeats
    again = taken - sum(name is not None for _, name in names)
    seen = f"{sent:,} sends, {expected.repeats:,} repeats counted for nothing, {again} after {_WITHIN} counted again"
    expect(expected.repeats > 500 and again > 50, f"too few were sent again: {seen}")
    return f"{seen}; {once.check()}"


@row(
    45,
    "hot key",
    "300,000 events, 90 % of one user, 5,000 cold ones; lookups beside the worker that takes them",
    "exact; p99 <= 20 ms or 5x idle",
)
def hot(world: World) -> str:
    world.define(batch_records_max=5_000)
    worker = world.worker()
    world.until_reading(worker)
    world.send(500)
    world.until_applied(_LIMIT_S)
    with Lookups(world.direct, ["u0", "u1"]) as idle:
        time.sleep(3)
    expect(worker.terminate() == 0, "SIGTERM did not end the worker with 0")
    # All is there before anybody reads.
    recorder = world.recorder()
    for number in range(300_000):
        event = payments.event(world.draw, payments.now_us())
        event["user"] = f"cold{number % 5_000}" if number % 10 == 0 else "hot"
        recorder.send(world.topic, json.dumps(event).encode(), event["user"].encode())
    recorder.flush()
    with Lookups(world.direct, ["hot", "u1"]) as busy:
        world.worker()
        world.until_applied(_LIMIT_S)
    p99_ms = f"p99 of {len(busy.seconds)} lookups {1e3 * busy.p99_s():.1f} ms, idle {1e3 * idle.p99_s():.1f} ms"
    seen = f"{p99_ms}; {world.check(1)}"
    expect(busy.p99_s() <= max(0.02, 5 * idle.p99_s()), seen)
    return seen


@row(
    46,
    "hostile entity ids",
    "unicode, control signs, {} and :, 64 KB, ids that normalise alike",
    "each its own row, exact",
)
def ids(world: World) -> str:
    world.define(partitions=1)
    names = [
        "",
        " ",
        "{b1}",
        "{b1}:x",
        "}{",
        ":",
        "a:b",
        "state",
        ":state",
        "row:",
        "*",
        "?",
        "[a]",
        "\\",
        "'",
        '"',
        "\n",
    ]
    names += [
        "\r\nFLUSHALL\r\n",
        "\x00",
        "\x01\x02",
        "a\x00b",
        "\u00e9",
        "e\u0301",
        "\u212b",
        "\u00c5",
        "A\u030a",
        "ﬁ",
        "fi",
    ]
    names += ["\u202eabc", "\U0001f600", "\ufeff", "K", "\u212a", "ß", "ss", "x" * 65_536, "é" * 32_768, "../..", "%00"]
    names += [f"{world.name}:{{b0}}:by_user:state", "null", "None", "u1 ", " u1", "u1", "U1", "1", "01"]
    records = []
    for name in names:
        for number in range(3):
            records.append(json.dumps(good(user=name, shop=names[-number - 1], cents=number)).encode())
    seen = run(world, records)
    keys = [key for key in world.valkey.client.scan_iter(count=1_000) if b":row:" in key and b"by_user" in key]
    users = len(world.expected().entities(world.expected().contract.views[0]))
    return f"{len(names)} ids; {users} users, {len(keys)} keys with rows of users; {seen}"
