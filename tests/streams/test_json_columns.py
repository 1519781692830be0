"""The compiled reader of plain JSON is held to msgspec: the same values, the same refusals, whatever the bytes are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore import Topic
from streams.codecs.json import JsonCodec

TOPIC = Topic(
    "t",
    schema={"who": str, "at": "timestamp", "n": int, "x": float, "ok": bool, "why": str},
    event_time="at",
    nullable=("x", "ok", "why"),
)
CODEC = JsonCodec(TOPIC)

# Of the year 10,000, by its zone.
LATE = "9999-12-31T23:59:59-01:00"
_TEXTS = st.text(max_size=8) | st.sampled_from(["", "ключ", "𐍈 + 🂡", "\u00e9", 'a"b', "back\\slash", "tab\t"])
_NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [0, -0.0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 5e-324, 1.7976931348623157e308, 0.1, 1e22]
    )
)
_NUMERALS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
_ANY = _TEXTS | _NUMBERS | st.booleans() | st.none() | st.lists(st.integers(), max_size=2) | st.just({"deep": [1]})


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Mostly good records, in any spelling; some of them wrong, broken or cut."""
    event: dict[str, Any] = {
        "who": draw(st.text("aé𐍈", max_size=3)),
        "at": draw(st.integers(0, 253_402_300_799_999_999)),
        "n": draw(st.integers(-(10**18), 10**18)),
        "x": draw(_NUMBERS | st.none()),
        "ok": draw(st.booleans() | st.none()),
        "why": draw(st.text("bß🂡", max_size=3) | st.none()),
    }
    if draw(st.integers(0, 2)) == 0:
        odd = {
            "who": _TEXTS,
            "at": st.sampled_from([-1, 253_402_300_800_000_000, "2026-01-01T00:00:00Z", "1969-01-01", LATE]),
            "n": st.integers(-(2**64), 2**64),
        }
        name = draw(st.sampled_from(sorted(event)))
        match draw(st.integers(0, 2)):
            case 0:
                event.pop(name)
            case 1:
                event[name] = draw(_ANY)
            case _:
                event[name] = draw(odd.get(name, _ANY))
    for _ in range(draw(st.integers(0, 2))):
        event[draw(st.sampled_from(["wh", "whom", "more", "", "N"]))] = draw(
            _NUMBERS | st.booleans() | st.none() | _ANY
        )
    names = draw(st.permutations(sorted(event)))
    space = draw(st.sampled_from(["", " ", "\n", "\r\t "]))
    ascii_only = draw(st.booleans())
    parts = [f"{json.dumps(name)}{space}:{space}{json.dumps(event[name], ensure_ascii=ascii_only)}" for name in names]
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(st.sampled_from(parts)) if parts else "")
    if draw(st.integers(0, 3)) == 0:
        parts.append(f'"x":{draw(_NUMERALS)}')
        parts = [part for part in parts[:-1] if not part.startswith('"x"')] + parts[-1:]
    text = f"{space}{{{space}{f'{space},{space}'.join(parts)}{space}}}{space}"
    raw = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=2)) + raw[at + draw(st.integers(0, 2)) :]
    return raw


def _told(payloads: Sequence[bytes | None], *, plain: bool) -> Any:
    told = CODEC.decode(payloads) if plain else CODEC._decode_one_by_one(payloads, np.arange(len(payloads)))
    columns = {name: [_exact(value) for value in array.to_pylist()] for name, array in told.arrays.items()}
    for array in told.arrays.values():
        array.validate(full=True)
    return told.index.tolist(), columns, list(told.rejected)


def _exact(value: object) -> object:
    return (value, math.copysign(1.0, value)) if isinstance(value, float) else value


