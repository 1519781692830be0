"""The campaign's topic and views: once as a user defines them, once more for the oracle; and events to send."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from featurestore.spec.contract import Format
from tests.campaign.oracle import HOUR_US, SECOND_US, Column, Contract, Output, View

_DEFINITIONS = """
from featurestore import Entity, FeatureView, Topic, count, last, max, min, sum

payments = Topic(
    {topic!r},
    schema={{"user": str, "shop": str, "at": "timestamp", "amount": float, "cents": int{column}}},
    event_time="at", key="user", partitions={partitions}, nullable=("amount", "shop"{nullable}),
    format={format!r}, renamed={renamed!r}, {dedupe}
)
by_user = FeatureView("by_user", Entity("user", key="user"), payments, lateness={lateness!r}, features={{
    "n": count().over("1m", "1h"), "n_all": count(), "paid": sum("amount").over("1h"), "cents": sum("cents"),
    "least": min("amount").over("1h"), "most": max("amount"), "last_shop": last("shop"),
    "last_cents": last("cents").over("1m"), "last_amount": last("amount"), {features}
}})
by_shop = FeatureView("by_shop", Entity("shop", key="shop"), payments, lateness="1m", features={{
    "n": count(), "cents": sum("cents").over("1h"), "paid": sum("amount"), "most": max("cents").over("1m"),
    "last_user": last("user"),
}})
"""
# Columns that some topics have more, as parts of the text above.
_ID = {"column": ', "id": str', "nullable": ', "id"', "dedupe": 'dedupe="id", within={within!r},'}
_PRICE = {
    "column": ', "price": "decimal(5, 2)"',
    "nullable": ', "price"',
    "features": '"price": sum("price").over("1h"), "price_all": sum("price"), "cheapest": min("price"), '
    '"dearest": max("price"), "last_price": last("price"),',
}

COLUMNS = {
    "user": Column("text"),
    "shop": Column("text", nullable=True),
    "at": Column("moment"),
    "amount": Column("float", nullable=True),
    "cents": Column("int"),
}
_MINUTE = (60 * SECOND_US, SECOND_US)
_HOUR = (HOUR_US, 60 * SECOND_US)


def definitions(
    topic: str,
    partitions: int,
    lateness: str,
    within: str | None = None,
    *,
    is_priced: bool = False,
    format: Format = "json",
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """As a user writes them.

    within     events carry an id, and repeats of it are left out for so long
    is_priced  events may have a price, a decimal of five digits
    """
    more = dict.fromkeys(("column", "nullable", "features", "dedupe"), "")
    for part in [_ID] * (within is not None) + [_PRICE] * is_priced:
        more |= {place: more[place] + text for place, text in part.items()}
    more["dedupe"] = more["dedupe"].format(within=within)
    told = {"partitions": partitions, "lateness": lateness, "format": format, "renamed": dict(renamed)}
    return _DEFINITIONS.format(topic=topic, **told, **more)


def contract(lateness_us: int, within_us: int | None = None, *, is_priced: bool = False) -> Contract:
    """The same definitions, for the oracle."""
    by_user = {
        "n_1m": Output("count", None, *_MINUTE),
        "n_1h": Output("count", None, *_HOUR),
        "n_all": Output("count", None),
        "paid_1h": Output("sum", "amount", *_HOUR),
        "cents": Output("sum", "cents"),
        "least_1h": Output("min", "amount", *_HOUR),
        "most": Output("max", "amount"),
        "last_shop": Output("last", "shop"),
        "last_cents_1m": Output("last", "cents", *_MINUTE),
        "last_amount": Output("last", "amount"),
    }
    columns = dict(COLUMNS)
    if is_priced:
        columns["price"] = Column("decimal", nullable=True, digits=5, places=2)
        by_user |= {
            "price_1h": Output("sum", "price", *_HOUR),
            "price_all": Output("sum", "price"),
            "cheapest": Output("min", "price"),
            "dearest": Output("max", "price"),
            "last_price": Output("last", "price"),
        }
    by_shop = {
        "n": Output("count", None),
        "cents_1h": Output("sum", "cents", *_HOUR),
        "paid": Output("sum", "amount"),
        "most_1m": Output("max", "cents", *_MINUTE),
        "last_user": Output("last", "user"),
    }
    views = (
        View("by_user", "user", lateness_us, by_user),
        View("by_shop", "shop", 60 * SECOND_US, by_shop),
    )
    if within_us is None:
        return Contract(columns, "at", views)
    return Contract({**columns, "id": Column("text", nullable=True)}, "at", views, "id", within_us)


def now_us() -> int:
    return time.time_ns() // 1_000


def event(draw: random.Random, at_us: int, users: int = 40) -> dict[str, Any]:
    """One payment near a moment: mostly a little late, sometimes too late for shops, or for everybody."""
    late_us = draw.choice([0, 0, 0, draw.randrange(20 * SECOND_US), 70 * SECOND_US, draw.randrange(2 * HOUR_US)])
    return {
        "user": f"u{draw.randrange(users)}",
        "shop": draw.choice([None, *(f"s{number}" for number in range(8))]),
        "at": at_us - late_us + draw.choice([0, 0, 0, SECOND_US]),
        "amount": draw.choice([None, 0.1, -0.0, 1e16, -1e16, 1e-300, draw.uniform(-50, 50)]),
        "cents": draw.randrange(-(10**9), 10**9),
    }


def payloads(draw: random.Random, count: int, users: int = 40) -> Iterator[tuple[bytes, bytes]]:
    """Keys and bytes of so many payments of now."""
    for _ in range(count):
        one = event(draw, now_us(), users)
        yield one["user"].encode(), json.dumps(one).encode()
