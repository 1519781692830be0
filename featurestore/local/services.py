"""Our own processes beside the local stack: a worker and the HTTP server, told by environment where everything is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from featurestore.local.process import ChildServer, answers, free_port
from featurestore.local.stack import LocalStack
from featurestore.settings import Settings

# The first process on a machine compiles the kernel's loops, for half a minute or, where it is slow, for longer.
_READY_S = 180.0
# On one machine a worker with a backlog would make every lookup wait for a turn of its own.
_WORKER_NICE = 15


def local_settings(stack: LocalStack, folder: Path, definitions: Path, project: str) -> Settings:
    """Settings of a store whose every part is on this machine, under one folder."""
    folder = folder.resolve()
    return Settings(
        project=project,
        definitions=definitions,
        kafka_bootstrap=stack.kafka_bootstrap,
        redis_url=stack.redis_url,
        offline_path=folder / "offline",
        training_path=folder / "training",
        registry_url=f"sqlite:///{folder / 'registry.db'}",
        http_port=free_port(),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which a command of ours uses these settings."""
    return {**os.environ, **settings.environment()}


def command(*arguments: str) -> list[str]:
    """Our command line, run by this very Python."""
    return [sys.executable, "-m", "featurestore.cli", *arguments]


def start_worker(settings: Settings, folder: Path, name: str = "local-1") -> ChildServer:
    """A stream worker; it is ready when it has said what it reads."""
    log = folder / ("worker.log" if name == "local-1" else f"worker-{name}.log")
    log.unlink(missing_ok=True)
    environment = {**environment_of(settings), "FEATURESTORE_WORKER_ID": name, "PYTHONUNBUFFERED": "1"}
    return ChildServer(
        "worker", command("worker"), log, lambda: b"reading " in log.read_bytes(), _READY_S, environment, _WORKER_NICE
    )


def start_server(settings: Settings, folder: Path) -> ChildServer:
    """The HTTP server; it is ready when it answers."""

    def is_ready() -> bool:
        return answers(settings.http_port, b"GET /health HTTP/1.1\r\nHost: local\r\n\r\n", b"HTTP/1.1 200")

    return ChildServer("server", command("serve"), folder / "server.log", is_ready, _READY_S, environment_of(settings))
