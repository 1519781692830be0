"""What a few bytes become in memory is known before it is there, and has a bound: of a record, and of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Topic
from featurestore.event_time import SECOND_US
from featurestore.kernel import PLACES_MAX
from featurestore.offline import EventLog
from streams.codecs import Codec, Decoded, arrow, codec_of
from streams.codecs.arrow import one_row
from streams.codecs.arrow_sizes import bytes_in_memory
from streams.codecs.json import JsonCodec
from streams.engine import PART_BYTES_MAX, Engine
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.streams.codecs.conftest import rows

TOPIC = Topic("t", {"who": str, "at": "timestamp", "n": int}, "at", nullable=("n",), format="arrow")
COLUMNS = frozenset(TOPIC.schema)
MIB = 1 << 20
# What Arrow allocated gives its memory back to its own pool, whoever holds the pool.
POOLS: list[pa.MemoryPool] = []


def ipc(*tables: pa.Table, **options: Any) -> bytes:
    """One stream of a batch a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        for table in tables:
            stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def of(who: Any, **more: Any) -> pa.Table:
    return pa.table({"who": who, "at": pa.array(np.arange(len(who)), pa.int64()), **more})


def of_one_text(text: str, count: int, whole: int = 1) -> pa.Array:
    """A dictionary whose first text is named by every row."""
    words = pa.array([text, *(f"word {number}" for number in range(whole - 1))])
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), words)


