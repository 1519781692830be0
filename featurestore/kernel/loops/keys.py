"""Entity keys that are strings, as canonical bytes one after the other, with the checksum that chooses their bucket."""

from __future__ import annotations

import numpy as np

from featurestore.kernel.loops.jit import loop

HEAD_BYTES = 5
_TAG = np.uint8(ord("s"))
_ALL = np.uint32(0xFFFF_FFFF)


def _table() -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The checksum of each byte, by the polynomial of zlib."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB8_8320), table >> 1).astype(np.uint32)
    return table


_TABLE = _table()


@loop
def string_keys(data, begin, out, spread):  # type: ignore[no-untyped-def]
    """The keys of n strings.

    data, begin  the strings one after the other, and where each begins; (n + 1)
    out          each key's head, then its string
    spread       (n) out: crc32 of each key
    """
    to = np.int64(0)
    for index in range(len(spread)):
        first, size = np.int64(begin[index]), np.int64(begin[index + 1]) - np.int64(begin[index])
        out[to] = _TAG
        for place in range(4):
            out[to + 1 + place] = np.uint8((size >> (8 * place)) & 0xFF)
        for place in range(size):
            out[to + HEAD_BYTES + place] = data[first + place]
        held = _ALL
        for place in range(HEAD_BYTES + size):
            held = _TABLE[(held ^ np.uint32(out[to + place])) & np.uint32(0xFF)] ^ (held >> np.uint32(8))
        spread[index] = held ^ _ALL
        to += HEAD_BYTES + size
