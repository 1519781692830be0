"""HyperLogLog: how many different hashes there were, from the longest run of zeros in each of 8,192 classes of them.

Enter: 64-bit hashes, spread evenly. Leave: registers, and numbers estimated from them with a standard error of 1.15 %.
Promise: registers of a union are the greater of each pair, so no order or grouping can show; the estimate is made of
sums, products and square roots alone, which every machine rounds in the same way.

Source: Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6: no bias that would
have to be corrected by tables, small and large numbers alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Registers = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

INDEX_BITS = 13
REGISTERS = 1 << INDEX_BITS
# Of the other 51 bits: one more than the zeros before the first one, so at most 52. Six bits hold it.
RANK_MAX = 64 - INDEX_BITS + 1
REGISTERS_BYTES = REGISTERS * 6 // 8
STANDARD_ERROR = 0.0115
# 1 / (2 ln 2), the limit of HyperLogLog's constant.
_ALPHA = 0.7213475204444817


def places_of(hashes: Hashes) -> tuple[npt.NDArray[np.int64], Registers]:
    """The register of each hash, and the rank that it brings there."""
    rest = hashes & np.uint64((1 << (64 - INDEX_BITS)) - 1)
    # The 51 bits are floats without rounding, so the exponent is that of their first one; of zero it is 0.
    bits = np.frexp(rest.astype(np.float64))[1]
    return (hashes >> np.uint64(64 - INDEX_BITS)).astype(np.int64), (RANK_MAX - bits).astype(np.uint8)


def registers_of(hashes: Hashes) -> Registers:
    """The registers of a set of hashes: (REGISTERS)."""
    index, rank = places_of(hashes)
    out = np.zeros(REGISTERS, dtype=np.uint8)
    np.maximum.at(out, index, rank)
    return out


def packed(registers: Registers) -> bytes:
    """Registers of six bits each, four in three bytes."""
    four = registers.reshape(-1, 4).astype(np.uint32)
    word = four[:, 0] | (four[:, 1] << 6) | (four[:, 2] << 12) | (four[:, 3] << 18)
    return np.stack([word & 0xFF, (word >> 8) & 0xFF, word >> 16], axis=1).astype(np.uint8).tobytes()


def unpacked(raw: bytes) -> Registers:
    """What `packed` gave; of several, one after another."""
    three = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3).astype(np.uint32)
    word = three[:, 0] | (three[:, 1] << 8) | (three[:, 2] << 16)
    return np.stack([(word >> shift) & 0x3F for shift in (0, 6, 12, 18)], axis=1).astype(np.uint8).reshape(-1)


def histogram(registers: Registers) -> Ints:
    """How many registers have each rank: (RANK_MAX + 1)."""
    return np.bincount(registers, minlength=RANK_MAX + 1).astype(np.int64)


def estimates(histograms: Ints) -> Floats:
    """How many different hashes there were, from (n, RANK_MAX + 1) counts of ranks; whole numbers, as floats."""
    share = histograms / float(REGISTERS)
    total = REGISTERS * _tau(1.0 - share[:, RANK_MAX])
    for rank in range(RANK_MAX - 1, 0, -1):
        total = 0.5 * (total + histograms[:, rank])
    total = total + REGISTERS * _sigma(share[:, 0])
    with np.errstate(divide="ignore"):
        # No register without a hash and none with one cannot be: only where all are empty the sum is infinite.
        found: Floats = np.rint(_ALPHA * REGISTERS * (REGISTERS / total))
    return found


def _sigma(share: Floats) -> Floats:
    """x + sum of x**(2**k) * 2**(k - 1) for k from 1: what empty registers say; infinite where all are empty."""
    power, weight, out = share.copy(), 1.0, share.copy()
    # Terms fall below the last bit after few steps, unless nearly all registers are empty.
    while True:
        power = power * power
        more = out + power * weight
        weight += weight
        if ((more == out) | (share == 1.0)).all():
            return np.where(share == 1.0, np.inf, out)
        out = more


def _tau(share: Floats) -> Floats:
    """(1 - x - sum of (1 - x**(2**-k))**2 * 2**-k for k from 1) / 3: what full registers say."""
    root, weight, out = share.copy(), 1.0, 1.0 - share
    while True:
        root = np.sqrt(root)
        weight *= 0.5
        less = out - (1.0 - root) * (1.0 - root) * weight
        if ((less == out) | (share == 0.0)).all():
            return np.where(share == 0.0, 0.0, out / 3.0)
        out = less
