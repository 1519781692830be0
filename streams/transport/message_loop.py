"""librdkafka's messages -> columns, in compiled loops: what a record says is copied out of its C struct, which is then
let go of, while the interpreter's lock is free.

Addresses are int64, of functions too: so a compiled loop can be kept on disk. Messages are read as `librdkafka.Message`
lays them out, and the rest is asked of librdkafka's own functions.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from featurestore.kernel.loops.jit import loop
from streams.arrival import BY_BROKER
from streams.librdkafka import Message

cgutils: Any = untyped
carray: Any = numba.carray  # type: ignore[attr-defined]

# Where a message has what, in words of 64 bits and in halves of such.
_TOPIC, _PAYLOAD, _SIZE = (getattr(Message, name).offset // 8 for name in ("topic", "payload", "size"))
_KEY, _KEY_SIZE, _OFFSET = (getattr(Message, name).offset // 8 for name in ("key", "key_size", "offset"))
_ERROR, _PARTITION = (getattr(Message, name).offset // 4 for name in ("err", "partition"))
_WORDS = 9

_ABSENT = np.int64(-1)
NO_RECORD, NOT_OURS = -1, -2


@loop
def survey(messages, size, group, topic, partition, count, value_bytes, key_bytes, header, ours, record_bytes_max, beginning_bytes, functions):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Which records are of one partition.

    messages                       addresses, `size` of them
    group                          out: of each message, NO_RECORD where it tells of an error, NOT_OURS
    topic, partition               out: whose a group is; the topic's address
    count, value_bytes, key_bytes  out: of a group; how many bytes `take` copies
    header, ours                   a record with this header (its name ends with a zero) and another value is not ours
    record_bytes_max, beginning_bytes, functions  as for `take`
    returns                        how many groups there are
    """
    groups = last = 0
    held = np.empty(3, dtype=np.int64)
    for index in range(size):
        words, halves = _words(messages[index]), _halves(messages[index])
        if halves[_ERROR] != 0:
            group[index] = NO_RECORD
            continue
        if _is_for_others(messages[index], header, ours, functions, held):
            group[index] = NOT_OURS
            continue
        # Records of one partition come in long runs.
        if groups == 0 or topic[last] != words[_TOPIC] or partition[last] != halves[_PARTITION]:
            last = 0
            while last < groups and (topic[last] != words[_TOPIC] or partition[last] != halves[_PARTITION]):
                last += 1
            if last == groups:
                topic[last], partition[last] = words[_TOPIC], halves[_PARTITION]
                count[last] = value_bytes[last] = key_bytes[last] = 0
                groups += 1
        group[index] = last
        count[last] += 1
        value_bytes[last] += _kept(words, words[_SIZE], record_bytes_max, beginning_bytes)
        key_bytes[last] += _kept(words, words[_KEY_SIZE], record_bytes_max, beginning_bytes)
    return groups


@loop
def take(messages, size, group, which, values, value_at, value_size, keys, key_at, key_size, offsets, stamps, whole, now_ms, record_bytes_max, beginning_bytes, functions):  # type: ignore[no-untyped-def]  # fmt: skip # noqa: E501
    """Copy the records of one group, in their order, and let go of each: its address becomes 0.

    values, value_at, value_size  out: the bytes, and where each begins in them and how many it has, -1 for None
    keys, key_at, key_size        out: the same of the keys
    offsets, stamps               out
    whole                         out: bytes of value and key of a record that is too large, 0 of all others
    record_bytes_max              of a record of more bytes no more is copied than ...
    beginning_bytes               ... so many of its value, and of its key
    now_ms                        what a producer's own stamp is at most: a broker's is when it took the record
    functions                     addresses: message_timestamp, message_leader_epoch, message_destroy,
                                  message_headers, header_get_last
    returns                       the leader epoch of the last one
    """
    kind = np.empty(1, dtype=np.int32)  # who stamped the record
    to_value, to_key = values.ctypes.data, keys.ctypes.data
    value_end = key_end = np.int64(0)
    at, epoch = 0, _ABSENT
    for index in range(size):
        if group[index] != which:
            continue
        message = messages[index]
        words = _words(message)
        value_at[at], value_size[at] = value_end, _ABSENT
        if words[_PAYLOAD] != 0:
            value_size[at] = _kept(words, words[_SIZE], record_bytes_max, beginning_bytes)
            _copy(np.int64(to_value) + value_end, words[_PAYLOAD], value_size[at])
            value_end += value_size[at]
        key_at[at], key_size[at] = key_end, _ABSENT
        if words[_KEY] != 0:
            key_size[at] = _kept(words, words[_KEY_SIZE], record_bytes_max, beginning_bytes)
            _copy(np.int64(to_key) + key_end, words[_KEY], key_size[at])
            key_end += key_size[at]
        whole[at] = words[_SIZE] + words[_KEY_SIZE] if _is_too_large(words, record_bytes_max) else 0
        offsets[at], stamps[at] = words[_OFFSET], _stamp(functions[0], message, np.int64(kind.ctypes.data))
        if kind[0] != BY_BROKER and not 0 <= stamps[at] <= now_ms:
            stamps[at] = now_ms
        at += 1
        if at == len(offsets):
            epoch = np.int64(_epoch(functions[1], message))
        _destroy(functions[2], message)
        messages[index] = 0
        if at == len(offsets):
            break
    return epoch


