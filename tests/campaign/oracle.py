"""The oracle: what every sink must hold, from the acknowledged sends alone, in exact arithmetic.

Written from docs/semantics.md over plain Python values. It shares no code with the kernel, the codecs or the engine,
and none with the naive twin of the kernel's tests either.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from tests.campaign.recorder import Sent

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
FUTURE_US = 300 * SECOND_US
# What the log says of a repeat: later than any view waits.
REPEATED_US = (1 << 63) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = 253_402_300_799_999_999
# Every float64 is a whole number of these.
_ULP = 1 << 1074
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the topic: "text", "float", "int", "moment" or "decimal".

    digits  that a decimal may have, of which so many `places` are behind its point
    """

    kind: str
    nullable: bool = False
    digits: int = 0
    places: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A served value: a function of a column over a window, None for all of time."""

    function: str
    column: str | None
    window_us: int | None = None
    slide_us: int = 1


@dataclass(frozen=True, slots=True)
class View:
    name: str
    key: str
    lateness_us: int
    outputs: dict[str, Output]


@dataclass(frozen=True, slots=True)
class Contract:
    """A topic with its views, as the campaign states them a second time for the oracle.

    dedupe     the column of event ids, None where repeats count like any other event
    within_us  how long an id is remembered, by the newest event time of its partition
    """

    columns: dict[str, Column]
    event_time: str
    views: tuple[View, ...]
    dedupe: str | None = None
    within_us: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A record that keeps the contract and is not of the future."""

    partition: int
    offset: int
    event_us: int
    effective_us: int
    arrival_us: int
    late_by_us: int
    values: dict[str, Any]

    @property
    def order(self) -> tuple[int, int, int]:
        return self.effective_us, self.partition, self.offset


class RefusedError(Exception):
    """The record breaks the contract."""


@dataclass(slots=True)
class Expected:
    """What must be.

    logged  place -> event: the rows of the log, each once
    dead    place -> "refused", "future" or "too_late": the letters, each once
    ends    partition -> the next offset after the last acknowledged record
    """

    contract: Contract
    logged: dict[tuple[int, int], Event]
    dead: dict[tuple[int, int], str]
    payloads: dict[tuple[int, int], bytes | None]
    ends: dict[int, int]

    def entities(self, view: View) -> dict[str, list[Event]]:
        """The events that a view takes, by entity, in the order that breaks ties."""
        out: dict[str, list[Event]] = defaultdict(list)
        for event in self.logged.values():
            if event.late_by_us <= view.lateness_us and event.values[view.key] is not None:
                out[event.values[view.key]].append(event)
        for events in out.values():
            events.sort(key=lambda event: event.order)
        return dict(out)

    @property
    def newest_us(self) -> int:
        return max((event.effective_us for event in self.logged.values()), default=0)

    @property
    def repeats(self) -> int:
        """Events that are in the log and count for nothing."""
        return sum(event.late_by_us == REPEATED_US for event in self.logged.values())


def expect(contract: Contract, sent: Iterable[Sent], means: Mapping[bytes, bytes] = MappingProxyType({})) -> Expected:
    """Judge every acknowledged record, partition by partition, in offset order.

    means  a record of another format -> the same in JSON; every other record is JSON, or no event
    """
    logged: dict[tuple[int, int], Event] = {}
    dead: dict[tuple[int, int], str] = {}
    payloads: dict[tuple[int, int], bytes | None] = {}
    ends: dict[int, int] = {}
    newest_us: dict[int, int] = defaultdict(int)
    # Partition and id -> the partition's newest event time when an event of that id was taken last.
    taken_us: dict[tuple[int, Any], int] = {}
    patience_us = max(view.lateness_us for view in contract.views)
    for one in sorted(sent, key=lambda one: (one.partition, one.offset)):
        place = (one.partition, one.offset)
        if place in payloads:
            raise AssertionError(f"the broker acknowledged two records at {place}")
        payloads[place], ends[one.partition] = one.payload, one.offset + 1
        try:
            values = read(contract, None if one.payload is None else means.get(one.payload, one.payload))
        except RefusedError:
            dead[place] = "refused"
            continue
        arrival_us = one.stamp_ms * 1_000 + 999
        event_us = values[contract.event_time]
        if event_us - arrival_us > FUTURE_US:
            dead[place] = "future"
            continue
        effective_us = min(event_us, arrival_us)
        late_by_us = max(newest_us[one.partition] - effective_us, 0)
        newest_us[one.partition] = max(newest_us[one.partition], effective_us)
        if contract.dedupe is not None and values[contract.dedupe] is not None:
            named, now_us = (one.partition, values[contract.dedupe]), newest_us[one.partition]
            if named in taken_us and now_us - taken_us[named] <= contract.within_us:
                logged[place] = Event(*place, event_us, effective_us, arrival_us, REPEATED_US, values)
                continue
            taken_us[named] = now_us
        logged[place] = Event(*place, event_us, effective_us, arrival_us, late_by_us, values)
        if late_by_us > patience_us:
            dead[place] = "too_late"
    return Expected(contract, logged, dead, payloads, ends)


