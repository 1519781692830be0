"""The local stack with a worker and the HTTP server, left running until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

from rich.console import Console
from rich.table import Table

from featurestore.errors import LocalServerError
from featurestore.local.process import ChildServer
from featurestore.local.services import command, environment_of, local_settings, start_server, start_worker
from featurestore.local.stack import LocalStack
from featurestore.offline import check_types
from featurestore.settings import Settings
from featurestore.spec import load

_LOOK_S = 0.5


def run_dev(folder: Path, definitions: Path, console: Console) -> None:
    """Return after Ctrl-C; raises LocalServerError when a part ends by itself, or `apply` is refused.

    Raises DefinitionError, or TopicError of a changed type, as `plan` does: before anything is started.
    """
    check_types(folder.resolve() / "offline", load(definitions).topics.values())
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    folder = folder.resolve()
    children: list[ChildServer] = []
    with LocalStack(folder / "stack", console.print) as stack:
        settings = local_settings(stack, folder, definitions.resolve(), "dev")
        file = folder / "featurestore.toml"
        file.write_text(_as_toml(settings))
        applied = subprocess.run(command("apply"), env=environment_of(settings), stderr=subprocess.PIPE, text=True)
        if applied.returncode:
            raise LocalServerError("`featurestore apply`", f"ended with code {applied.returncode}", applied.stderr)
        try:
            children.append(start_worker(settings, folder))
            children.append(start_server(settings, folder))
            _show(settings, file, console)
            while not stopping.wait(_LOOK_S):
                for child in children:
                    child.check()
        finally:
            console.print("ending the server, the worker and the stack")
            while children:
                children.pop().stop()


def _show(settings: Settings, file: Path, console: Console) -> None:
    table = Table(title="running", title_justify="left", show_header=False)
    table.add_row("Kafka", settings.kafka_bootstrap)
    table.add_row("Valkey", settings.redis_url)
    table.add_row("HTTP", f"http://{settings.http_host}:{settings.http_port}")
    table.add_row("logs", f"{file.parent}/worker.log, {file.parent}/server.log")
    console.print(table)
    console.print("try, in another terminal:", highlight=False)
    for line in (
        f"export FEATURESTORE_CONFIG={file}",
        "featurestore settings",
        "featurestore send flight-departures docs/examples/departure.json",
        "featurestore get aircraft_departures tailnum=N14228",
        f"curl 'http://{settings.http_host}:{settings.http_port}/v1/features/aircraft_departures?tailnum=N14228'",
        "featurestore dead-letters list",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends all of it; the data stays for the next time", highlight=False)


def _as_toml(settings: Settings) -> str:
    # A JSON string is a TOML string too.
    values = settings.model_dump(mode="json", exclude_none=True)
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
