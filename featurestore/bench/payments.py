"""The fraud job that the stream benchmark runs: payments of a card, drawn by a seed, and the views that count them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

KEYS = 50_000
PARTITIONS = 4
_ZIPF = 1.1
# Five thousand payments a second: a backlog of a million is three minutes of event time, a handful of tiles a row.
_EVERY_US = 200

# A definitions folder of its own, as an author would write it.
_FRAUD = """
from featurestore import Entity, FeatureView, Topic, count, max, sum

card = Entity("card", key="card")
payments = Topic(
    "TOPIC",
    schema={"card": str, "at": "timestamp", "amount": float, "shop": str, "id": str},
    event_time="at",
    key="card",
    partitions=PARTITIONS,
)
spending = FeatureView(
    "spending",
    card,
    payments,
    {
        "payments": count().over("1h", "24h"),
        "spent": sum("amount").over("1h", "24h"),
        "largest": max("amount").over("1h", "24h"),
    },
    lateness="1h",
)
"""
_HEAVY = (
    _FRAUD.replace('"1h", "24h"', '"1h", "6h", "24h", "7d"')
    .replace("count, max, sum", "count, max, mean, min, std, sum")
    .replace(
        '        "largest"',
        '''        "usual": mean("amount").over("1h", "6h", "24h", "7d"),
        "spread": std("amount").over("1h", "6h", "24h", "7d"),
        "smallest": min("amount").over("1h", "6h", "24h", "7d"),
        "largest"''',
    )
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Payments of one topic.

    topic       its name
    zipf        cards of very different use, instead of all alike
    interleaved cards spread over all partitions, so that a batch touches as many rows as it can
    bad_share   records that keep no contract
    blocks      so many of one size; of more than one, every second has bad records, and the first one has none
    """

    topic: str
    zipf: bool = False
    interleaved: bool = False
    bad_share: float = 0.0
    blocks: int = 1


UNIFORM = Backlog("payments")
INTERLEAVED = Backlog("payments-interleaved", interleaved=True)
ZIPF = Backlog("payments-zipf", zipf=True)
BAD = Backlog("payments-bad", bad_share=0.1, blocks=8)


def write_definitions(folder: Path, topic: str, *, heavy: bool = False) -> Path:
    """The job over a topic, as a folder of definitions."""
    folder.mkdir(parents=True)
    job = (_HEAVY if heavy else _FRAUD).replace("TOPIC", topic).replace("PARTITIONS", str(PARTITIONS))
    (folder / "payments.py").write_text(job)
    return folder


def payment(card: int, at_us: int, amount: float, shop: int, name: str) -> bytes:
    """One payment, about 105 bytes."""
    return f'{{"card":"c{card:06d}","at":{at_us},"amount":{amount:.2f},"shop":"s{shop:05d}","id":"{name}"}}'.encode()


def payments(backlog: Backlog, events: int, last_us: int, *, seed: int = 7) -> Iterator[tuple[bytes, bytes]]:
    """Key and JSON of each payment in the order of time up to `last_us`, five thousand a second."""
    draw = np.random.default_rng(seed)
    cards = _zipf(draw, events) if backlog.zipf else draw.integers(0, KEYS, events)
    amounts = np.round(draw.gamma(2.0, 30.0, events), 2).tolist()
    shops = draw.integers(0, 2_000, events).tolist()
    sizes = block_sizes(backlog, events)
    shares = [0.0 if len(sizes) > 1 and number % 2 == 0 else backlog.bad_share for number in range(len(sizes))]
    is_bad = (draw.random(events) < np.repeat(shares, sizes)).tolist()
    for number, (card, amount, shop) in enumerate(zip(cards.tolist(), amounts, shops, strict=True)):
        name = f"{seed:04d}-{number:011d}"
        value = payment(card, last_us - (events - number) * _EVERY_US, amount, shop, name)
        # The comma that is lost makes it no JSON.
        yield name.encode() if backlog.interleaved else b"c%06d" % card, value.replace(b",", b"", is_bad[number])


def block_sizes(backlog: Backlog, events: int) -> list[int]:
    """How many of so many payments each of its blocks has."""
    edges = [events * number // backlog.blocks for number in range(backlog.blocks + 1)]
    return [end - start for start, end in pairwise(edges)]


def _zipf(draw: np.random.Generator, events: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    weights = 1.0 / np.arange(1, KEYS + 1) ** _ZIPF
    return np.searchsorted(np.cumsum(weights / weights.sum()), draw.random(events)).astype(np.int64)
