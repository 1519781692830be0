"""Commands. Each is a few lines over the rooms below; errors of ours are one line, without a traceback."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from featurestore.cli import backfill
from featurestore.cli.compact import compact
from featurestore.cli.dead_letters import letters_app
from featurestore.cli.expired import skip_expired
from featurestore.cli.forget_log import forget_log
from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from featurestore.feast.registry import FeastRegistry
    from featurestore.settings import Settings
    from featurestore.spec import Repository

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
# What goes into a file or another program is not folded to the eighty columns of a screen that is not there.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
errors = Console(stderr=True)
app.add_typer(letters_app, name="dead-letters")
backfill.add_to(app, console, errors)
app.command("skip-expired")(skip_expired)
app.command("forget-log")(forget_log)
app.command()(compact)


def main() -> None:
    """Entry point of `featurestore`."""
    try:
        app()
    except FeatureStoreError as error:
        _say_error(str(error))
    except ValidationError as error:
        # Settings that cannot be: name each one and what is wrong with it.
        wrong = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        _say_error("; ".join(f"setting {name}: {what}" for name, what in wrong))


def _say_error(message: str) -> None:
    errors.print("[bold red]error:[/]", end=" ")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table that people can read."""
    console.print(table_of(title, columns, rows))


def table_of(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """The same, not yet printed."""
    # On narrow screens a long word is broken rather than cut off: names have to be readable.
    table = Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


@app.command()
def settings() -> None:
    """Print every setting, without secrets."""
    from featurestore.settings import Settings

    show_table("settings", ["name", "value", "meaning"], [list(row) for row in Settings().shown()])


@app.command()
def plan() -> None:
    """Show what `apply` would change, whom it affects, and how large each view's rows are. Changes nothing."""
    from featurestore.kernel import row_bytes

    chosen, repository = _definitions()
    with _registry()(chosen) as registry:
        applied = {
            one.name: one.tags.get("featurestore.version", "") for one in registry.listing() if one.kind == "view"
        }
    rows = []
    for view in repository.views.values():
        change = "" if applied.get(view.name) == view.version else "change" if view.name in applied else "new"
        services = [each.name for each in repository.services.values() if view in [s.view for s in each.selections]]
        sizes = row_bytes(view.plan)
        more = " + texts" if sizes.has_texts else ""
        told = [f"{size:,}{more}" for size in (sizes.cold, sizes.dense, sizes.most)]
        rows.append([change, view.name, *told, ", ".join(services) if change else ""])
    rows += [["remove", name, "", "", "", ""] for name in sorted(set(applied) - set(repository.views))]
    columns = ["", "view", "bytes a row, one event", "every tile full", "of any numbers", "services affected"]
    show_table("plan", columns, rows)
    changes = sum(bool(row[0]) for row in rows)
    console.print(
        f"plan: {changes} of {len(rows)} views would change; a changed view is computed anew from its event log"
    )


def _definitions() -> tuple[Settings, Repository]:
    """The definitions as they are, refused where the event logs do not allow them."""
    from featurestore.offline import check_types
    from featurestore.settings import Settings
    from featurestore.spec import load

    chosen = Settings()
    repository = load(chosen.definitions)
    check_types(chosen.offline_path, repository.topics.values())
    return chosen, repository


def _registry() -> type[FeastRegistry]:
    """Feast takes seconds to import: only what the definitions do not refuse waits for it."""
    from featurestore.feast.slim import import_slim

    import_slim()
    from featurestore.feast.registry import FeastRegistry

    return FeastRegistry


@app.command()
def apply() -> None:
    """Read the definitions, create their Kafka topics, write their equivalents to Feast's registry."""
    from streams.broker import broker_of
    from streams.topics import Topics

    chosen, repository = _definitions()
    made = Topics(broker_of(chosen)).create(repository.topics.values(), chosen.project)
    rows = [[view.name, view.version, view.source.name, str(len(view.outputs))] for view in repository.views.values()]
    show_table("feature views", ["view", "version", "topic", "features"], rows)
    console.print(f"created {len(made)} topics" + (": " + ", ".join(made) if made else ""))
    with _registry()(chosen) as registry:
        changes = registry.apply(repository)
        listing = registry.listing()
    listed = [
        [one.kind, one.name, one.owner, str(len(one.schema)), one.tags.get("featurestore.version", "")]
        for one in listing
    ]
    show_table("as Feast lists it", ["kind", "name", "owner", "fields", "version"], listed)
    console.print("Feast registry: " + (", ".join(changes) if changes else "nothing to change"))


@app.command()
def worker(
    log_format: Annotated[Literal["text", "json"] | None, typer.Option(help="default: the setting log_format")] = None,
) -> None:
    """Run one stream worker until it is told to stop."""
    from streams.memory import keep_small

    keep_small()
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.build import build_worker
    from streams.worker import run_worker

    chosen = Settings()
    built = build_worker(chosen, load(chosen.definitions))
    code = run_worker(
        built,
        list(built.port.engines),
        chosen.worker_port,
        stall_s=chosen.worker_stall_s,
        log_format=log_format or chosen.log_format,
    )
    raise typer.Exit(code)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="a feature service or view")],
    keys: Annotated[list[str], typer.Argument(help="entity keys as key=value")],
) -> None:
    """Look features of one entity up, with age and status."""
    from featurestore.client import FeatureStore

    store = FeatureStore()
    entity = store.entity_of_text(name, [_pair(key) for key in keys])
    row = store.get(name, entity, watermark=True)
    show_table(name, ["feature", "value"], [[column, str(value)] for column, value in row.items()])


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not key=value, such as tailnum=N14228")
    return key, value


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="a training job")],
    spine: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="Parquet file: entity keys, event_timestamp, label, baseline columns"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Join a spine with its job's features, train, and judge the model beside one without them."""
    import pyarrow.parquet as pq

    from featurestore.client import FeatureStore
    from featurestore.training.job import run_job

    store = FeatureStore()
    job = store.repository.job(name)
    result = run_job(store, job, pq.read_table(spine), say=lambda line: errors.print(f"  {line}", highlight=False))
    rows = [
        [one.name, str(one.columns), f"{one.trained_rows:,}", f"{one.judged_rows:,}", one.device]
        + [f"{value:.3f}" for value in (one.auc, one.precision, one.recall)]
        for one in (result.baseline, result.model)
        if one is not None
    ]
    title = f"{name} on training set {result.training_set.id}"
    table = table_of(title, ["model", "columns", "trained", "judged", "device", "AUC", "precision", "recall"], rows)
    if not as_json:
        console.print(table)
        return
    with console.capture() as drawn:
        console.print(table)
    said = {
        "training_set": result.training_set.id,
        "baseline": None if result.baseline is None else asdict(result.baseline),
        "model": asdict(result.model),
        "table": drawn.get(),
    }
    print(json.dumps(said))


