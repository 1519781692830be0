"""A plan as tables of numbers: what the compiled loops over packed rows are told.

Enter: the levels of a plan. Leave: tables, or None where a level holds what no fixed-width record can (strings, lists,
sketches, an author's own aggregate): such rows go the NumPy way. Promise: both ways write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featurestore.kernel.aggregates.compiled import given
from featurestore.kernel.aggregates.counting import CountPartial
from featurestore.kernel.aggregates.extremes import ExtremePartial
from featurestore.kernel.aggregates.order import OrderPartial
from featurestore.kernel.aggregates.partial import Partial
from featurestore.kernel.aggregates.plain import asked
from featurestore.kernel.aggregates.sums import ProductPartial, SumPartial
from featurestore.kernel.events import DataType, Events
from featurestore.kernel.tilings import Single

if TYPE_CHECKING:
    from featurestore.kernel.plan import Level, Output

Ints = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int32]

# Kinds of partials, and the columns of the table of operations.
COUNT, SUM, LEAST, MOST, FIRST, LAST = range(6)
KIND, COLUMN, IS_FLOAT, SLOT, WORDS = range(5)
# The columns of the table of sums: power, which rung of the header (-1: whole numbers, which have one width), and up to
# four factors.
POWER, RUNG_PLACE, FACTORS = 0, 1, 2
_FACTORS_MAX = 4
# The columns of the table of finishes: kind (of COUNT, SUM, MEAN, LEAST and MOST), and which reads count and hold its
# values.
MEAN = 6
FINISH, COUNTER, VALUE = range(3)
_FINISHES = {"count": COUNT, "sum": SUM, "mean": MEAN, "min": LEAST, "max": MOST}
# The partner of a minimum that is found together with the maximum before it.
FOUND_BEFORE = -2
# Digits that one value's product can have: four factors of 64 bits, at any shift.
DIGITS_MAX = 12


@dataclass(frozen=True, slots=True)
class Program:
    """The partials of all levels as numbers.

    operations   (operations, 5) kind, column, whether the column holds floats, number of the sum, words of a record
    level_at     (levels + 1) where each level's operations begin
    sums         (sums, 6) power, place of the rung in the header, columns of the factors (-1: none)
    slots        the number of each sum, by the name of its partial
    columns      the events' columns that the tables point to
    is_float     (columns) whether each holds floats
    read         operations that plain outputs need, span by span; spans are the windows, level by level
    read_at      (spans + 1) where each span's begin
    partner      (reads) of a maximum of floats the read of their minimum, of that FOUND_BEFORE; elsewhere -1
    finishes     (plain, 3) kind, number of the read that counts, number of the one that holds the values
    plain        the outputs of these finishes
    """

    header_words: int
    operations: Shorts
    level_at: Shorts
    sums: Shorts
    slots: Mapping[str, int]
    columns: tuple[str, ...]
    is_float: npt.NDArray[np.bool_]
    read: Shorts
    read_at: Shorts
    partner: Shorts
    finishes: Shorts
    plain: tuple[Output, ...]

    def numbers(self, events: Events) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The columns as int64 (of floats the bits), and where they are not null: both (columns, n)."""
        values = np.zeros((len(self.columns), len(events)), dtype=np.int64)
        valid = np.ones((len(self.columns), len(events)), dtype=np.bool_)
        for index, name in enumerate(self.columns):
            column = events.columns[name]
            if self.is_float[index]:
                values[index] = column.values.astype(np.float64).view(np.int64)
            elif column.values.dtype.kind in "iub":
                values[index] = column.values
            # Of what is left only the nulls are asked for.
            if column.valid is not None:
                valid[index] = column.valid
        return values, valid


