"""What the values of a topic must keep to beside their types: ranges, lengths, choices, and names of before.

Checked and brought to one form when a topic is built; `streams.codecs.contract` holds events to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, get_args

from featurestore.errors import DefinitionError, UnknownColumnError
from featurestore.kernel import DataType, decimal_type
from featurestore.spec.names import checked_name

Format = Literal["json", "avro", "protobuf", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)

# What the event log says of every event, beside the event itself.
_LOGGED = ("partition", "offset", "event_us", "effective_us", "arrival_us", "late_by_us", "date")

Bound = int | float | Decimal | None
Bounds = tuple[Bound, Bound]


def log_columns(format: Format) -> tuple[str, ...]:
    """Columns of a topic's event log that are the log's own, in their order."""
    # Where a record holds many events, its offset does not tell them apart.
    return (*_LOGGED[:2], "position", *_LOGGED[2:]) if format == "arrow" else _LOGGED


def checked_format(owner: str, written: object, types: Mapping[str, DataType]) -> Format:
    """One of the formats that events of a topic may have, and that has names such as those of the columns."""
    for each in FORMATS:
        if written == each:
            unnamed = next((column for column in types if "-" in column), None)
            if unnamed is not None and each in ("avro", "protobuf"):
                raise DefinitionError(f"column {unnamed!r} of {owner} cannot be said in {each}; write '_' for '-'")
            exact = next((column for column, kind in types.items() if decimal_type(kind)), None)
            if exact is not None and each != "json":
                raise DefinitionError(
                    f"column {exact!r} of {owner} is a decimal, which only the format 'json' has yet; "
                    "use whole numbers of the smallest unit"
                )
            return each
    raise DefinitionError(f"{owner} has format {written!r}; use one of {', '.join(map(repr, FORMATS))}")


def checked_ranges(owner: str, written: Mapping[str, Any], types: Mapping[str, DataType]) -> dict[str, Bounds]:
    """Column -> (least, most), both of them allowed values, None where an end is open."""
    out = {}
    for column, bounds in written.items():
        kind = _kind(owner, column, types, ("int64", "float64", "decimal"), "a range is for int, float and decimals")
        least, most = _pair(owner, column, bounds, "a range such as (0, 100) or (0, None)")
        low, high = _number(owner, column, least, kind), _number(owner, column, most, kind)
        if low is not None and high is not None and low > high:
            raise DefinitionError(
                f"the range of column {column!r} of {owner} goes from {low} down to {high}; swap them"
            )
        out[column] = (low, high)
    return out


def checked_lengths(owner: str, written: Mapping[str, Any], types: Mapping[str, DataType]) -> dict[str, Bounds]:
    """Column -> (least, most) characters of its text; one number is the most."""
    out = {}
    for column, bounds in written.items():
        _kind(owner, column, types, ("string",), "a length is for str")
        pair = (0, bounds) if type(bounds) is int else bounds
        least, most = _pair(owner, column, pair, "a length such as 64 or (2, 3)")
        for each in (least, most):
            if each is not None and (type(each) is not int or each < 0):
                raise DefinitionError(f"length {each!r} of column {column!r} of {owner} is no count of characters")
        if least is not None and most is not None and least > most:
            raise DefinitionError(f"no text of column {column!r} of {owner} has {least} to {most} characters")
        out[column] = (least, most)
    return out


def checked_choices(
    owner: str, written: Mapping[str, Any], types: Mapping[str, DataType]
) -> dict[str, tuple[Any, ...]]:
    """Column -> the only values that it may have, in the author's order."""
    out = {}
    for column, values in written.items():
        kind = _kind(owner, column, types, ("string", "int64"), "choices are for str and int")
        wanted = str if kind == "string" else int
        if isinstance(values, str) or not isinstance(values, Sequence | set | frozenset) or not values:
            raise DefinitionError(f"choices of column {column!r} of {owner} are {values!r}; write a list of values")
        chosen = tuple(sorted(values) if isinstance(values, set | frozenset) else dict.fromkeys(values))
        for each in chosen:
            if type(each) is not wanted or (type(each) is int and not -(2**63) <= each < 2**63):
                raise DefinitionError(f"choice {each!r} of column {column!r} of {owner} is not of type {kind}")
        out[column] = chosen
    return out


def checked_columns(owner: str, columns: Iterable[str], format: Format) -> None:
    """Raises DefinitionError at a column that the event log could not tell from one of its own."""
    own = log_columns(format)
    for column in columns:
        if column in own:
            way = "" if format == "json" else f", with renamed={{'its_{column}': {column!r}}} where writers have it"
            raise DefinitionError(
                f"column {column!r} of {owner} is called like one of its event log's own ({', '.join(own)}); "
                f"choose another name, such as 'its_{column}'{way}"
            )


def checked_renamed(
    owner: str, written: Mapping[str, Any], types: Mapping[str, DataType], format: Format
) -> dict[str, tuple[str, ...]]:
    """Column -> names that writers may still have for it, nearest first."""
    if written and format == "json":
        raise DefinitionError(
            f"{owner} has renamed columns, which need a format whose events name their schema; "
            "use format='avro', 'protobuf' or 'arrow', or send both names for a while"
        )
    out: dict[str, tuple[str, ...]] = {}
    for column, names in written.items():
        if column not in types:
            raise UnknownColumnError(owner, column, types)
        out[column] = (names,) if isinstance(names, str) else tuple(names)
        for name in out[column]:
            if checked_name("former column", name) in types or sum(name in each for each in out.values()) > 1:
                raise DefinitionError(
                    f"{name!r} cannot be a former name of column {column!r} of {owner}: it has an owner"
                )
    return out


def _kind(owner: str, column: str, types: Mapping[str, DataType], allowed: tuple[str, ...], said: str) -> DataType:
    if column not in types:
        raise UnknownColumnError(owner, column, types)
    if ("decimal" if decimal_type(types[column]) else types[column]) not in allowed:
        raise DefinitionError(f"{said}, but column {column!r} of {owner} is {types[column]}")
    return types[column]


def _pair(owner: str, column: str, written: object, wanted: str) -> tuple[Any, Any]:
    if isinstance(written, tuple | list) and len(written) == 2 and not written[0] is written[1] is None:
        return written[0], written[1]
    raise DefinitionError(f"column {column!r} of {owner} has the bounds {written!r}; write {wanted}")


def _number(owner: str, column: str, bound: object, kind: DataType) -> Bound:
    """A bound in the column's own type, so that comparing rounds nothing."""
    if bound is None:
        return None
    exact = decimal_type(kind)
    if exact is not None:
        try:
            return exact.exactly(bound)  # type: ignore[arg-type]  # what is no number is refused there
        except ValueError as error:
            raise DefinitionError(f"bound {bound!r} of column {column!r} of {owner}: {error}") from error
    if type(bound) not in (int, float) or math.isnan(bound):  # type: ignore[arg-type]  # tested just before
        raise DefinitionError(f"bound {bound!r} of column {column!r} of {owner} is no number; use None for an open end")
    assert isinstance(bound, int | float)
    if kind == "float64":
        if type(bound) is int and int(float(bound)) != bound:
            raise DefinitionError(f"bound {bound!r} of column {column!r} of {owner} is between two floats; use another")
        return float(bound)
    if bound != math.floor(bound) if math.isfinite(bound) else True:
        raise DefinitionError(f"bound {bound!r} of int column {column!r} of {owner} is no whole number")
    if not -(2**63) <= int(bound) < 2**63:
        raise DefinitionError(f"bound {bound!r} of column {column!r} of {owner} is beyond int64; use None")
    return int(bound)
