"""Commands. Each is a few lines over the rooms below; errors of ours are one line, without a traceback."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from featurestore.errors import FeatureStoreError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()


def main() -> None:
    """Entry point of `featurestore`."""
    try:
        app()
    except FeatureStoreError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", markup=True, highlight=False)
        sys.exit(1)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table that people can read."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@app.command()
def settings() -> None:
    """Print every setting, without secrets."""
    from featurestore.settings import Settings

    show_table("settings", ["name", "value", "meaning"], [list(row) for row in Settings().shown()])


@app.command()
def apply() -> None:
    """Read the definitions and create their Kafka topics."""
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.topics import Topics

    chosen = Settings()
    repository = load(chosen.definitions)
    made = Topics(chosen.kafka_bootstrap).create(repository.topics.values())
    rows = [[view.name, view.version, view.source.name, str(len(view.outputs))] for view in repository.views.values()]
    show_table("feature views", ["view", "version", "topic", "features"], rows)
    console.print(f"created {len(made)} topics" + (": " + ", ".join(made) if made else ""))


@app.command()
def worker() -> None:
    """Run one stream worker until it is told to stop."""
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.build import build_worker
    from streams.worker import run_worker

    chosen = Settings()
    built = build_worker(chosen, load(chosen.definitions))
    raise typer.Exit(run_worker(built, list(built.port.engines)))


@app.command("dead-letters")
def dead_letters(
    topic: Annotated[str | None, typer.Argument(help="only this topic's letters")] = None,
    limit: Annotated[int, typer.Option(help="how many to show")] = 20,
) -> None:
    """Show the events that could not be applied, with their reasons."""
    from collections import Counter

    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.dead_letters import read_letters

    chosen = Settings()
    repository = load(chosen.definitions)
    names = list(repository.topics) if topic is None else [repository.topic(topic).name]
    letters = read_letters(chosen.kafka_bootstrap, names)
    rows = [
        [
            one.topic,
            f"{one.partition}/{one.offset}",
            one.reason,
            one.detail,
            (one.payload or b"").decode("utf-8", "replace")[:60],
        ]
        for one in letters[:limit]
    ]
    show_table("dead letters", ["topic", "partition/offset", "reason", "detail", "payload"], rows)
    counts = Counter((one.topic, one.reason) for one in letters)
    show_table("by reason", ["topic", "reason", "letters"], [[t, r, str(n)] for (t, r), n in sorted(counts.items())])