@settings(deadline=None, max_examples=400)  # the first one may have to compile the loop
@given(st.lists(records() | st.none() | st.binary(max_size=12), max_size=6))
@example(
    [b'{"who":"a","at":1,"n":2,"x":-0}', b'{"who":"a","at":1,"n":-0,"x":-0.0}', b'{"who":"a","at":1,"n":2,"x":1e400}']
)
@example([b'{"who":"a","at":1,"n":2,"ok":true},{"who":"b","at":1,"n":2}', b'{"who":"c","at":1,"n":2,"z":[{}', b"{}]}"])
@example([b'{"who":"a","at":"2026-01-01T00:00:00Z","n":2}', b'{"who":"a","at":"2026-01-01","n":2}'])
@example([b'{"who":"a","at":"9999-12-31T23:59:59Z","n":2}', b'{"who":"a","at":"%s","n":2}' % LATE.encode()])
@example([b'{"x":1e400,"n":2}', b'{"x":1e400 1}', b'{"x":1e400,"n":null}', b'{"more":1e400,"n":null}'])
@example([b'{"who":"a","at":1,"n":2,"\xef":1}', b'{"who":"a","at":1,"n":2,"more":"\xff"}'])
@example([b'{"who":"\xed\xa0\x80","at":1,"n":2}', b'{"who":"\xc3","at":1,"n":2}', b'{"who":"a","at":1,"n":2}\x00'])
def test_a_batch_says_what_msgspec_says_of_each_record_alone(payloads: list[bytes | None]) -> None:
    assert _told(payloads, plain=True) == _told(payloads, plain=False)


@settings(deadline=None)
@given(_NUMERALS)
def test_a_float_is_the_nearest_float64_of_its_digits(numeral: str) -> None:
    told = _told([b'{"who":"a","at":1,"n":2,"x":%s}' % numeral.encode()], plain=True)
    # JSON's whole number -0 has no sign.
    wanted = 0.0 if numeral == "-0" else float(numeral)
    assert told[1]["x"] == ([_exact(wanted)] if math.isfinite(wanted) else [])


def test_plain_records_need_no_python_object_each() -> None:
    plain = [b'{"who": "a", "at": 1, "n": 2, "x": 0.25, "more": "\xc3\xa9", "ok": true}', b'{"n":1,"at":2,"who":""}']
    assert CODEC._reader is not None
    read = CODEC._reader.read(plain)
    assert np.array_equal(read.index, [0, 1])
    assert not len(read.unsure)


_GOOD = b'{ "who":"a", "at":1 ,"n":2,"x" : 0.5,"more":null,"ok":true,"why":null}'


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, len(_GOOD)), st.integers(0, 9), st.binary(max_size=2)), min_size=1, max_size=8)
)
def test_a_refusal_has_the_words_of_msgspec_wherever_a_record_breaks(cuts: list[tuple[int, int, bytes]]) -> None:
    payloads = [_GOOD[:at] + new + _GOOD[at + gone :] for at, gone, new in cuts]
    payloads += [_GOOD[:at] for at, _, _ in cuts]
    assert _told(payloads, plain=True) == _told(payloads, plain=False)


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("broken_json", b""),
        ("broken_json", b'{"who":"a","at":1'),
        ("broken_json", b'{"who":"a" "at":1}'),
        ("broken_json", b'{"who";"a"}'),
        ("broken_json", b'{"who":"a",at:1}'),
        ("broken_json", b'{"who":"a","at":1,"n":2}}'),
        ("missing_field", b'{"who":"a","n":2,"x":1}'),
        ("wrong_type", b'{"who":null,"n":2}'),
        ("wrong_type", b'{"who":["a"],"n":2}'),
        ("wrong_type", b'{"who":"a","n":{}}'),
        ("wrong_type", b'{"who":"a","at":1,"n":"2"}'),
        ("wrong_type", b'{"who":"a","at":1,"x":true}'),
    ],
)
def test_the_usual_faults_are_told_without_asking_msgspec(reason: str, payload: bytes) -> None:
    assert CODEC._reader is not None
    read = CODEC._reader.read([_GOOD, payload, None])
    [refused] = read.rejected
    assert (refused.index, refused.reason) == (1, reason)
    assert read.unsure.tolist() == [2]
    assert list(CODEC._decode_one_by_one([payload], np.arange(1)).rejected) == [
        msgspec.structs.replace(refused, index=0)
    ]


def test_records_cannot_lend_each_other_their_brackets() -> None:
    # Joined by commas, the four would be four events, two of them from the first record.
    payloads = [
        b'{"who":"a","at":1,"n":1},{"who":"b","at":1,"n":2}',
        b'{"who":"c","z":[{}',
        b'{}],"at":1,"n":3}',
        b"{}",
    ]
    assert CODEC.decode(payloads).index.tolist() == []