@loop
def drop(messages, size, destroy):  # type: ignore[no-untyped-def]
    """Let go of the messages that were not taken."""
    for index in range(size):
        if messages[index] != 0:
            _destroy(destroy, messages[index])
            messages[index] = 0


def _function(gives: Any, arguments: int) -> Any:
    """Calls what lies at an address, with addresses for arguments."""
    held: Any = {32: types.int32, 64: types.int64}.get(getattr(gives, "width", 0), types.void)

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointers = [builder.inttoptr(one, cgutils.voidptr_t) for one in given[1:]]
        kind = ir.FunctionType(gives, [cgutils.voidptr_t] * arguments)
        result = builder.call(builder.inttoptr(given[0], kind.as_pointer()), pointers)
        return context.get_dummy_value() if held is types.void else result

    signature = held(*[types.int64] * (arguments + 1))
    if arguments == 1:
        return intrinsic(lambda context, at, one: (signature, build))
    if arguments == 2:
        return intrinsic(lambda context, at, one, two: (signature, build))
    return intrinsic(lambda context, at, one, two, three, four: (signature, build))


_stamp = _function(ir.IntType(64), 2)
_epoch = _function(ir.IntType(32), 1)
_destroy = _function(ir.VoidType(), 1)
_headers = _function(ir.IntType(32), 2)
_last = _function(ir.IntType(32), 4)


def _copied(context, to, source, count):  # type: ignore[no-untyped-def]
    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        to, source = (builder.inttoptr(one, cgutils.voidptr_t) for one in given[:2])
        cgutils.raw_memcpy(builder, to, source, given[2], ir.Constant(given[2].type, 1))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


def _pointed(context, address):  # type: ignore[no-untyped-def]
    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), build


_copy: Any = intrinsic(_copied)
_pointer: Any = intrinsic(_pointed)


@loop
def _words(message):  # type: ignore[no-untyped-def]
    return carray(_pointer(message), _WORDS, np.int64)


@loop
def _halves(message):  # type: ignore[no-untyped-def]
    return carray(_pointer(message), 2 * _WORDS, np.int32)


@loop
def _is_too_large(words, record_bytes_max):  # type: ignore[no-untyped-def]
    return words[_SIZE] + words[_KEY_SIZE] > record_bytes_max


@loop
def _kept(words, size, record_bytes_max, beginning_bytes):  # type: ignore[no-untyped-def]
    """How many bytes are copied of a value or a key of so many."""
    return min(size, beginning_bytes) if _is_too_large(words, record_bytes_max) else size


@loop
def _is_for_others(message, header, ours, functions, held):  # type: ignore[no-untyped-def]
    """Whether the record has the header, and another value there."""
    to = np.int64(held.ctypes.data)
    if _headers(functions[3], message, to) != 0:
        return False
    if _last(functions[4], held[0], np.int64(header.ctypes.data), to + 8, to + 16) != 0:
        return False
    if held[2] != len(ours):
        return True
    value = carray(_pointer(held[1]), held[2], np.uint8)
    return not np.array_equal(value, ours)
