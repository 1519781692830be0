"""librdkafka's statistics, of which we read a few numbers; and what a reader counts itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from streams.transport.ranges import Place


class _Window(msgspec.Struct):
    avg: int = 0
    p99: int = 0


class _Broker(msgspec.Struct):
    nodeid: int = -1
    state: str = ""
    rtt: _Window = msgspec.field(default_factory=_Window)


class _Partition(msgspec.Struct):
    leader: int = -1
    fetchq_size: int = 0
    ls_offset: int = -1


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Said(msgspec.Struct):
    rxmsgs: int = 0
    rxmsg_bytes: int = 0
    brokers: dict[str, _Broker] = {}
    topics: dict[str, _Topic] = {}


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """One broker as librdkafka sees it."""

    name: str
    is_up: bool
    rtt_avg_us: int
    rtt_p99_us: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the last second.

    ends                end offset of each partition that is read, of committed records
    reachable           partitions whose leader there is a connection to
    fetch_queue_bytes   fetched and not polled yet
    received_records    since the start, also what was thrown away and read again
    """

    ends: dict[Place, int] = field(default_factory=dict)
    reachable: frozenset[Place] = frozenset()
    fetch_queue_bytes: int = 0
    received_records: int = 0
    received_bytes: int = 0
    brokers: tuple[BrokerStatistics, ...] = ()


def read_statistics(said: str | bytes) -> Statistics:
    """What librdkafka says, read; fields that a version of it lacks are zero."""
    read = msgspec.json.decode(said, type=_Said)
    up = {broker.nodeid for broker in read.brokers.values() if broker.state == "UP"}
    places = {(name, int(p)): each for name, topic in read.topics.items() for p, each in topic.partitions.items()}
    return Statistics(
        {place: each.ls_offset for place, each in places.items() if each.ls_offset >= 0},
        frozenset(place for place, each in places.items() if each.leader in up),
        sum(each.fetchq_size for each in places.values()),
        read.rxmsgs,
        read.rxmsg_bytes,
        tuple(
            # Bootstrap and coordinator connections are the same brokers once more.
            BrokerStatistics(name, broker.state == "UP", broker.rtt.avg, broker.rtt.p99)
            for name, broker in read.brokers.items()
            if broker.nodeid >= 0 and name != "GroupCoordinator"
        ),
    )


@dataclass(slots=True)
class ReaderCounts:
    """What a reader did since it started, and how it stands."""

    batches: int = 0
    records: int = 0
    rebalances: int = 0
    pauses: int = 0
    commits_refused: int = 0
    seeks: int = 0
    waiting_records: int = 0
    waiting_bytes: int = 0
    in_hand: int = 0
    in_hand_bytes: int = 0
    finished: int = 0
    paused: int = 0
