"""Letters travel packed and none is lost, whatever compaction takes; each says what plain Python says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from featurestore import Topic
from featurestore.event_time import FUTURE_MAX_US, SECOND_US
from featurestore.offline import EventLog
from streams.engine import Engine
from streams.letters import (
    PACK_BYTES_MAX,
    PACK_LETTERS_MAX,
    DeadLetter,
    LettersOfRecords,
    beginning_of,
    packs,
    size_bytes,
    unpacked,
)
from streams.payloads import Payloads
from streams.transport import Batch
from streams.unapplied import PART_BYTES_MAX, PART_LETTERS_MAX
from tests.parity.test_parity import Letters
from tests.streams.codecs.test_evolution import ipc

letters = st.builds(
    DeadLetter,
    topic=st.just("paid"),
    partition=st.integers(0, 2),
    offset=st.integers(0, 2**63 - 1) | st.integers(0, 9),
    reason=st.sampled_from(["wrong_type", "too_late"]),
    detail=st.text(max_size=20),
    payload=st.none() | st.binary(max_size=20) | st.just(b"x" * 100_000) | st.just(b"x" * 400_000),
    record_key=st.none() | st.binary(max_size=4),
    position=st.none() | st.integers(0, 3),
)


@given(st.lists(letters, max_size=12))
def test_packs_hold_every_letter_once_in_its_order_within_their_bounds(some: list[DeadLetter]) -> None:
    made = list(packs(some))
    assert [letter for pack in made for letter in unpacked(pack.value)] == some
    for pack in made:
        held = unpacked(pack.value)
        assert len(held) == pack.letters
        assert pack.topic == "paid"
        if pack.letters == 1:
            assert (pack.key, pack.value) == (held[0].key, msgspec.json.encode(held[0]))
        else:
            assert len(pack.value) <= PACK_BYTES_MAX


@settings(deadline=None)  # the first one may have to load the loop
@given(st.lists(letters.map(lambda letter: replaced(letter, partition=1, position=None)), max_size=6))
def test_letters_of_records_are_the_letters_that_they_stand_for(some: list[DeadLetter]) -> None:
    made = LettersOfRecords(
        "paid",
        1,
        np.array([letter.offset for letter in some], dtype=np.int64),
        [letter.reason for letter in some],
        [letter.detail for letter in some],
        Payloads.of([letter.payload for letter in some]),
        Payloads.of([letter.record_key for letter in some]),
    )
    assert list(made) == some
    assert (len(made), size_bytes(made)) == (len(some), size_bytes(some))
    assert made[1:] == some[1:]
    assert [made[index] for index in range(len(some))] == some


def at(offsets: Iterable[int], detail: str = "") -> list[DeadLetter]:
    return [DeadLetter("paid", 0, offset, "too_late", detail, b"{}") for offset in offsets]


def test_a_pack_is_as_full_as_it_may_be() -> None:
    assert [pack.letters for pack in packs(at(range(1_250)))] == [PACK_LETTERS_MAX, PACK_LETTERS_MAX, 250]
    [one] = packs(at([7]))
    assert one.key == b"paid/0/7"


places = st.tuples(st.integers(0, 1), st.integers(0, 4), st.none() | st.integers(0, 1))


@settings(max_examples=300)
@given(st.lists(st.lists(places, max_size=5), max_size=8))
def test_no_letter_is_lost_when_the_broker_keeps_the_newest_record_of_each_key(
    puts: list[list[tuple[int, ...]]],
) -> None:
    compacted: dict[bytes, bytes] = {}
    for put in puts:
        some = [DeadLetter("paid", p, offset, "too_late", "", None, None, position) for p, offset, position in put]
        compacted.update((pack.key, pack.value) for pack in packs(some))
    kept = {(one.partition, one.offset, one.position) for value in compacted.values() for one in unpacked(value)}
    assert kept == {place for put in puts for place in put}


def test_a_pack_read_again_takes_the_place_of_its_first_copy_and_of_no_other() -> None:
    [first], [again], [fewer] = packs(at([5, 7, 9])), packs(at([5, 7, 9], "later")), packs(at([5, 9]))
    assert first.key == again.key
    # What the log has passed is not judged again: a second reading may know fewer letters between the same two.
    assert first.key != fewer.key
    assert first.key.startswith(b"paid/0/5..paid/0/9#")


@given(letters, st.integers(0, 60_000), st.integers(0, 60_000))
def test_a_cut_letter_is_small_keeps_its_place_and_says_how_large_its_record_is(
    letter: DeadLetter, payload_bytes: int, key_bytes: int
) -> None:
    large = msgspec.structs.replace(
        letter, payload=b"p" * payload_bytes, record_key=b"k" * key_bytes, detail="d" * 9_999
    )
    made = beginning_of(msgspec.json.encode(large))
    [cut] = unpacked(made.value)
    assert len(made.value) < 60_000
    assert (made.topic, made.key, made.letters, cut.place) == ("paid", letter.key, 1, letter.place)
    assert (cut.reason, cut.detail) == (letter.reason, "d" * 1_000)
    assert cut.payload is not None
    assert cut.record_key is not None
    assert b"p" * payload_bytes == cut.payload.ljust(payload_bytes, b"p")
    assert b"k" * key_bytes == cut.record_key.ljust(key_bytes, b"k")
    is_whole = (cut.payload, cut.record_key) == (large.payload, large.record_key)
    assert (cut.is_cut, cut.whole_bytes) == ((False, None) if is_whole else (True, payload_bytes + key_bytes))
    assert cut.beginning() == cut


def test_a_letter_of_an_earlier_version_is_whole() -> None:
    said = b'{"topic":"paid","partition":0,"offset":7,"reason":"wrong_type","detail":"","payload":"e30="}'
    assert unpacked(said) == [DeadLetter("paid", 0, 7, "wrong_type", "", b"{}")]
    assert not unpacked(said)[0].is_cut


NOW_US = 1_800_000_000 * SECOND_US
PATIENCE_US = 60 * SECOND_US
PAID = Topic("paid", schema={"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=2)


@settings(max_examples=60, deadline=None)
@given(
    moments=st.lists(
        st.none() | st.integers(-300, 0).map(lambda s: s * SECOND_US) | st.sampled_from([FUTURE_MAX_US + 1, 10**10]),
        max_size=12,
    ),
    cut=st.integers(0, 12),
)
def test_letters_are_those_of_plain_python_with_reason_detail_bytes_and_key(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int | None], cut: int
) -> None:
    values = [
        b"{" if ahead_us is None else json.dumps({"user": "u", "at": NOW_US + ahead_us}).encode()
        for ahead_us in moments
    ]
    keys = [b"k%d" % number for number in range(len(values))]
    wanted, newest = set(), 0
    for offset, ahead_us in enumerate(moments):
        said = None
        if ahead_us is None:
            said = "broken_json", "Input data was truncated"
        elif ahead_us > FUTURE_MAX_US:
            said = "future", f"{ahead_us // SECOND_US} s ahead of its arrival"
        else:
            late_us = max(newest - (NOW_US + ahead_us), 0)
            newest = max(newest, NOW_US + ahead_us)
            if late_us > PATIENCE_US:
                behind = f"{late_us // SECOND_US} s behind the newest event of its partition"
                said = "too_late", f"{behind}, views allow {PATIENCE_US // SECOND_US} s"
        if said is not None:
            wanted |= {(partition, offset, *said, values[offset], keys[offset]) for partition in (0, 1)}
    held, log = Letters(), EventLog(tmp_path_factory.mktemp("log"), PAID)
    engine = Engine(PAID, "id", [], PATIENCE_US, log, held, lambda: NOW_US)
    assert [engine.open(partition) for partition in (0, 1)] == [0, 0]
    offsets = np.arange(len(values), dtype=np.int64)
    batch = Batch("paid", 0, 0, len(values), values, offsets, np.full(len(values), NOW_US), -1, keys)
    # The other partition has the same records and comes along, before and behind.
    engine.apply(batch.before(cut), replace(batch, partition=1).before(cut // 2))
    engine.apply(replace(batch, partition=1).after(cut // 2), batch.after(cut))
    told = {
        (one.partition, one.offset, one.reason, one.detail, one.payload, one.record_key) for one in held.held.values()
    }
    assert told == wanted
    assert engine.counts.dead.total() == len(wanted)


def test_letters_of_rows_are_made_in_parts_of_few_letters_and_few_bytes(tmp_path: Path) -> None:
    schema = {"user": str, "at": "timestamp", "n": int}
    topic = Topic("paid", schema=schema, event_time="at", format="arrow", ranges={"n": (0, None)})
    parts: list[Sequence[DeadLetter]] = []

    class Parts(Letters):
        def put(self, letters: Sequence[DeadLetter]) -> None:
            parts.append(letters)

    def record(users: list[str], bad: int) -> bytes:
        at = pa.array([NOW_US] * len(users), pa.timestamp("us", tz="UTC"))
        return ipc(pa.table({"user": users, "at": at, "n": [-1] * bad + [1] * (len(users) - bad)}))

    # Each letter of the second record says its long key again, each one of the third holds a long row.
    values = [record(["u"] * 2_500, 2_400), record(["u"] * 40, 40), record(["u" * 500_000] * 20, 20), b"?"]
    keys = [b"k", b"k" * 400_000, None, b"l"]
    batch = Batch("paid", 0, 0, 4, values, np.arange(4), np.full(4, NOW_US), -1, keys)
    engine = Engine(topic, "id", [], PATIENCE_US, EventLog(tmp_path, topic), Parts(), lambda: NOW_US)
    engine.open(0)
    engine.apply(batch)
    made = [letter for part in parts for letter in part]
    wanted = [(0, n) for n in range(2_400)] + [(1, n) for n in range(40)] + [(2, n) for n in range(20)] + [(3, None)]
    assert [(one.offset, one.position) for one in made] == wanted
    assert [one.record_key for one in made] == [keys[offset] for offset, _ in wanted]
    assert max(map(len, parts)) == PART_LETTERS_MAX
    largest = max(size_bytes([letter]) for letter in made)
    assert PART_BYTES_MAX <= max(map(size_bytes, parts)) < PART_BYTES_MAX + largest
    # A record is not copied for each of its rows.
    assert len({id(one.record_key) for one in made}) == 4
    assert engine.counts.dead == {"out_of_range": 2_460, "broken_arrow": 1}
