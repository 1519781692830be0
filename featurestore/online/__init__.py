"""The online store: packed rows in Redis or Valkey.

Enter: row payloads of the kernel with the offsets that they include. Leave: the same payloads, for lookups and
for the next fold. Promise: a batch's rows and its watermark are written together or not at all.
"""

from featurestore.online.store import (
    Applied,
    BucketCommit,
    BucketRead,
    Conflict,
    Duplicate,
    LostTail,
    OnlineStore,
    Outcome,
    Row,
    Straddle,
)

__all__ = [
    "Applied",
    "BucketCommit",
    "BucketRead",
    "Conflict",
    "Duplicate",
    "LostTail",
    "OnlineStore",
    "Outcome",
    "Row",
    "Straddle",
]
