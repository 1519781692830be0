"""A batch: the raw records of one partition between two offsets, which is what an agent is handed as one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from streams.payloads import Parts, Payloads, taken

# Value and key of a record, decompressed. Kafka bounds what is on the wire, and half a megabyte of that may become half
# a gigabyte, several times over while it is decoded, with a key that no store takes. A topic takes a megabyte by
# default, and batches and parts that are read together are of 16 to 32 MiB.
RECORD_BYTES_MAX = 32 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in offset order.

    first_offset   end of the batch before: the range covers transaction markers and compaction holes too
    end_offset     the next offset to read
    offsets        (n) of the records
    timestamps_us  (n) when the broker took them (or the producer's stamp, where the topic says so)
    leader_epoch   of the last record, -1 when unknown
    keys           (n) of the records, for who keeps them; empty where they were not read
    cut            offset -> bytes of value and key together, of records that are too large to be read: `values` and
                   `keys` hold their beginnings; others of the partition may be named as well
    """

    topic: str
    partition: int
    first_offset: int
    end_offset: int
    values: Sequence[bytes | None]
    offsets: npt.NDArray[np.int64]
    timestamps_us: npt.NDArray[np.int64]
    leader_epoch: int = -1
    keys: Sequence[bytes | None] = ()
    cut: Mapping[int, int] = field(default_factory=dict)

    def after(self, offset: int) -> Batch:
        """The part of the batch at or after an offset."""
        cut = int(np.searchsorted(self.offsets, offset))
        first = max(self.first_offset, offset)
        values, offsets, stamps = self.values[cut:], self.offsets[cut:], self.timestamps_us[cut:]
        keys, epoch = self.keys[cut:], self.leader_epoch
        return Batch(self.topic, self.partition, first, self.end_offset, values, offsets, stamps, epoch, keys, self.cut)

    def before(self, offset: int) -> Batch:
        """The part of the batch before an offset."""
        cut = int(np.searchsorted(self.offsets, offset))
        end = min(self.end_offset, offset)
        values, offsets, stamps = self.values[:cut], self.offsets[:cut], self.timestamps_us[:cut]
        keys, epoch = self.keys[:cut], self.leader_epoch
        return Batch(self.topic, self.partition, self.first_offset, end, values, offsets, stamps, epoch, keys, self.cut)

    def keys_at(self, places: npt.NDArray[np.int64]) -> Payloads:
        """The keys of the records at rising places, in a buffer of their own."""
        return taken(self.keys, places) if self.keys else Payloads.absent(len(places))

    def followed_by(self, others: Sequence[Batch]) -> Batch:
        """This batch and those right after it as one."""
        if not others:
            return self
        parts = (self, *others)
        return replace(
            self,
            end_offset=others[-1].end_offset,
            values=Parts([part.values for part in parts]),
            offsets=np.concatenate([part.offsets for part in parts]),
            timestamps_us=np.concatenate([part.timestamps_us for part in parts]),
            leader_epoch=others[-1].leader_epoch,
            keys=Parts([part.keys for part in parts]),
            cut={offset: size for part in parts for offset, size in part.cut.items()},
        )

    @property
    def size_bytes(self) -> int:
        """Of the values and the keys."""
        return sum(Payloads.of(part).size_bytes for part in Parts([self.values, self.keys]).parts)