def views_of(text: bytes, count: int) -> pa.Array:
    view = np.array([len(text), int.from_bytes(text[:4], "little"), 0, 0], dtype="<i4")
    buffers = [None, pa.py_buffer(np.tile(view, count)), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string_view(), count, buffers)


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Told of all that Arrow allocates from here on."""
    before = pa.default_memory_pool()
    yield watched()
    pa.set_memory_pool(before)


def watched() -> pa.MemoryPool:
    POOLS.append(pa.proxy_memory_pool(pa.default_memory_pool()))
    return POOLS[-1]


def decoded(pool: pa.MemoryPool, *records: bytes) -> tuple[Decoded, int]:
    """What comes of records, and the most that was allocated meanwhile."""
    codec = codec_of(TOPIC)
    pa.set_memory_pool(pool)
    out = codec.decode(records)
    return out, pool.max_memory() or 0


def growing(steps: int, words: int) -> bytes:
    """A dictionary of long words, then a word more with every batch: the reader copies all of it each time."""
    texts = [f"{number:01000d}" for number in range(words)]
    tables = []
    for step in range(steps):
        texts.append(f"one more {step}")
        array = pa.DictionaryArray.from_arrays(pa.array([len(texts) - 1], pa.int32()), pa.array(texts))
        tables.append(pa.table({"who": array, "at": [step]}))
    return ipc(*tables, emit_dictionary_deltas=True)


LARGE = {
    "a dictionary": lambda: ipc(of(of_one_text("x" * 900_000, 800))),
    "views": lambda: ipc(of(views_of(b"x" * 900_000, 800))),
    "compressed texts": lambda: ipc(of(pa.array(["x" * (65 * MIB)])), compression="zstd"),
    "a column of nobody": lambda: ipc(of(["a"], more=pa.array([b"\0" * (100 * MIB)])), compression="zstd"),
    "compressed by lz4": lambda: ipc(of(["a"], more=pa.array([b"\0" * (100 * MIB)])), compression="lz4"),
    "a dictionary of nobody": lambda: ipc(of(["a"], more=of_one_text("x" * (100 * MIB), 1)), compression="zstd"),
    "a dictionary that grows": lambda: growing(300, 400),
}


@pytest.mark.parametrize("how", LARGE)
def test_a_record_that_becomes_too_large_is_a_dead_letter_before_it_is_there(how: str, pool: pa.MemoryPool) -> None:
    bomb, good = LARGE[how](), ipc(of(["a"]))
    assert len(bomb) < 10 * MIB
    out, most = decoded(pool, good, *[bomb] * 5, good)
    assert out.index.tolist() == [0, 6]
    assert [(one.index, one.reason) for one in out.rejected] == [(place, "too_large") for place in range(1, 6)]
    assert f"{64 * MIB} are the most" in out.rejected[0].detail
    assert most < 2 * MIB


def test_a_million_events_that_say_little_count_by_what_they_become() -> None:
    names = [f"c{number}" for number in range(9)]
    topic = Topic("t", {"at": "timestamp", **dict.fromkeys(names, int)}, "at", nullable=tuple(names), format="arrow")
    record = ipc(pa.table({"at": pa.array(np.ones(PLACES_MAX, np.int64))}), compression="zstd")
    assert len(record) < MIB
    [one] = codec_of(topic).decode([record]).rejected
    assert (one.reason, one.position) == ("too_large", None)


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=300),
    compression=st.sampled_from([None, "zstd", "lz4"]),
    is_dictionary=st.booleans(),
    times=st.integers(1, 3),
)
def test_what_a_stream_declares_is_what_is_allocated(
    texts: list[str | None], compression: str | None, is_dictionary: bool, times: int
) -> None:
    array = pa.array(texts, pa.string())
    table = pa.table({"who": array.dictionary_encode() if is_dictionary else array, "n": pa.array(range(len(texts)))})
    record = ipc(*[table] * times, compression=compression)
    pool = watched()
    read = pa.ipc.open_stream(pa.BufferReader(record), memory_pool=pool).read_all()
    assert len(read) == times * len(texts)
    allocated = pool.max_memory() or 0
    # Besides the values a reader allocates a little of its own.
    assert bytes_in_memory(record) <= allocated <= bytes_in_memory(record) + 512 * 8 * times


@pytest.mark.parametrize("most", [1, 30, 500])
def test_a_batch_that_is_decoded_part_by_part_is_the_same_batch(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "PART_BYTES_MAX", most)
    wrong = of(["a", None, "c"], n=pa.array([1, 2, 2**64 - 1], pa.uint64()))
    records = [ipc(of(["a", "b"])), None, b"?", ipc(wrong), ipc(of(of_one_text("long " * 20, 3))), ipc(of(["e"]))]
    topic = Topic("t", {"who": str, "at": "timestamp"}, "at", format="arrow", lengths={"who": (1, 50)})
    for codec in (codec_of(TOPIC), codec_of(topic)):
        first, taken, bad = 0, [], []
        while first < len(records):
            part, count = codec.decode_first(records[first:])
            assert count > 0
            taken += [(first + at, row) for at, row in zip(part.index.tolist(), rows(part), strict=True)]
            bad += [(first + one.index, one.position, one.reason) for one in part.rejected]
            first += count
        whole = codec.decode(records)
        assert taken == list(zip(whole.index.tolist(), rows(whole), strict=True))
        assert bad == [(one.index, one.position, one.reason) for one in whole.rejected]
        # One of two bytes and one of a hundred do not come together.
        _, count = codec.decode_first(records)
        assert count < len(records)


def test_who_decodes_more_at_once_than_a_column_holds_is_told_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "WHOLE_BYTES_MAX", 100)
    out = codec_of(TOPIC).decode([ipc(of(["a" * 200])), ipc(of(["b"])), None])
    assert out.index.tolist() == [0]
    assert [(one.index, one.reason) for one in out.rejected] == [(1, "too_large"), (2, "too_large")]
    assert "decode fewer at once" in out.rejected[0].detail


def test_an_engine_applies_what_is_decoded_part_by_part_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def batch(partition: int, first: int) -> Batch:
        good = [ipc(of([f"{partition} {number}", "x"])) for number in range(5)]
        values = [*good[:2], b"?", *good[2:]]
        offsets = np.arange(len(values)) * 2 + first
        return Batch("t", partition, first, int(offsets[-1]) + 3, values, offsets, np.full(len(values), SECOND_US))

    def applied(folder: str) -> tuple[Any, ...]:
        log, letters = EventLog(tmp_path / folder, TOPIC), Letters()
        engine = Engine(TOPIC, "id", [], 60 * SECOND_US, log, letters, lambda: 0)
        for partition in (0, 1):
            engine.open(partition)
        # Between two batches with records lies one that only passes markers.
        empty = Batch("t", 1, 0, 5, [], np.empty(0, np.int64), np.empty(0, np.int64))
        engine.apply(batch(0, 0), empty)
        engine.apply(empty, batch(0, 13), batch(1, 5))
        engine.flush()
        kept = [log.between(partition, 0, 99, ["offset", "position", "who"]).to_pylist() for partition in (0, 1)]
        places = [(letter.partition, letter.offset, letter.reason) for letter in letters.held.values()]
        return kept, places, replace(engine.counts, batches=0), {p: mark.offset for p, mark in engine.marks().items()}

    whole = applied("whole")
    assert whole[3] == {0: 26, 1: 18}
    codec: type[Codec] = arrow.ArrowCodec
    counts: list[int] = []
    plain = codec.decode_first

    def noted(self: Any, payloads: Any) -> tuple[Decoded, int]:
        out, count = plain(self, payloads)
        counts.append(count)
        return out, count

    monkeypatch.setattr(codec, "decode_first", noted)
    monkeypatch.setattr(arrow, "PART_BYTES_MAX", 60)
    assert applied("parts") == whole
    assert max(counts) < 6


@pytest.mark.parametrize("most", [1, 150, 400])
def test_batches_of_many_bytes_are_decoded_part_by_part_and_applied_alike(most: int, tmp_path: Path) -> None:
    topic = Topic("t", {"who": str, "at": "timestamp"}, "at")
    sizes: list[int] = []

    class Noted(JsonCodec):
        def decode_first(self, payloads: Sequence[bytes | None]) -> tuple[Decoded, int]:
            sizes.append(sum(len(payload or b"") for payload in payloads[:-1]))
            return super().decode_first(payloads)

    def batch(partition: int, first: int, values: list[bytes | None]) -> Batch:
        offsets = np.arange(len(values)) * 2 + first
        end = int(offsets[-1]) + 3 if values else first + 5
        return Batch("t", partition, first, end, values, offsets, np.full(len(values), SECOND_US))

    good: list[bytes | None] = [b'{"who": "%s", "at": 1}' % (b"x" * size) for size in (1, 90, 3, 200, 0, 40)]
    first, second = batch(0, 0, [*good[:3], None, b"?"]), batch(0, 11, good)
    assert first.end_offset == second.first_offset

    def applied(folder: str, bytes_max: int = PART_BYTES_MAX) -> tuple[Any, ...]:
        log, letters = EventLog(tmp_path / folder, topic), Letters()
        codec = Noted(topic)
        engine = Engine(topic, "id", [], 60 * SECOND_US, log, letters, lambda: 0, codec=codec, part_bytes_max=bytes_max)
        for partition in (0, 1, 2):
            engine.open(partition)
        engine.apply(first.followed_by([second]), batch(2, 0, []), batch(1, 0, good))
        engine.flush()
        kept = [log.between(partition, 0, 99, ["offset", "who"]).to_pylist() for partition in (0, 1)]
        places = [(letter.partition, letter.offset, letter.reason) for letter in letters.held.values()]
        return kept, places, replace(engine.counts, batches=0), {p: mark.offset for p, mark in engine.marks().items()}

    whole = applied("whole")
    assert (len(sizes), whole[3]) == (1, {0: 24, 1: 13, 2: 5})
    sizes.clear()
    assert applied("parts", most) == whole
    # Without its last record a part is below the bound.
    assert len(sizes) > 2
    assert max(sizes) < most


def test_a_record_of_one_row_is_that_event_and_nothing_besides() -> None:
    words = of_one_text("w" * 90, 2_000, 6_000)
    record = ipc(
        of(words, n=pa.array([None, 7] * 1_000, pa.int16()), nested=pa.array([["x" * 500]] * 2_000)),
        of(words, n=pa.array([8] * 2_000, pa.int16()), nested=pa.array([["x" * 500]] * 2_000)),
    )
    codec = codec_of(TOPIC)
    all_rows = rows(codec.decode([record]))
    for place in (0, 1, 1_999, 2_000, 3_999):
        alone = one_row(record, place, COLUMNS)
        assert rows(codec.decode([alone])) == [all_rows[place]]
        assert len(alone) < 1_000
        table = pa.ipc.open_stream(alone).read_all()
        assert table.schema.remove_metadata() == table.schema
        # As it was written, not as it is read.
        assert table.schema.field("n").type == pa.int16()


def test_a_record_of_one_row_carries_no_text_that_the_contract_does_not_name() -> None:
    former = Topic("t", {"who": str, "at": "timestamp"}, "at", renamed={"who": ("name",)}, format="arrow")
    table = pa.table({"name": views_of(b"a long name here", 3), "at": [1, 2, 3], "more": ["m" * 1_000] * 3})
    alone = one_row(ipc(table.replace_schema_metadata({"by": "x" * 5_000})), 1, frozenset(("who", "name", "at")))
    assert pa.ipc.open_stream(alone).read_all().column_names == ["name", "at"]
    assert rows(codec_of(former).decode([alone])) == [{"who": "a long name here", "at": 2}]


def test_a_record_of_one_long_row_is_as_short_as_the_record_was() -> None:
    record = ipc(of(["x" * (8 * MIB), "y"]), compression="zstd")
    assert len(one_row(record, 0, COLUMNS)) <= len(record) < 10_000


def test_a_null_of_a_dictionary_is_no_value() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["a", None]))
    out = codec_of(TOPIC).decode([ipc(of(words))])
    assert [row["who"] for row in rows(out)] == ["a", "a"]
    assert [(one.position, one.reason) for one in out.rejected] == [(1, "missing_field")]


def test_dictionaries_of_views_are_of_no_type_of_the_contract() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0]), views_of(b"a long name here", 1))
    [one] = codec_of(TOPIC).decode([ipc(of(words))]).rejected
    assert one.reason == "incompatible_schema"
