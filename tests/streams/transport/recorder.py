"""A whole worker (Faust, transport, engine thread, exit codes) whose engine keeps a journal instead of features.

`python -m tests.streams.transport.recorder SPEC`, a JSON object. The journal is one file for all workers: a line for
each range applied; where it ends is where a partition is read from, and what ends before that is a duplicate.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import faust

from featurestore.errors import LostTailError
from streams.counts import Counts
from streams.transport import Batch, Consumer, Place, ReaderOptions, Transport
from streams.worker import EnginePort, run_worker, stream_app


class JournalEngine:
    """Applies a batch by writing down its range."""

    def __init__(self, topic: str, spec: dict[str, Any]) -> None:
        self.topic = SimpleNamespace(name=topic)
        self.counts, self.steps = Counts(), 0
        self._spec, self._ends = spec, dict[int, int]()
        self._journal = Path(spec["folder"]) / "journal"
        self._lost, self._stops_at = spec.get("lose_at"), spec.get("stops_at")

    def say(self, *what: object) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps([self._spec["name"], *what]) + "\n")

    def _stands(self, partition: int) -> int:
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()] if self._journal.exists() else []
        ends = [line[4] for line in lines if line[1] in ("applied", "set back") and line[2] == partition]
        return int(ends[-1]) if ends else 0

    def open(self, partition: int) -> int:
        self._ends[partition] = self._stands(partition)
        self.say("opened", partition, self._ends[partition])
        self.say("kept", sum(isinstance(each, faust.Stream) for each in gc.get_objects()))
        return self._ends[partition]

    def close(self, partition: int) -> int | None:
        self.say("closed", partition)
        time.sleep(self._spec.get("close_s", 0.0))
        return self._ends.pop(partition, None)

    def reopen(self, partition: int) -> None:
        self.say("set back", partition, self._ends[partition], self._spec["lose_to"])
        self._ends[partition] = self._spec["lose_to"]

    def stands(self, partition: int) -> int | None:
        return self._ends.get(partition)

    def read_from(self, partition: int) -> Any:
        return self.marks().get(partition)

    def rows_written(self) -> dict[str, int]:
        return {}

    def watermarks(self) -> dict[str, int]:
        return {}

    def marks(self) -> dict[int, Any]:
        return {
            partition: SimpleNamespace(offset=end, newest_us=0, leader_epoch=-1)
            for partition, end in list(self._ends.items())
        }

    def settled(self) -> dict[int, int]:
        return dict(self._ends)

    def undrained(self) -> list[str]:
        return []

    def tick(self) -> None:
        pass

    def apply(self, *batches: Batch) -> None:
        for batch in batches:
            self._apply(batch)

    def _apply(self, batch: Batch) -> None:
        if batch.first_offset != self._ends[batch.partition]:
            self.say("refused", batch.partition, batch.first_offset, batch.end_offset)
            return
        print(f"plain {batch.end_offset}", flush=True)
        if not (self._journal.parent / "fast").exists():
            time.sleep(self._spec.get("batch_s", 0.0))
        if self._lost is not None and batch.end_offset > self._lost:
            self._lost = None
            raise LostTailError("view", batch.topic, batch.partition, self._spec["lose_to"])
        if (fails_at := self._spec.get("fails_at")) is not None and batch.end_offset > fails_at:
            raise ValueError("the body fails")
        if (hangs_at := self._spec.get("hangs_at")) is not None and batch.end_offset > hangs_at:
            self.say("hangs", batch.partition)
            time.sleep(600)
        if self._stops_at is not None and batch.end_offset > self._stops_at:
            self._stops_at = None
            self.say("stops", batch.partition, batch.first_offset, batch.end_offset)
            # To the process, other threads would take it, and this one go on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        self._ends[batch.partition] = batch.end_offset
        is_done = batch.end_offset <= self._stands(batch.partition)
        said = "duplicate" if is_done else "applied"
        self.say(said, batch.partition, batch.first_offset, batch.end_offset, len(batch.values))


class Telling(Consumer):
    """Says which partitions the group gave to others without asking."""

    engine: ClassVar[JournalEngine]

    def lost(self, places: list[Place]) -> None:
        self.engine.say("lost", sorted(partition for _, partition in places))
        super().lost(places)


def main() -> int:
    spec = json.loads(sys.argv[1])
    engine: Any = JournalEngine(spec["topic"], spec)
    port = EnginePort({spec["topic"]: engine}, ReaderOptions(**spec["options"]))
    Telling.engine, Transport.Consumer = engine, Telling
    app = stream_app(spec["group"], spec["bootstrap"], port, str(Path(spec["folder"]) / "faust"))
    return run_worker(
        app, [spec["topic"]], stall_s=spec.get("stall_s", 120.0), log_format=spec.get("log_format", "text")
    )


if __name__ == "__main__":
    sys.exit(main())
