"""JSON objects -> columns, in a compiled loop: plain JSON of a topic's own fields never becomes a Python object.

Promise: a record that is taken here has the values that `msgspec` gives, and one that is refused here is refused by it
too, for the same reason at the same place; whatever is not plain (escapes, nested values, repeated fields, numbers of
many digits) is left to it, record by record.
"""

from __future__ import annotations

import numpy as np

from featurestore.event_time import MOMENT_MAX_US
from featurestore.kernel.loops.jit import loop

# What a field holds, as the loop is told.
STRING, INTEGER, MOMENT, FLOAT, TRUTH = range(5)
# What is known of a field of a record.
NOTHING, VALUE, TEXT = range(3)
# Why a record was not read. The first may be a good one. Then those that have a byte where reading ended, ...
UNSURE, NO_NAME, NO_COLON, NO_COMMA, LONGER = range(5)
# ... the one that has nothing, and those that have a field: it is missing, or holds what it may not.
CUT, MISSING, NULL, STRING_THERE, TRUTH_THERE, LIST_THERE, OBJECT_THERE = range(5, 12)

_LEFT = np.int64(-1)
_QUOTE, _BACKSLASH, _COMMA, _COLON, _OPEN, _SHUT, _BRACKET = 34, 92, 44, 58, 123, 125, 91
_MINUS, _PLUS, _POINT, _ZERO, _NINE = 45, 43, 46, 48, 57
# Whole numbers of so many digits are exact in an int64, and floats up to 2**53 are exact in a float64.
_INT_DIGITS_MAX = 18
_FLOAT_WHOLE_MAX = np.int64(1) << 53
# Powers of ten that a float64 holds exactly: one product or quotient of exact numbers is rounded once, so correctly.
_TENS = 10.0 ** np.arange(23)
_MOMENT_MAX = np.int64(MOMENT_MAX_US)


@loop
def read_objects(  # type: ignore[no-untyped-def]
    data, begins, ends, names, name_at, kinds, nullable, start, length, whole, real, state, good, fault, where
):
    """Read n records of f fields.

    data            the records' bytes
    begins, ends    (n) where each begins in them, and where it ends
    names, name_at  the fields' names one after the other, and where each begins; (f + 1)
    kinds, nullable (f) what each field holds, and whether it may be null or missing
    start, length   (f, n) out: of strings, and of floats that are TEXT, where they stand in `data`
    whole, real     (f, n) out: integers, moments and truths; floats
    state           (f, n) out: NOTHING for null, VALUE, or TEXT for a float that others have to read
    good            (n) out: whether the record was read
    fault, where    (n) out: why not, and at which of its bytes or fields
    """
    fields = len(kinds)
    for index in range(len(begins)):
        good[index] = False
        fault[index] = UNSURE
        end = ends[index]
        at = _space(data, begins[index], end)
        if at >= end:
            fault[index] = CUT
            continue
        if data[at] != _OPEN:
            continue
        for field in range(fields):
            state[field, index] = NOTHING
        seen, is_sure = np.int64(0), True
        # Producers nearly always write the fields in one order: the next one is looked for first.
        guess = 0
        at = _space(data, at + 1, end)
        done = at < end and data[at] == _SHUT
        while not done:
            if at >= end:
                fault[index] = CUT
                break
            if data[at] != _QUOTE:
                # A comma before the end has words of its own.
                fault[index] = NO_NAME if data[at] != _SHUT else UNSURE
                break
            shut = _string_end(data, at + 1, end)
            if shut == _LEFT:
                break
            field = _field(data, at + 1, shut, names, name_at, guess, fields)
            at = _space(data, shut + 1, end)
            if at >= end:
                fault[index] = CUT
                break
            if data[at] != _COLON:
                fault[index] = NO_COLON
                break
            at = _space(data, at + 1, end)
            if at >= end:
                fault[index] = CUT
                break
            value_at = at
            if field < 0:
                at = _skipped(data, at, end)
            elif seen >> field & 1:
                # Said twice: which one counts is for others to say.
                break
            else:
                seen |= np.int64(1) << field
                guess = field + 1
                kind = kinds[field]
                if data[at] == 110:  # null
                    at = _word(data, at, end, 110, 117, 108, 108) if nullable[field] else _LEFT
                elif kind == STRING:
                    if data[at] == _QUOTE:
                        shut = _string_end(data, at + 1, end)
                        start[field, index], length[field, index] = at + 1, shut - at - 1
                        state[field, index] = VALUE
                        at = shut + 1 if shut != _LEFT else _LEFT
                    else:
                        at = _LEFT
                elif kind == FLOAT:
                    value, after, exact = _float(data, at, end)
                    real[field, index] = value
                    start[field, index], length[field, index] = at, after - at
                    state[field, index] = VALUE if exact else TEXT
                    is_sure &= exact
                    at = after
                elif kind == TRUTH:
                    is_true = data[at] == 116
                    whole[field, index] = is_true
                    state[field, index] = VALUE
                    at = _word(data, at, end, 116, 114, 117, 101) if is_true else _false(data, at, end)
                else:
                    number, after = _whole(data, at, end)
                    if kind == MOMENT and not 0 <= number <= _MOMENT_MAX:
                        after = _LEFT
                    whole[field, index] = number
                    state[field, index] = VALUE
                    at = after
            if at == _LEFT:
                if field >= 0:
                    fault[index] = _misfit(data, value_at, end, kinds[field])
                    where[index] = field
                break
            at = _space(data, at, end)
            if at >= end:
                fault[index] = CUT
                break
            if data[at] == _SHUT:
                done = True
            elif data[at] == _COMMA:
                at = _space(data, at + 1, end)
            else:
                fault[index] = NO_COMMA
                break
        if done:
            good[index] = True
            for field in range(fields):
                if good[index] and not nullable[field] and not seen >> field & 1:
                    good[index] = False
                    fault[index] = MISSING
                    where[index] = field
            at = _space(data, at + 1, end)
            if good[index] and at < end:
                good[index] = False
                fault[index] = LONGER
                # msgspec names the byte behind the one that is too many.
                at += 1
        if not is_sure:
            # A float that others have to read may be what is wrong first.
            fault[index] = UNSURE
        if NO_NAME <= fault[index] <= LONGER:
            where[index] = at - begins[index]


