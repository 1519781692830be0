"""Servers that a row may hurt: they can be killed, stopped, and started again on their data, at their port."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import redis

from featurestore.local import ChildServer, free_port
from featurestore.local.kafka import start_kafka
from featurestore.local.valkey import start_valkey

_STILL_S = 10.0


def tell(pid: int, number: int) -> None:
    """Signal a process; after SIGSTOP it stands still when this returns, whose threads go on for a moment else."""
    os.kill(pid, number)
    deadline = time.monotonic() + _STILL_S
    while number == signal.SIGSTOP and not _is_still(pid):
        assert time.monotonic() < deadline, f"process {pid} does not stand still"
        time.sleep(0.001)


def _is_still(pid: int) -> bool:
    stats = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            stats.append((task / "stat").read_text())
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


class Valkey:
    """One online store with a folder and a port of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port, self._options = folder, free_port(), options
        self._server: ChildServer | None = start_valkey(folder, self.port, *options)
        self.client = redis.Redis(port=self.port, socket_timeout=30.0)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server = None
        self.client.connection_pool.disconnect()

    def start(self) -> None:
        """Again, on the data that its folder has; raises LocalServerError when it refuses them."""
        self._server = start_valkey(self.folder, self.port, *self._options)

    def signal(self, number: int) -> None:
        assert self._server is not None
        tell(self._server.pid, number)

    def stop(self) -> None:
        self.client.close()
        if self._server is not None:
            self.signal(signal.SIGCONT)
            self._server.stop()

    def log_files(self) -> list[Path]:
        """The parts of its append-only log that commands are added to, oldest first."""
        return sorted(self.folder.glob("appendonlydir/*.incr.aof"))


class Broker:
    """One Kafka with a folder and a port of its own.

    A second listener may be told to clients as another port: a proxy's, which then stands in every client's way.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        self.folder, self.port, self.inner_port = folder, free_port(), free_port()
        self._settings = dict(settings or {})
        self._server: ChildServer | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def proxied(self, proxy_port: int) -> None:
        """Before `start`: clients of `inner_port` are sent to the proxy."""
        controller = free_port()
        self._settings |= {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{self.inner_port},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{proxy_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }

    def start(self) -> Broker:
        self._server = start_kafka(self.folder, self.port, lambda line: None, self._settings)
        return self

    def kill(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server = None

    def signal(self, number: int) -> None:
        assert self._server is not None
        tell(self._server.pid, number)

    def stop(self) -> None:
        if self._server is not None:
            self.signal(signal.SIGCONT)
            self._server.stop()
