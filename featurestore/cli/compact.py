"""`featurestore compact`: what an event log needs every hour."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.event_time import duration_us

if TYPE_CHECKING:
    from featurestore.online import Backfilling
    from featurestore.spec import Repository


def compact(
    topics: Annotated[list[str] | None, typer.Argument(help="only these topics; default: all")] = None,
    keep: Annotated[
        str,
        typer.Option(help="how long versions of before stay readable, 1h at least; a day outlasts all that reads one"),
    ] = "24h",
) -> None:
    """Make few large files of the many small ones of live events, and remove what no kept version needs.

    To be run every hour. Versions that backfills under way stand at are kept too. One command at a time; workers go on.
    """
    from featurestore.cli import show_table
    from featurestore.client import FeatureStore
    from featurestore.errors import EventLogError
    from featurestore.offline import KEEP_MIN_US, EventLog
    from featurestore.online import Aliases
    from streams.build import online_store

    keep_us = duration_us(keep)
    if keep_us < KEEP_MIN_US:
        raise typer.BadParameter(f"{keep!r} is too short: a file may wait for its commit; say 1h at least")
    store = FeatureStore()
    wanted = [store.repository.topic(name) for name in topics or store.repository.topics]
    aliases = Aliases(online_store(store.settings))
    rows, refused = [], list[EventLogError]()
    for topic in wanted:
        log = EventLog(store.settings.offline_path, topic, project=store.settings.project)
        before = log.files()
        try:
            log.compact()
            # Asked right before: one that begins later begins with the newest version.
            needed = versions_needed(topic.name, store.repository, aliases.backfills())
            cleaned = log.clean(keep_us, time.time_ns() // 1_000, needed)
        except EventLogError as error:
            refused.append(error)
            continue
        numbers = (before, log.files(), cleaned.versions, cleaned.files, cleaned.bytes)
        rows.append([topic.name, *(f"{number:,}" for number in numbers)])
    columns = ["topic", "files before", "files now", "versions removed", "files removed", "bytes freed"]
    show_table("event logs", columns, rows)
    if refused:
        raise refused[0]


def versions_needed(topic: str, repository: Repository, backfills: Mapping[str, Backfilling]) -> list[int]:
    """Versions of a topic's log that backfills stand at; of an unknown view, for all topics."""
    out = []
    for view_id, state in backfills.items():
        view = repository.views.get(view_id.partition("@")[0])
        if view is None or view.source.name == topic:
            out.append(state.version)
    return out
