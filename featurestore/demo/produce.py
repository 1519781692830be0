"""The year of flights into Kafka, in the order in which things became known, with bad events at known places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from featurestore.demo.flights import Flights, bad_events, json_lines
from featurestore.errors import NotAcknowledgedError
from featurestore.spec import Topic
from streams.producer import EventProducer

SEED = 2013
# How many sends lie between two looks at the clock of whoever shows the progress.
_STEP = 2_000


@dataclass(frozen=True)
class Year:
    """All sends in order.

    lines    topic -> JSON of each good event
    keys     topic -> key of each
    bad      topic -> place -> (reason, bytes) of a bad event that goes before the good one there
    topic    (n) which topic each send is of, by its place in `lines`
    place    (n) which event of the topic
    """

    lines: Mapping[str, list[bytes]]
    keys: Mapping[str, list[str | None]]
    bad: Mapping[str, Mapping[int, tuple[str, bytes]]]
    topic: np.ndarray
    place: np.ndarray

    @property
    def total(self) -> int:
        return len(self.topic) + sum(len(bad) for bad in self.bad.values())

    @property
    def planted(self) -> dict[str, Counter[str]]:
        """Topic -> reason -> bad events."""
        return {topic: Counter(reason for reason, _ in bad.values()) for topic, bad in self.bad.items()}


def compose(flights: Flights, topics: Mapping[str, Topic]) -> Year:
    """Lay the year out."""
    lines = {name: json_lines(frame) for name, frame in flights.events.items()}
    known = np.concatenate([frame["known_us"].to_numpy() for frame in flights.events.values()])
    topic = np.concatenate([np.full(len(each), index) for index, each in enumerate(lines.values())])
    place = np.concatenate([np.arange(len(each)) for each in lines.values()])
    order = np.argsort(known, kind="stable")
    keys = {name: frame[topics[name].key or ""].to_list() for name, frame in flights.events.items()}
    bad = {name: bad_events(name, each, SEED) for name, each in lines.items()}
    return Year(lines, keys, bad, topic[order], place[order])


def send(year: Year, topics: Mapping[str, Topic], producer: EventProducer) -> Iterator[int]:
    """Send everything; yields now and then how much was sent. Flushes at the end."""
    names = list(year.lines)
    sent = 0
    for index, place in zip(year.topic.tolist(), year.place.tolist(), strict=True):
        name = names[index]
        bad = year.bad[name].get(place)
        if bad is not None:
            # The key of its neighbour, so that it meets the events that it is too late for.
            key = year.keys[name][place]
            producer.send_raw(name, None if key is None else key.encode(), bad[1])
            sent += 1
        producer.send_json(topics[name], year.lines[name][place])
        sent += 1
        if sent % _STEP < 2:
            yield sent
    producer.flush()
    acknowledged = sum(producer.acknowledged.values())
    if acknowledged != year.total:
        raise NotAcknowledgedError(f"{year.total - acknowledged} of {year.total}")
    yield sent
