"""A file is checked and sent in bounded parts, wherever it comes from."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import Topic
from featurestore.errors import InvalidEventError, LinesNotAcknowledgedError
from featurestore.local import LocalStack
from streams import send
from streams.producer import EventProducer
from streams.send import Fate, Part, checked, opened
from streams.topics import Topics

TOPIC = Topic("steps", schema={"user": str, "at": "timestamp"}, event_time="at", key="user")
LINE = b'{"user": "a", "at": 5}\n'


def test_parts_are_bounded_in_lines_and_in_bytes_and_hold_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b'{"user": "u%02d", "at": 5}' % number for number in range(25)]
    text = b"\n\n".join(lines)
    for bound, sizes in (("_PART_LINES", [10, 10, 5]), ("_PART_BYTES", [5, 5, 5, 5, 5])):
        with monkeypatch.context() as patched:
            patched.setattr(send, bound, 10 if bound == "_PART_LINES" else 120)
            parts = list(checked(TOPIC, io.BytesIO(text)))
        assert [len(part) for part in parts] == sizes
        assert [line for part in parts for line in part.lines] == lines
        assert sum(part.read_bytes for part in parts) == len(text)


def test_an_empty_file_has_no_parts() -> None:
    assert list(checked(TOPIC, io.BytesIO(b""))) == []
    assert list(checked(TOPIC, io.BytesIO(b"\n \n"))) == []


def test_a_line_that_breaks_the_contract_is_named_by_its_number_in_the_file() -> None:
    with pytest.raises(InvalidEventError, match=r"line 4: missing_field"):
        list(checked(TOPIC, io.BytesIO(LINE + b"\n\n" + b'{"user": "a"}\n' + LINE)))


def test_lines_that_were_checked_together_are_not_checked_again_one_by_one(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    bounded = Topic(
        unique("bounded"), {"user": str, "at": "timestamp"}, "at", key="user", choices={"user": ["a"]}, partitions=1
    )
    Topics(stack.kafka_bootstrap).create([bounded], "sends")
    broken = b'{"user": "b", "at": 5}'
    with pytest.raises(InvalidEventError, match="line 1"):
        list(checked(bounded, io.BytesIO(broken)))
    fate = Fate(bounded.name)
    with EventProducer(stack.kafka_bootstrap) as producer:
        with pytest.raises(InvalidEventError):
            producer.send_json(bounded, broken)
        # None that `checked` would give; what it gave is known to be good.
        Part(bounded, [broken], [1], len(broken)).send(producer, fate)
    fate.check()
    assert fate.acknowledged == 1


def test_a_line_without_an_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_LINE_BYTES_MAX", 1 << 20)
    source = io.BytesIO(LINE + b" " * (3 << 20))
    with pytest.raises(InvalidEventError, match="line 2 is longer than 1 MiB"):
        list(checked(TOPIC, source))
    assert source.tell() == len(LINE) + (1 << 20) + 1


def test_a_pipe_can_be_read_from_its_beginning_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(LINE * 3))
    writer.start()
    with opened(pipe) as source:
        for _ in range(2):
            source.seek(0)
            assert source.read() == LINE * 3
    writer.join()


def test_what_came_to_the_end_of_a_file_after_it_was_checked_is_not_read() -> None:
    source = io.BytesIO(LINE * 3)
    assert sum(map(len, checked(TOPIC, source, 3 * len(LINE)))) == 3
    source.write(b'{"user": "half a')
    source.seek(len(LINE))
    assert sum(map(len, checked(TOPIC, source, 2 * len(LINE)))) == 2


def test_lines_are_refused_unanswered_or_there_and_many_refusals_end_the_sending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send, "_REFUSED_MAX", 2)
    fate = Fate("steps")
    fate.check()
    for lines, answers in (([1], [None]), ([2, 5], ["too large"]), ([3], []), ([4], ["too large"])):
        assert fate.goes_on()
        answered = fate.begun(lines)
        for answer in answers:
            answered(answer)
    assert not fate.goes_on()
    with pytest.raises(LinesNotAcknowledgedError) as told:
        fate.check()
    error = told.value
    assert (error.acknowledged, error.refused, error.unsure, error.ended_at) == (1, (2, 4, 5), (3,), 5)
    assert "lines 2, 4-5 (too large); mend these lines and send only them and those after line 5" in str(error)
    assert "without an answer, so there or not: line 3" in str(error)
