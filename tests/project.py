"""A feature repository of its own for one test: definitions, settings, topics, and workers as real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from featurestore.client import FeatureStore
from featurestore.local import LocalStack, environment_of
from featurestore.settings import Settings
from featurestore.spec import load
from streams.progress import Progress
from streams.topics import Topics
from tests import processes
from tests.processes import Process


class Project:
    """Everything that a user's project has, in one folder, on the session's stack."""

    def __init__(self, stack: LocalStack, folder: Path, name: str, definitions: str, **settings: object) -> None:
        self.folder, self.log = folder, folder / "worker.log"
        (folder / "definitions").mkdir(parents=True, exist_ok=True)
        (folder / "definitions" / "all.py").write_text(definitions)
        self.repository = load(folder / "definitions")
        self.settings = Settings.model_validate(
            {
                "project": name,
                "definitions": folder / "definitions",
                "kafka_bootstrap": stack.kafka_bootstrap,
                "redis_url": stack.redis_url,
                "offline_path": folder / "offline",
                "training_path": folder / "training",
                "registry_url": f"sqlite:///{folder / 'registry.db'}",
                "buckets": 8,
                **settings,
            }
        )
        Topics(stack.kafka_bootstrap).create(self.repository.topics.values(), name)
        self.store = FeatureStore(self.settings, self.repository)
        self._workers: list[Process] = []

    def define(self, definitions: str) -> None:
        """Other definitions, for whatever starts from now on."""
        (self.folder / "definitions" / "all.py").write_text(definitions)
        self.repository = load(self.folder / "definitions")
        self.store = FeatureStore(self.settings, self.repository)

    def command(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of our commands.

        given  what it finds in the pipe that is its standard input; by default it has none
        """
        environment = {**environment_of(self.settings), "COLUMNS": "200"}
        if given is None:
            return processes.run("featurestore.cli", *arguments, environment=environment)
        command = [sys.executable, "-m", "featurestore.cli", *arguments]
        return subprocess.run(
            command, env=environment, input=given, capture_output=True, text=True, check=False, timeout=120
        )

    def start_worker(self, *module: str) -> Process:
        """A worker; `module` with its arguments has something happen to it."""
        command, environment = module or ("featurestore.cli", "worker"), environment_of(self.settings)
        worker = processes.start(*command, environment=environment, output=self.log)
        self._workers.append(worker)
        return worker

    def said(self) -> str:
        """The end of what the workers wrote."""
        return self.log.read_text(errors="replace")[-4_000:]

    def wait_until_said(self, text: str, limit_s: float = 120.0) -> None:
        deadline = time.monotonic() + limit_s
        while text not in self.log.read_text(errors="replace"):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def wait_until_applied(self, worker: Process | None = None, limit_s: float = 120.0) -> None:
        """Until every sink holds every record of every topic, and lookups say so."""
        progress, deadline = Progress(self.settings, self.repository), time.monotonic() + limit_s
        while any(one.lag or one.stale for one in progress.look()):
            assert worker is None or worker.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def drain(self, worker: Process) -> None:
        """Let it apply everything, and end as a deployment would end it."""
        self.wait_until_applied(worker)
        worker.terminate()
        assert worker.wait(30) == 0, self.said()

    def stop(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
