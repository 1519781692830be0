"""Bounds of a reader, and what librdkafka is told; each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Rebalance = Literal["eager", "cooperative"]

# librdkafka leaves the broker idle with its defaults: it waits a second whenever its queue was full once. Its queue is
# short, since a record takes four times its bytes there, and we read ahead of it ourselves.
FETCH: dict[str, int] = {
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 4_096,
    "fetch.max.bytes": 4_194_304,
    "max.partition.fetch.bytes": 1_048_576,
    "fetch.wait.max.ms": 10,
}
# By default librdkafka looks for new partitions every five minutes, while what is sent there is in no value and lookups
# say that all is there. One small call of the broker each time.
_LOOK_FOR_PARTITIONS_MS = 5_000
# librdkafka's own bound of the time between two polls, which may not be shorter than a session.
_POLL_INTERVAL_MS = 300_000
_ASSIGNORS = {"eager": "range,roundrobin", "cooperative": "cooperative-sticky"}
# A heartbeat may be lost or late a few times before the group gives our partitions away.
_HEARTBEATS_A_SESSION = 10


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """Bounds of a batch and of what is read ahead, and the terms of membership.

    batch_records_max  records of a batch: more are rewritten rows saved, fewer are memory
    batch_bytes_max    bytes of a batch: a few large records must not make one that nobody can hold
    ahead_bytes_max    bytes read and not handed out, of all partitions; while less than half as many are at work, a
                       partition may have a second batch there
    rebalance          eager: all partitions change hands at once, in one round. cooperative: only those that move do,
                       in two rounds. All members of a group must agree
    session_s          a dead worker's partitions are another's after this long
    instance_id        a lasting name: a member that comes back under it within the session gets its partitions at once
    drain_s            how long the batch at work is waited for when partitions leave or the worker stops; a stop has a
                       deadline for all, a moment later
    project            what was sent again for another project is no record for this one
    config             anything else that librdkafka takes
    """

    batch_records_max: int = 100_000
    batch_bytes_max: int = 16 << 20
    ahead_bytes_max: int = 15 << 20
    rebalance: Rebalance = "eager"
    session_s: float = 10.0
    instance_id: str = ""
    drain_s: float = 8.0
    project: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def consumer_config(options: ReaderOptions, client: Mapping[str, Any]) -> dict[str, Any]:
    """What librdkafka's consumer is told. What keeps events from being lost cannot be overridden.

    client  where the broker is and how to log in, group and client id
    """
    session_ms = int(options.session_s * 1_000)
    member = {"group.instance.id": options.instance_id} if options.instance_id else {}
    return {
        **FETCH,
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": max(session_ms // _HEARTBEATS_A_SESSION, 100),
        "max.poll.interval.ms": max(session_ms, _POLL_INTERVAL_MS),
        "topic.metadata.refresh.interval.ms": _LOOK_FOR_PARTITIONS_MS,
        **member,
        **options.config,
        **client,
        "partition.assignment.strategy": _ASSIGNORS[options.rebalance],
        # The group is told what all sinks hold, by us; what was merely delivered may still be lost.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Our start offsets are the sinks'. One that the broker no longer has is lost data: stop, do not skip.
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "check.crcs": True,
        # The end of a partition is told with its offset: so markers after the last record are passed over too.
        "enable.partition.eof": True,
        "statistics.interval.ms": 1_000,
    }