def value(output: Output, events: list[Event], moment_us: int) -> Any:
    """One value of one entity at a moment; `events` in their order."""
    end = bisect_right(events, moment_us, key=lambda event: event.effective_us)
    first = 0
    if output.window_us is not None:
        begin_us = (moment_us - output.window_us) // output.slide_us * output.slide_us
        first = bisect_left(events, begin_us, key=lambda event: event.effective_us)
    chosen = events[first:end]
    if output.function == "count":
        return len(chosen)
    assert output.column is not None
    values = [event.values[output.column] for event in chosen if event.values[output.column] is not None]
    return _FUNCTIONS[output.function](values) if values else None


def _sum(values: list[Any]) -> Any:
    if isinstance(values[0], Fraction):
        return sum(values)
    if isinstance(values[0], int):
        total = sum(values)
        return total if -(1 << 63) <= total < 1 << 63 else None
    whole = 0
    for one in values:
        upper, lower = one.as_integer_ratio()
        whole += upper * (_ULP // lower)
    try:
        return float(Fraction(whole, _ULP))
    except OverflowError:
        return float("inf") if whole > 0 else float("-inf")


def _plain_zero(one: Any) -> Any:
    return 0.0 if isinstance(one, float) and one == 0 else one


_FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": _sum,
    "min": lambda values: _plain_zero(min(values)),
    "max": lambda values: _plain_zero(max(values)),
    "last": lambda values: values[-1],
}


def read(contract: Contract, payload: bytes | None) -> dict[str, Any]:
    """The columns of a record; raises RefusedError where it breaks the contract."""
    if not payload:
        raise RefusedError("nothing")
    try:
        said = json.loads(payload.decode("utf-8"), parse_constant=_no_constant, parse_float=_Written)
    except (ValueError, RecursionError) as error:
        raise RefusedError(str(error)) from error
    if not isinstance(said, dict):
        raise RefusedError("not an object")
    _check_text(said)
    out = {}
    for name, column in contract.columns.items():
        if name not in said and not column.nullable:
            raise RefusedError(f"{name} is missing")
        out[name] = _typed(name, column, said.get(name))
    return out


class _Written(float):
    """A number with a point or an exponent, and its digits as they stand."""

    def __init__(self, text: str) -> None:
        self.text = text


def _typed(name: str, column: Column, given: Any) -> Any:
    if given is None and column.nullable:
        return None
    if isinstance(given, bool):
        raise RefusedError(f"{name} is a truth")
    match column.kind, given:
        case "text", str():
            return given
        case "int", int() if -(1 << 63) <= given < 1 << 63:
            return given
        case "float", int() | float():
            try:
                number = float(given)
            except OverflowError as error:
                raise RefusedError(f"{name} is too large") from error
            if number in (float("inf"), float("-inf")):
                raise RefusedError(f"{name} is too large")
            return number
        case "decimal", str() | int() | _Written():
            return _decimal(name, column, given.text if isinstance(given, _Written) else str(given))
        case "moment", int() if 0 <= given <= _LAST_US:
            return given
        case "moment", str():
            return _moment(name, given)
    raise RefusedError(f"{name} is {type(given).__name__}")


def _decimal(name: str, column: Column, text: str) -> Fraction:
    """The number, which nothing rounds: it is refused where the column has too few digits for it."""
    if not _DECIMAL.fullmatch(text):
        raise RefusedError(f"{name} is no number")
    number = Fraction(text)
    whole = number * 10**column.places
    if whole.denominator != 1 or abs(whole) >= 10**column.digits:
        raise RefusedError(f"{name} has too many digits")
    return number


def _moment(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RefusedError(f"{name}: {error}") from error
    if moment.tzinfo is None or moment < _EPOCH:
        raise RefusedError(f"{name} has no zone or is before 1970")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _check_text(value: Any) -> None:
    """JSON's escapes can say half a character, which UTF-8 cannot."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RefusedError("half a character") from error
    elif isinstance(value, dict):
        for name, each in value.items():
            _check_text(name)
            _check_text(each)
    elif isinstance(value, list):
        for each in value:
            _check_text(each)
