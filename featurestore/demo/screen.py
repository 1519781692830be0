"""What the demo shows: tables that people can read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from featurestore.demo.live import Seen
from featurestore.monitoring import Parity
from streams.ledger import TopicLedger
from streams.progress import TopicProgress

# Where nothing can be drawn in place, a table every so often is enough.
_EVERY_S = 10.0


@contextmanager
def redrawn(console: Console) -> Iterator[Callable[[Table], None]]:
    """Show tables in place of one another on a terminal, and one now and then elsewhere."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda table: live.update(table, refresh=True)
        return
    shown = [0.0]

    def show(table: Table) -> None:
        if time.monotonic() - shown[0] > _EVERY_S:
            shown[0] = time.monotonic()
            console.print(table)

    yield show


def progress_table(topics: Sequence[TopicProgress], dead: Mapping[str, int], rate: float) -> Table:
    """Records of each topic and what became of them so far; `dead` counts the letters of each."""
    table = _table(f"stream: {rate:,.0f} records/s", "topic", "produced", "applied", "lag", "dead letters")
    for one in topics:
        table.add_row(one.topic, f"{one.end:,}", f"{one.done:,}", f"{one.lag:,}", f"{dead.get(one.topic, 0):,}")
    return table


def features_table(title: str, view: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    """One line a feature, one column an entity; status, age and watermark last."""
    table = _table(title, "feature", *("/".join(str(row[key]) for key in keys) for row in rows))
    for column in rows[0]:
        if column.startswith(f"{view}__"):
            table.add_row(column.removeprefix(f"{view}__"), *(_shown(column, row[column]) for row in rows))
    return table


def parity_table(found: Sequence[Parity], moment: str) -> Table:
    """What was compared and what differed."""
    table = _table(
        f"online = point-in-time join, bit for bit, at {moment}", "view", "entities", "values", "not null", "mismatches"
    )
    for one in found:
        table.add_row(one.view, f"{one.pairs:,}", f"{one.values:,}", f"{one.not_null:,}", f"{len(one.mismatches):,}")
    return table


def mismatch_table(found: Sequence[Parity], limit: int = 20) -> Table:
    """Both values of what differed."""
    table = _table("mismatches", "view", "entity", "feature", "online", "offline")
    for one in [mismatch for parity in found for mismatch in parity.mismatches][:limit]:
        table.add_row(one.view, str(one.entity), one.feature, repr(one.online), repr(one.offline))
    return table


def ledger_table(found: Sequence[TopicLedger], produced: Mapping[str, int]) -> Table:
    """Produced = applied + dead letters."""
    table = _table("ledger: produced = applied + dead letters", "topic", "produced", "applied", "dead letters", "")
    for one in found:
        reasons = ", ".join(f"{reason} {count}" for reason, count in one.dead.items()) or "none"
        total = produced[one.topic]
        fits = "balanced" if one.balanced and one.records == total else f"broker has {one.records:,}"
        table.add_row(one.topic, f"{total:,}", f"{one.applied:,}", reasons, fits)
    return table


def live_table(seen: Seen, number: int, tailnum: str) -> Table:
    """The newest live event as a lookup shows it."""
    table = _table(f"live: event {number} of {tailnum}", "sent delay", "served", "flights 24h", "age", "freshness")
    row = seen.row
    table.add_row(
        str(seen.delay),
        str(row["aircraft_departures__last_delay"]),
        str(row["aircraft_departures__flights_24h"]),
        _age(row["aircraft_departures__age_s"]),
        f"{seen.freshness_s * 1e3:.1f} ms",
    )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _shown(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column.endswith("__age_s"):
        return _age(value)
    if column.endswith("__watermark"):
        return str(value)[:19].replace("T", " ")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e3:.0f} ms"
