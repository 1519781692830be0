"""Kafka and Valkey together, with their data and their ports under one folder."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from featurestore.errors import LocalServerError
from featurestore.local.kafka import Say, start_kafka
from featurestore.local.process import ChildServer, answers, free_port
from featurestore.local.valkey import start_valkey


class LocalStack:
    """A real broker and a real online store on this machine. A second start on a folder finds its data again."""

    def __init__(self, folder: Path, say: Say = lambda line: None) -> None:
        self.folder, self._say = folder.resolve(), say
        self.kafka_bootstrap = f"127.0.0.1:{free_port()}"
        self.valkey_port = free_port()
        self.redis_url = f"redis://127.0.0.1:{self.valkey_port}/0"
        self._children: list[ChildServer] = []

    def start(self) -> LocalStack:
        """Return when both answer. Raises LocalServerError with the end of the server's log."""
        try:
            self._valkey = start_valkey(self.folder / "valkey", self.valkey_port)
            self._children.append(self._valkey)
            self._say(f"valkey: ready at 127.0.0.1:{self.valkey_port}")
            kafka_port = int(self.kafka_bootstrap.rpartition(":")[2])
            self._kafka = start_kafka(self.folder / "kafka", kafka_port, self._say)
            self._children.append(self._kafka)
            self._say(f"kafka: ready at {self.kafka_bootstrap}")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        while self._children:
            self._children.pop().stop()

    @property
    def valkey_pid(self) -> int:
        return self._valkey.pid

    @property
    def kafka_pid(self) -> int:
        return self._kafka.pid

    def forget_rows(self) -> None:
        """Empty Valkey. Raises LocalServerError when it refuses."""
        if not answers(self.valkey_port, b"FLUSHALL ASYNC\r\n", b"+OK"):
            raise LocalServerError("valkey", "does not empty itself", "see its log")

    def set_valkey(self, name: str, value: str) -> None:
        """Change a setting of the running Valkey. Raises LocalServerError when it refuses."""
        if not answers(self.valkey_port, f"CONFIG SET {name} {value}\r\n".encode(), b"+OK"):
            raise LocalServerError("valkey", f"does not take {name} {value}", "see its log")

    def __enter__(self) -> LocalStack:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
