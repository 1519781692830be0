"""`featurestore backfill` and `featurestore replay`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from featurestore.event_time import as_datetime

if TYPE_CHECKING:
    from streams.backfill import Moved
    from streams.replay import Replayed


def add_to(app: typer.Typer, console: Console, errors: Console) -> None:
    """Give the command line these commands."""

    @app.command()
    def backfill(
        view: Annotated[str, typer.Argument(help="a feature view with online rows")],
        sample: Annotated[int, typer.Option(help="entities to compare before the flip", min=1)] = 1_000,
        keep_following: Annotated[
            float, typer.Option(help="seconds to keep the new rows fresh after the flip, until workers do", min=0.0)
        ] = 5.0,
        abandon: Annotated[bool, typer.Option("--abandon", help="drop what an unfinished backfill has filled")] = False,
    ) -> None:
        """Fill a shadow of the view's rows from the event log, compare it, and serve it from one moment to the next.

        Killed at any moment, it goes on where it was when it is run again.
        """
        from featurestore.monitoring import compare_shadow
        from featurestore.settings import Settings
        from featurestore.spec import load
        from streams.backfill import Backfill
        from streams.build import online_store

        settings = Settings()
        wanted = load(settings.definitions).view(view)
        store = online_store(settings)
        with _bars(errors) as moved:
            job = Backfill(
                settings,
                wanted,
                lambda row_id, log: compare_shadow(store, wanted, row_id, log, sample),
                moved=moved,
            )
            if abandon:
                console.print("dropped" if job.abandon() else "there was nothing to drop")
                return
            done = job.run(keep_following_s=keep_following)
        console.print(f"{view} is served from {done.row_id}", highlight=False)
        console.print(f"filled: {done.events:,} offsets of version {done.version} of the event log", highlight=False)
        console.print(f"compared: {done.compared}", highlight=False)
        console.print(f"dropped: {done.dropped:,} keys of the rows served before", highlight=False)

    @app.command()
    def replay(
        topic: Annotated[str, typer.Argument(help="the topic")],
        first: Annotated[
            str | None, typer.Option("--from", help="an offset, or a moment of arrival (ISO 8601)")
        ] = None,
        end: Annotated[str | None, typer.Option("--to", help="the same; what lies there is not replayed")] = None,
        view: Annotated[list[str] | None, typer.Option(help="only these views; may be given again")] = None,
        source: Annotated[str, typer.Option(help="kafka, or log where Kafka has it no more")] = "kafka",
        name: Annotated[str | None, typer.Option(help="of the scratch place; made of the question by default")] = None,
        drop: Annotated[bool, typer.Option("--drop", help="delete the scratch place of this replay")] = False,
    ) -> None:
        """Run a range of a topic again into a scratch place, and show what came out; what is served is not touched.

        Killed at any moment, it goes on where it was when it is run again.
        """
        from featurestore.settings import Settings
        from featurestore.spec import load
        from streams.replay import Replay

        if source not in ("kafka", "log"):
            raise typer.BadParameter(f"{source!r} is not a source; say kafka or log")
        settings = Settings()
        with _bars(errors) as moved:
            job = Replay(
                settings,
                load(settings.definitions),
                topic,
                first=first,
                end=end,
                views=view or (),
                source="log" if source == "log" else "kafka",
                name=name,
                moved=moved,
            )
            if drop:
                console.print("dropped" if job.drop() else "there was nothing to drop")
                return
            done = job.run()
        _show(console, done)


def _show(console: Console, done: Replayed) -> None:
    table = Table(
        *("view", "applied", "of these late", "too late", "repeats", "rows"),
        title=f"replay {done.name}",
        title_justify="left",
    )
    for one in done.views:
        numbers = (one.applied, one.late, one.too_late, one.repeats, one.rows)
        table.add_row(one.view, *(f"{number:,}" for number in numbers))
    console.print(table)
    dead = ", ".join(f"{reason} {count:,}" for reason, count in done.dead.items()) or "none"
    said = f"{done.offsets:,} offsets, {done.events:,} events; dead letters: {dead}"
    if done.taken_back:
        said += f"; {done.taken_back:,} taken back by `dead-letters replay`, which count where they stand again"
    console.print(said, highlight=False)
    for one in done.views:
        if one.sample:
            columns = list(one.sample[0])
            title = f"{one.view} at {as_datetime(done.moment_us).isoformat()}"
            shown = Table(*columns, title=title, title_justify="left")
            for row in one.sample:
                shown.add_row(*(str(row[column]) for column in columns))
            console.print(shown)
    console.print(f"log and letters are in {done.folder}; the same command with --drop deletes them", highlight=False)


@contextmanager
def _bars(console: Console) -> Iterator[Moved]:
    """One bar a stage, in offsets."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as shown:

        def moved(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], completed=done, total=total)

        yield moved