def program_of(levels: Sequence[Level], rung_names: Sequence[str], outputs: Sequence[Output]) -> Program | None:
    """The tables of these levels; None where a partial has no fixed width."""
    columns: dict[str, DataType | None] = {}
    sums: dict[str, list[int]] = {}
    operations: list[list[int]] = []
    level_at = [0]

    def column(name: str, dtype: DataType | None) -> int:
        columns[name] = dtype or columns.get(name)
        return list(columns).index(name)

    for level in levels:
        if isinstance(level.tiling, Single):
            return None
        for partial in level.partials:
            operation = _operation(partial, column, sums, rung_names)
            if operation is None:
                return None
            operations.append(operation)
        level_at.append(len(operations))
    return Program(
        # Layout, newest event time, a count a level, and rungs of a byte each.
        1 + 2 + len(levels) + (max(1, len(rung_names)) + 3) // 4,
        np.array(operations, dtype=np.int32).reshape(-1, 5),
        np.array(level_at, dtype=np.int32),
        np.array(list(sums.values()), dtype=np.int32).reshape(-1, 2 + _FACTORS_MAX),
        {name: index for index, name in enumerate(sums)},
        tuple(columns),
        np.array([dtype == "float64" for dtype in columns.values()], dtype=np.bool_),
        *_finishes(levels, level_at, operations, outputs),
    )


def _finishes(
    levels: Sequence[Level], level_at: Sequence[int], operations: Sequence[Sequence[int]], outputs: Sequence[Output]
) -> tuple[Shorts, Shorts, Shorts, Shorts, tuple[Output, ...]]:
    """The tables of the plain outputs, as `Program` describes them from `read` on."""
    read: list[int] = []
    partner: list[int] = []
    read_at, finishes, plain = [0], [], []
    for level, begin in zip(levels, level_at, strict=False):
        place = {partial.name: begin + index for index, partial in enumerate(level.partials)}
        for over in level.windows:
            here = [each for each in outputs if each.window == over and asked(each.aggregate) is not None]
            ends = [[place[each.aggregate.partials[end].name] for end in (0, -1)] for each in here]
            needed = sorted({operation for pair in ends for operation in pair})
            for output, pair in zip(here, ends, strict=True):
                reads = [len(read) + needed.index(operation) for operation in pair]
                finishes.append([_FINISHES[given(output.aggregate.plain)], *reads])
            partner.extend(_partners(operations, needed, len(read)))
            read.extend(needed)
            read_at.append(len(read))
            plain.extend(here)
    first, second, third, last = (np.array(each, dtype=np.int32) for each in (read, read_at, partner, finishes))
    return first, second, third, last.reshape(-1, 3), tuple(plain)


def _partners(operations: Sequence[Sequence[int]], needed: Sequence[int], begin: int) -> list[int]:
    """For each of a span's reads, which begin at `begin`, its partner; a maximum is named before its minimum."""
    out = [-1] * len(needed)
    most = {operations[one][COLUMN]: place for place, one in enumerate(needed) if operations[one][KIND] == MOST}
    for place, one in enumerate(needed):
        if operations[one][KIND] == LEAST and operations[one][IS_FLOAT] and operations[one][COLUMN] in most:
            out[most[operations[one][COLUMN]]], out[place] = begin + place, FOUND_BEFORE
    return out


def _operation(
    partial: Partial,
    column: Callable[[str, DataType | None], int],
    sums: dict[str, list[int]],
    rung_names: Sequence[str],
) -> list[int] | None:
    match partial:
        case CountPartial():
            return [COUNT, -1 if partial.column is None else column(partial.column, None), 0, 0, 1]
        case SumPartial():
            factors = [column(partial.column, partial.dtype)] * partial.power
        case ProductPartial():
            factors = [column(each.name, each.dtype) for each in (partial.left, partial.right)]
        case ExtremePartial():
            which = LEAST if partial.which == "min" else MOST
            return [which, column(partial.column, partial.dtype), partial.dtype == "float64", 0, 2]
        case OrderPartial(dtype="string"):
            return None
        case OrderPartial():
            which = FIRST if partial.which == "first" else LAST
            words = 6 if partial.dtype == "bool" else 7
            return [which, column(partial.column, partial.dtype), partial.dtype == "float64", 0, words]
        case _:
            return None
    place = rung_names.index(partial.name) if partial.has_rung else -1
    sums.setdefault(partial.name, [len(factors), place, *factors, *[-1] * (_FACTORS_MAX - len(factors))])
    return [SUM, factors[0], 0, list(sums).index(partial.name), 0]