@app.command()
def serve() -> None:
    """Serve lookups over HTTP until told to stop."""
    from featurestore.server import serve as serve_http
    from featurestore.settings import Settings

    serve_http(Settings())


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="where its servers keep their data")] = Path(".local/demo"),
    definitions: Annotated[Path, typer.Option(help="folder of definition files")] = Path("definitions"),
    days: Annotated[int | None, typer.Option(help="only the last days of the year", min=60)] = None,
    live_seconds: Annotated[float, typer.Option(help="how long the live part takes", min=1.0)] = 20.0,
) -> None:
    """Run the main job on a year of real flights: everything from a local Kafka to a trained model, checked."""
    from featurestore.demo.run import Demo

    Demo(folder, definitions, days=days, live_s=live_seconds, console=console).run()


@app.command()
def dev(
    folder: Annotated[Path, typer.Option(help="where its servers keep their data")] = Path(".local/dev"),
) -> None:
    """Run Kafka, Valkey, a worker and the HTTP server on this machine until Ctrl-C."""
    from featurestore.local.dev import run_dev
    from featurestore.settings import Settings

    run_dev(folder, Settings().definitions, console)


def _there(file: Path) -> Path:
    # Typer's own `exists=True` looks for a file of the name '-'.
    if str(file) != "-" and not file.exists():
        raise typer.BadParameter(f"file {str(file)!r} does not exist.")
    return file


@app.command()
def send(
    topic: Annotated[str, typer.Argument(help="the topic")],
    file: Annotated[
        Path,
        typer.Argument(
            help="one JSON object a line; '-': standard input", allow_dash=True, dir_okay=False, callback=_there
        ),
    ],
) -> None:
    """Check events against their topic's contract and send them; nothing is sent when one of them breaks it."""
    from rich.progress import Progress

    from featurestore.errors import InvalidEventError, NotAcknowledgedError
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.broker import admin_client, broker_of
    from streams.producer import EventProducer
    from streams.schemas import schemas_at
    from streams.send import Fate, checked, opened

    chosen = Settings()
    wanted = load(chosen.definitions).topic(topic)
    with opened(file) as source, Progress(console=errors, disable=not errors.is_terminal) as bars:
        begin = source.tell()
        size = source.seek(0, os.SEEK_END) - begin
        source.seek(begin)
        checking = bars.add_task("checking", total=size)
        for part in checked(wanted, source, size):
            bars.advance(checking, part.read_bytes)
        bars.update(checking, completed=size)
        broker = broker_of(chosen)
        admin_client(broker)  # says at once when nobody is there
        sending, fate = bars.add_task("sending", total=size), Fate(topic)
        source.seek(begin)
        try:
            with EventProducer(broker, schemas=schemas_at(chosen.schema_address)) as producer:
                for part in checked(wanted, source, size):
                    part.send(producer, fate)
                    bars.advance(sending, part.read_bytes)
                    if not fate.goes_on():
                        break
        except InvalidEventError as error:
            fate.end()
            fate.check()
            said = f"the file was changed after it was checked, and {fate.acknowledged:,} events before are sent"
            raise InvalidEventError(topic, f"{error.detail}; {said}") from error
        except NotAcknowledgedError:
            # Of lines without an answer, which are named with those that were refused.
            fate.check()
            raise
        fate.check()
        bars.update(sending, completed=size)
    events = fate.acknowledged
    records = producer.acknowledged[topic]
    said = f" in {records:,} records" if records != events else ""
    console.print(f"{events:,} events acknowledged{said}")


