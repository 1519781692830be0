"""The online store: packed rows in Redis or Valkey.

Enter: row payloads of the kernel with the offsets that they include. Leave: the same payloads, for lookups and
for the next fold. Promise: a batch's rows and its watermark are written together or not at all.
"""

from featurestore.online.alias import Alias, Aliases, Backfilling, Served
from featurestore.online.servers import Cluster, OneServer, Servers, servers_at
from featurestore.online.store import (
    NO_EVICTION,
    TOKEN_BYTES,
    Applied,
    Commit,
    Conflict,
    Duplicate,
    LostTail,
    Move,
    OnlineStore,
    Outcome,
    Run,
    StoredRows,
    Straddle,
    has_more,
)

__all__ = [
    "NO_EVICTION",
    "TOKEN_BYTES",
    "Alias",
    "Aliases",
    "Applied",
    "Backfilling",
    "Cluster",
    "Commit",
    "Conflict",
    "Duplicate",
    "LostTail",
    "Move",
    "OneServer",
    "OnlineStore",
    "Outcome",
    "Run",
    "Served",
    "Servers",
    "StoredRows",
    "Straddle",
    "has_more",
    "servers_at",
]
