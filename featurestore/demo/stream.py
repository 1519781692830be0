"""Produce while a worker runs, kill it once, and wait until every sink holds every record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from featurestore.demo.screen import progress_table, redrawn
from featurestore.errors import DemoCheckError
from featurestore.local import ChildServer, start_worker
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.broker import broker_of
from streams.dead_letters import read_letters
from streams.progress import Progress

_KILL_AT = 0.4
_CAUGHT_UP_S = 900.0
# A look asks the broker, the online store and the log: more often would take from the worker what it shows.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """The worker that is running now; records it had to take, and in how long, start and kill included."""

    worker: ChildServer
    records: int
    seconds: float


def stream(
    settings: Settings, repository: Repository, folder: Path, sends: Iterator[int], total: int, console: Console
) -> Streamed:
    """Drive `sends` to its end; `total` records will be in the topics then. Raises DemoCheckError."""
    progress = Progress(settings, repository)
    before = sum(one.done for one in progress.look())
    began = time.monotonic()
    worker = start_worker(settings, folder)
    console.print(f"a worker runs (pid {worker.pid}); it will be killed once, with SIGKILL, and started again")
    looked, killed = began, False
    try:
        with redrawn(console) as show:
            while True:
                is_sent = next(sends, None) is None
                if not is_sent and time.monotonic() - looked < _LOOK_S:
                    continue
                if is_sent:
                    time.sleep(_LOOK_S)
                now = progress.look()
                looked = time.monotonic()
                done = sum(one.done for one in now)
                letters = read_letters(broker_of(settings), settings.project, [one.topic for one in now])
                dead = Counter(letter.topic for letter in letters)
                show(progress_table(now, dead, (done - before) / (looked - began)))
                worker.check()
                if not killed and done - before >= _KILL_AT * (total - before):
                    worker.kill()
                    killed = True
                    console.print(f"[bold red]killed[/] the worker (pid {worker.pid}) at {done:,} of {total:,} records")
                    worker = start_worker(settings, folder)
                    console.print(f"started another one (pid {worker.pid})")
                elif is_sent and done >= total and not any(one.stale for one in now):
                    return Streamed(worker, total - before, looked - began)
                if looked - began > _CAUGHT_UP_S:
                    raise DemoCheckError("stream", f"{total - done} records are not applied after {_CAUGHT_UP_S:.0f} s")
    except BaseException:
        worker.stop()
        raise


def wait_until_applied(settings: Settings, repository: Repository, total: int, limit_s: float = 60.0) -> None:
    """Return when every sink holds `total` records. Raises DemoCheckError."""
    progress, deadline = Progress(settings, repository), time.monotonic() + limit_s
    while True:
        now = progress.look()
        done = sum(one.done for one in now)
        if done >= total and not any(one.stale for one in now):
            return
        if time.monotonic() > deadline:
            raise DemoCheckError("stream", f"{total - done} records are not applied after {limit_s:.0f} s")
        time.sleep(_LOOK_S / 5)
