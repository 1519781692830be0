"""Decimals: numbers of a stated count of digits, such as money, kept as whole numbers of their last digit.

`decimal(12, 2)` has up to 12 digits, 2 of them after the point: 1234.50 is kept as 123450. A column has at most 18
digits, so that an int64 holds it. A sum has ten digits more than its column: 2**31 events, which is all that a tile
counts, cannot overflow it. No value is ever rounded to fit: what does not fit is refused or null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PRECISION_MAX = 18
# What Arrow and Polars hold: expressions and sums may give as much.
WIDE_MAX = 38
_SUM_DIGITS = 10
_WRITTEN = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
# A number as JSON writes it; anything else that Python would take, such as 1_000 or NaN, is no number of ours.
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,9})?", re.ASCII)
# Whole numbers up to here, and powers of ten up to 10**22, are floats without rounding, so one division rounds once.
_FLOAT_WHOLE_MAX = 2**53
_SHOWN_MAX = 40
# Fifteen digits survive the way through a float and back; of more, some may be the float's and not the writer's.
_FLOAT_DIGITS = 15


@dataclass(frozen=True)
class DecimalType:
    """How many digits there are, and how many of them after the point."""

    precision: int
    scale: int

    @property
    def text(self) -> str:
        return f"decimal({self.precision}, {self.scale})"

    @property
    def arrow(self) -> pa.DataType:
        return pa.decimal128(self.precision, self.scale)

    @property
    def summed(self) -> DecimalType:
        """The type of a sum of such numbers."""
        return DecimalType(min(self.precision + _SUM_DIGITS, WIDE_MAX), self.scale)

    @property
    def kept(self) -> DecimalType:
        """The type of a column that holds what an expression gives."""
        return DecimalType(min(self.precision, PRECISION_MAX), self.scale)

    def value_of(self, whole: int) -> Decimal:
        """The number that is kept as this one."""
        return Decimal((whole < 0, tuple(map(int, str(abs(whole)))), -self.scale))

    def exactly(self, written: str | int | float | Decimal) -> Decimal:
        """The number with just the type's digits after the point; raises ValueError where it would have to be rounded.

        written  a number, or text of one as JSON writes it; a float stands for its shortest digits, where 15 do
        """
        text = repr(written) if isinstance(written, float) else str(written)
        shown = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
        if isinstance(written, bool) or not _NUMBER.fullmatch(text):
            raise ValueError(f"expected {self.text}, got {shown}")
        try:
            number = Decimal(text)
            if isinstance(written, float) and len(number.as_tuple().digits) > _FLOAT_DIGITS:
                raise ValueError(f"{shown} is a float of more than {_FLOAT_DIGITS} digits; write {self.text} as text")
            return number.quantize(self._last_digit, context=self._context)
        except Inexact as error:
            raise ValueError(f"{shown} has more than {self.scale} digits after the point of {self.text}") from error
        except DecimalException as error:
            raise ValueError(f"{shown} has more digits than {self.text}") from error

    @cached_property
    def _last_digit(self) -> Decimal:
        return Decimal((0, (1,), -self.scale))

    @cached_property
    def _context(self) -> Context:
        traps = [Inexact, InvalidOperation, Overflow, Clamped]
        return Context(prec=self.precision, rounding=ROUND_HALF_EVEN, traps=traps)


@lru_cache(maxsize=256)
def decimal_type(kind: str) -> DecimalType | None:
    """What the name of a type says; None where it is not that of a decimal."""
    found = _WRITTEN.fullmatch(kind)
    return DecimalType(int(found[1]), int(found[2])) if found else None


def scale_of(kind: str) -> int:
    """Digits after the point that a column's whole numbers stand for; 0 of what is no decimal."""
    found = decimal_type(kind)
    return 0 if found is None else found.scale


def floats_of(wholes: Ints, scale: int) -> npt.NDArray[np.float64]:
    """The nearest float64 to each number."""
    below = 10**scale
    out: npt.NDArray[np.float64] = wholes / float(below)
    for place in np.flatnonzero((wholes > _FLOAT_WHOLE_MAX) | (wholes < -_FLOAT_WHOLE_MAX)).tolist():
        # Python divides whole numbers of any size and rounds once.
        out[place] = int(wholes[place]) / below
    return out


def words_of(values: npt.NDArray[Any]) -> Ints:
    """(n) or (n, 2) whole numbers -> (n, 2): the low and the high 64 bits of each."""
    if values.ndim == 2:
        return values
    whole = values.astype(np.int64)
    return np.stack([whole, whole >> 63], axis=1)


def wholes_of(values: npt.NDArray[Any]) -> list[int]:
    """The same as Python's whole numbers."""
    low, high = words_of(values).T
    return [(top << 64) | rest for top, rest in zip(high.tolist(), low.astype(np.uint64).tolist(), strict=True)]


def decimal_array(words: Ints, valid: Mask | None, kind: DecimalType) -> pa.Array:
    """The Arrow array of whole numbers, as `words_of` gives them; null where `valid` is false."""
    nulls = None
    if valid is not None and not valid.all():
        nulls, words = pa.py_buffer(np.packbits(valid, bitorder="little")), np.where(valid[:, None], words, 0)
    return pa.Array.from_buffers(kind.arrow, len(words), [nulls, pa.py_buffer(np.ascontiguousarray(words))])


def wholes_in(array: pa.Array) -> tuple[Ints, Mask]:
    """The whole numbers of an Arrow array of decimals, and where there is one of at most 18 digits."""
    words = (
        np.frombuffer(array.buffers()[1], dtype=np.int64).reshape(-1, 2) if len(array) else np.zeros((0, 2), np.int64)
    )
    low, high = words[array.offset : array.offset + len(array)].T
    most = 10**PRECISION_MAX
    fits = np.asarray(array.is_valid()) & (high == low >> 63) & (low < most) & (low > -most)
    return np.where(fits, low, 0), fits


def as_decimals(array: pa.Array, kind: DecimalType) -> pa.Array:
    """Numbers, or texts of numbers, as decimals; raises ValueError where one would have to be rounded."""
    if array.type == kind.arrow:
        return array
    return decimals_from(array.to_pylist(), kind)


def decimals_from(values: Sequence[Any], kind: DecimalType) -> pa.Array:
    """The same for Python's values."""
    # Made exact before Arrow sees them: it rounds floats, and some exponents end its process.
    return pa.array([None if value is None else kind.exactly(value) for value in values], kind.arrow)
