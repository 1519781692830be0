"""The fraud job that the stream benchmark runs: payments of a card, drawn by a seed, and the views that count them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

TOPIC = "payments"
KEYS = 50_000
_ZIPF = 1.1
_EVERY_US = 200

# A definitions folder of its own, as an author would write it.
FRAUD = """
from featurestore import Entity, FeatureView, Topic, count, max, sum

card = Entity("card", key="card")
payments = Topic(
    "payments",
    schema={"card": str, "at": "timestamp", "amount": float, "shop": str, "id": str},
    event_time="at",
    key="card",
    partitions=4,
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
HEAVY = (
    FRAUD.replace('"1h", "24h"', '"1h", "6h", "24h", "7d"')
    .replace("count, max, sum", "count, max, mean, min, std, sum")
    .replace(
        '        "largest"',
        '''        "usual": mean("amount").over("1h", "6h", "24h", "7d"),
        "spread": std("amount").over("1h", "6h", "24h", "7d"),
        "smallest": min("amount").over("1h", "6h", "24h", "7d"),
        "largest"''',
    )
)


def write_definitions(folder: Path, text: str) -> Path:
    """The definitions as a folder."""
    folder.mkdir(parents=True)
    (folder / "payments.py").write_text(text)
    return folder


def payments(events: int, last_us: int, *, zipf: bool, seed: int = 7) -> Iterator[tuple[bytes, bytes]]:
    """Key and JSON of each payment, about 105 bytes, in the order of time up to `last_us`, five thousand a second."""
    draw = np.random.default_rng(seed)
    cards = _zipf(draw, events) if zipf else draw.integers(0, KEYS, events)
    amounts = np.round(draw.gamma(2.0, 30.0, events), 2).tolist()
    shops = draw.integers(0, 2_000, events).tolist()
    for number, (card, amount, shop) in enumerate(zip(cards.tolist(), amounts, shops, strict=True)):
        at_us = last_us - (events - number) * _EVERY_US
        about = f'{{"card":"c{card:06d}","at":{at_us},"amount":{amount:.2f}'
        yield b"c%06d" % card, f'{about},"shop":"s{shop:05d}","id":"{seed:04d}-{number:011d}"}}'.encode()


def _zipf(draw: np.random.Generator, events: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    weights = 1.0 / np.arange(1, KEYS + 1) ** _ZIPF
    return np.searchsorted(np.cumsum(weights / weights.sum()), draw.random(events)).astype(np.int64)