# What each of them can be told.
_BENCHMARKS: dict[str, tuple[str, ...]] = {
    "stream": ("--json", "--events", "--rounds"),
    "kernel": ("--json", "--rounds"),
    "growth": (),
    "trade": ("--json", "--events", "--rounds", "--plot"),
}


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="stream, kernel, growth, or trade")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    # Of a million a run lasts two seconds, much of it beginning and end.
    events: Annotated[
        int | None, typer.Option(help="stream, trade: how many payments; 2,000,000 by default", min=200_000)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="all but growth: how often each side is measured; 3 times by default", min=1)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="trade: where its plot goes, as SVG")] = None,
) -> None:
    """Measure, side by side with a peer or a limit, in one run; `growth` prints its curves as an SVG."""
    from featurestore.bench.growth import as_svg, growth
    from featurestore.bench.kernel import bench_kernel
    from featurestore.bench.stream import bench_stream
    from featurestore.bench.trade import Sizes, bench_trade
    from featurestore.bench.trade_plot import as_svg as trade_svg
    from featurestore.errors import UnknownObjectError

    def say(line: str) -> None:
        errors.print(f"  {line}", highlight=False)

    if name not in _BENCHMARKS:
        raise UnknownObjectError("benchmark", name, list(_BENCHMARKS))
    given = {"--json": as_json or None, "--events": events, "--rounds": rounds, "--plot": plot}
    for option, value in given.items():
        if value is not None and option not in _BENCHMARKS[name]:
            has = f"it has {', '.join(_BENCHMARKS[name])}" if _BENCHMARKS[name] else "it has no options"
            raise typer.BadParameter(f"the benchmark {name!r} has no {option}; {has}")
    events, rounds = events or 2_000_000, rounds or 3
    if name == "stream":
        found = bench_stream(events=events, rounds=rounds, say=say)
    elif name == "kernel":
        found = bench_kernel(rounds, say)
    elif name == "growth":
        print(as_svg(growth(say)), end="")
        return
    else:
        if plot is not None and not plot.parent.is_dir():
            # Said before minutes of measuring, not after.
            raise typer.BadParameter(f"there is no folder {str(plot.parent)!r} for the plot")
        trade = bench_trade(Sizes(events=events, rounds=rounds), say)
        if plot is not None:
            plot.write_text(trade_svg(trade))
        print(trade.as_json() if as_json else trade.as_markdown())
        return
    if as_json:
        print(found.as_json())
    else:
        console.print(found.as_table())


@app.command()
def aggregates() -> None:
    """Show every aggregate: what it takes, what it keeps for each tile, and how exact it is."""
    from featurestore.kernel.aggregates.catalogue import FUNCTIONS, described

    rows = [list(described(name)) for name in FUNCTIONS]
    show_table("aggregates", ["name", "takes", "partials", "bytes a tile", "windows", "exactness"], rows)


@app.command()
def ledger(
    topic: Annotated[str | None, typer.Option(help="only this topic")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Prove that every record is applied, a repeat, a dead letter or expired, once; the stream must stand still.

    Everything is read: the event log, the dead letters, and of the broker what neither of them knows. While events
    come, or a worker is behind, the counts cannot be equal. Exit code 1 where a topic is not balanced.
    """
    from featurestore.errors import GrownTopicError
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.ledger import ledgers

    chosen = Settings()
    found = ledgers(chosen, load(chosen.definitions), topic)
    if as_json:
        print(json.dumps({"topics": [{**asdict(one), "balanced": one.balanced} for one in found]}))
    else:
        rows = []
        for one in found:
            dead = ", ".join(f"{reason} {count:,}" for reason, count in one.dead.items())
            numbers = (one.records, one.applied, one.repeated, sum(one.dead.values()))
            more = [dead, *(f"{number:,}" for number in (one.expired, one.twice, one.replayed))]
            more.append("yes" if one.balanced else "NO")
            rows.append([one.topic, *(f"{number:,}" for number in numbers), *more])
        columns = ["topic", "records", "applied", "repeated", "dead", "by reason", "expired", "twice", "replayed"]
        show_table("ledger: records = applied + repeated + dead + expired", [*columns, "balanced"], rows)
    if unreadable := sum(one.unreadable for one in found):
        errors.print(f"{unreadable:,} records among the letters hold none and are left out", highlight=False)
    for one in found:
        if one.unread:
            said = GrownTopicError(one.topic, one.unread[0], one.unread[-1] + 1)
            errors.print(str(said), highlight=False, markup=False)
    if not all(one.balanced for one in found):
        raise typer.Exit(1)