@loop
def _space(data, at, end):  # type: ignore[no-untyped-def]
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@loop
def _string_end(data, at, end):  # type: ignore[no-untyped-def]
    """The closing quote of a string without escapes; -1 of any other, and of what is not UTF-8."""
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            return at
        if byte == _BACKSLASH or byte < 32:
            return _LEFT
        if byte < 0x80:
            at += 1
            continue
        # The well-formed byte sequences of Unicode, table 3-7.
        more, least, most = 0, 0x80, 0xBF
        if 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more = 2
            if byte == 0xE0:
                least = 0xA0
            elif byte == 0xED:
                most = 0x9F
        elif 0xF0 <= byte <= 0xF4:
            more = 3
            if byte == 0xF0:
                least = 0x90
            elif byte == 0xF4:
                most = 0x8F
        if more == 0 or at + more >= end:
            return _LEFT
        if not least <= data[at + 1] <= most:
            return _LEFT
        for place in range(2, more + 1):
            if not 0x80 <= data[at + place] <= 0xBF:
                return _LEFT
        at += more + 1
    return _LEFT


@loop
def _field(data, first, end, names, name_at, guess, fields):  # type: ignore[no-untyped-def]
    """Which field has this name, -1 for none."""
    for step in range(fields):
        field = guess + step
        if field >= fields:
            field -= fields
        size = name_at[field + 1] - name_at[field]
        if size != end - first:
            continue
        same = True
        for place in range(size):
            if names[name_at[field] + place] != data[first + place]:
                same = False
                break
        if same:
            return field
    return -1


@loop
def _misfit(data, at, end, kind):  # type: ignore[no-untyped-def]
    """Why a value that was not read is none of its field's; UNSURE where it may be one, spelled in another way."""
    byte = data[at]
    if byte == _BRACKET:
        return LIST_THERE
    if byte == _OPEN:
        return OBJECT_THERE
    if byte == _QUOTE:
        # A moment may be text.
        is_other = kind != STRING and kind != MOMENT and _string_end(data, at + 1, end) != _LEFT
        return STRING_THERE if is_other else UNSURE
    if _word(data, at, end, 110, 117, 108, 108) != _LEFT:
        return NULL
    if _word(data, at, end, 116, 114, 117, 101) != _LEFT or _false(data, at, end) != _LEFT:
        return TRUTH_THERE
    return UNSURE


