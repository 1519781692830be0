"""Commands. Each is a few lines over the rooms below; errors of ours are one line, without a traceback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from featurestore.client import FeatureStore

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
    """Read the definitions, create their Kafka topics, write their equivalents to Feast's registry."""
    from featurestore.feast.registry import FeastRegistry
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.topics import Topics

    chosen = Settings()
    repository = load(chosen.definitions)
    made = Topics(chosen.kafka_bootstrap).create(repository.topics.values())
    rows = [[view.name, view.version, view.source.name, str(len(view.outputs))] for view in repository.views.values()]
    show_table("feature views", ["view", "version", "topic", "features"], rows)
    console.print(f"created {len(made)} topics" + (": " + ", ".join(made) if made else ""))
    changes = FeastRegistry(chosen).apply(repository)
    console.print("Feast registry: " + (", ".join(changes) if changes else "nothing to change"))


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


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="a feature service or view")],
    keys: Annotated[list[str], typer.Argument(help="entity keys as key=value")],
) -> None:
    """Look features of one entity up, with age and status."""
    from featurestore.client import FeatureStore

    store = FeatureStore()
    row = store.get(name, dict(_pair(store, name, key) for key in keys))
    show_table(name, ["feature", "value"], [[column, str(value)] for column, value in row.items()])


def _pair(store: FeatureStore, name: str, text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    kinds = {k: s.view.source.schema[k] for s in store.repository.service(name).selections for k in s.view.entity.keys}
    if kinds.get(key) == "int64" and value.lstrip("-").isdigit():
        return key, int(value)
    if kinds.get(key) == "bool" and value in ("true", "false"):
        return key, value == "true"
    return key, value
