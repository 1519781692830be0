"""Lookups in a process of their own, for what is measured: `python -m tests.campaign.lookups VIEW USER...`.

Reads until its input ends, then prints how long each lookup took. Beside the campaign's own loop a client would wait
for the interpreter, which recounts everything while a backlog is applied.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType

from featurestore.client import FeatureStore
from featurestore.local import environment_of
from featurestore.settings import Settings
from tests.campaign.client import Reader


class Lookups:
    """Reads some users every 20 ms, from `with` to its end; then `seconds` has how long each read took."""

    def __init__(self, settings: Settings, users: list[str], view: str = "by_user") -> None:
        self._settings, self._arguments = settings, [view, *users]
        self.seconds: list[float] = []

    def p99_s(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def __enter__(self) -> Lookups:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.lookups", *self._arguments],
            env=environment_of(self._settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # It says a word when it has begun.
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, _ = self._process.communicate(timeout=30)
        if error is None:
            self.seconds = json.loads(told)


def _main(view: str, *users: str) -> None:
    store = FeatureStore()
    # The first one loads what the others use.
    store.get_many(view, {"user": list(users)}, watermark=True)
    with Reader(store, users, view) as reader:
        print("begun", flush=True)
        sys.stdin.read()
    print(json.dumps(reader.seconds))


if __name__ == "__main__":
    _main(*sys.argv[1:])