@loop
def _word(data, at, end, a, b, c, d):  # type: ignore[no-untyped-def]
    """After a word of four letters; -1 where it does not stand."""
    if at + 4 > end or data[at] != a or data[at + 1] != b or data[at + 2] != c or data[at + 3] != d:
        return _LEFT
    return at + 4


@loop
def _false(data, at, end):  # type: ignore[no-untyped-def]
    if at >= end or data[at] != 102:
        return _LEFT
    return _word(data, at + 1, end, 97, 108, 115, 101)


@loop
def _is_digit(data, at, end):  # type: ignore[no-untyped-def]
    return at < end and _ZERO <= data[at] <= _NINE


@loop
def _whole(data, at, end):  # type: ignore[no-untyped-def]
    """A whole number and where it ends; -1 where it is none, or too long to be sure of."""
    negative = data[at] == _MINUS
    if negative:
        at += 1
    first, number = at, np.int64(0)
    while _is_digit(data, at, end) and at - first <= _INT_DIGITS_MAX:
        number = number * 10 + np.int64(data[at] - _ZERO)
        at += 1
    digits = at - first
    if digits == 0 or digits > _INT_DIGITS_MAX or (data[first] == _ZERO and (digits > 1 or negative)):
        return np.int64(0), _LEFT
    if at < end and (data[at] == _POINT or data[at] == 101 or data[at] == 69):
        return np.int64(0), _LEFT
    return -number if negative else number, at


@loop
def _float(data, at, end):  # type: ignore[no-untyped-def]
    """A number, where it ends, and whether the number is exact as read; -1 where it is no number."""
    negative = data[at] == _MINUS
    if negative:
        at += 1
    first, number, exponent, exact = at, np.int64(0), np.int64(0), True
    while _is_digit(data, at, end):
        if number >= _FLOAT_WHOLE_MAX // 10:
            exact = False
        else:
            number = number * 10 + np.int64(data[at] - _ZERO)
        at += 1
    if at == first or (data[first] == _ZERO and at - first > 1):
        return 0.0, _LEFT, True
    is_plain = True
    if at < end and data[at] == _POINT:
        is_plain = False
        at += 1
        point = at
        while _is_digit(data, at, end):
            if number >= _FLOAT_WHOLE_MAX // 10:
                exact = False
            else:
                number = number * 10 + np.int64(data[at] - _ZERO)
                exponent -= 1
            at += 1
        if at == point:
            return 0.0, _LEFT, True
    if at < end and (data[at] == 101 or data[at] == 69):
        is_plain = False
        at += 1
        shrinks = at < end and data[at] == _MINUS
        if at < end and (data[at] == _MINUS or data[at] == _PLUS):
            at += 1
        power, digit = at, np.int64(0)
        while _is_digit(data, at, end):
            # Beyond this it is not exact anyway.
            digit = min(digit * 10 + np.int64(data[at] - _ZERO), np.int64(10_000))
            at += 1
        if at == power:
            return 0.0, _LEFT, True
        exponent += -digit if shrinks else digit
    # As a whole number, a zero has no sign.
    negative &= number != 0 or not is_plain
    if not exact or not -22 <= exponent <= 22:
        return 0.0, at, False
    value = float(number)
    value = value / _TENS[-exponent] if exponent < 0 else value * _TENS[exponent]
    return -value if negative else value, at, True


@loop
def _skipped(data, at, end):  # type: ignore[no-untyped-def]
    """After a value of a field that is not the topic's; -1 where it is nested, or not plain."""
    byte = data[at]
    if byte == _QUOTE:
        shut = _string_end(data, at + 1, end)
        return shut + 1 if shut != _LEFT else _LEFT
    if byte == 116:
        return _word(data, at, end, 116, 114, 117, 101)
    if byte == 110:
        return _word(data, at, end, 110, 117, 108, 108)
    if byte == 102:
        return _false(data, at, end)
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return _float(data, at, end)[1]
    return _LEFT
