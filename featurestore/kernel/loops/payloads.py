"""Stored rows where they lie: the bytes of a list are read in place, since joining them costs as much as reading them.

Only the interpreter's stable interface is asked where an object's bytes are, under its lock. The caller keeps the list,
and so the bytes, for as long as they are read.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from featurestore.kernel.loops.jit import loop, with_lock

cgutils: Any = untyped
carray: Any = numba.carray  # type: ignore[attr-defined]
_WORD = ir.IntType(64)


def _of_interpreter(name: str, *takes: bool, gives: bool = False) -> Any:
    """A function of the interpreter over addresses and numbers, all held as int64.

    takes  whether each argument is an address
    gives  whether the result is one
    """
    pointer = cgutils.voidptr_t

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(pointer if gives else _WORD, [pointer if address else _WORD for address in takes])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        passed = [builder.inttoptr(one, pointer) if address else one for one, address in zip(given, takes, strict=True)]
        result = builder.call(function, passed)
        return builder.ptrtoint(result, _WORD) if gives else result

    signature = types.int64(*[types.int64] * len(takes))
    if len(takes) == 1:
        return intrinsic(lambda context, one: (signature, build))
    return intrinsic(lambda context, one, two: (signature, build))


_item = _of_interpreter("PyList_GetItem", True, False, gives=True)
_size = _of_interpreter("PyBytes_Size", True)
# An int of C, of which only "not 0" counts.
_is_instance = _of_interpreter("PyObject_IsInstance", True, True)
_bytes = _of_interpreter("PyBytes_AsString", True, gives=True)


def _point(context, address):  # type: ignore[no-untyped-def]
    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), build


_pointer: Any = intrinsic(_point)


@with_lock
def find(payloads, nothing, kind, addresses, sizes):  # type: ignore[no-untyped-def]
    """Where each payload's bytes are and how many: (n) out each. An absent one has none.

    payloads       address of a list
    nothing, kind  addresses of None and of the type of bytes
    returns        false where a payload is something else
    """
    for index in range(len(addresses)):
        payload = _item(payloads, np.int64(index))
        addresses[index], sizes[index] = 0, 0
        if payload != nothing:
            if _is_instance(payload, kind) & np.int64(0xFFFF_FFFF) == 0:
                return False
            addresses[index], sizes[index] = _bytes(payload), _size(payload)
    return True


@loop
def gather(addresses, skip, begin, out):  # type: ignore[no-untyped-def]
    """Payloads of whole words, each without its first bytes, side by side: `out` from begin[row] to begin[row + 1]."""
    for row in range(len(addresses)):
        first, end = np.uint64(begin[row]), np.uint64(begin[row + 1])
        if end > first:
            source = words_at(addresses[row] + skip, np.int64(end - first))
            for place in range(end - first):
                out[first + place] = source[place]


@loop
def words_at(address, count):  # type: ignore[no-untyped-def]
    """So many words of 32 bits at an address."""
    return carray(_pointer(address), count, np.uint32)


@loop
def bytes_at(address, count):  # type: ignore[no-untyped-def]
    return carray(_pointer(address), count, np.uint8)
