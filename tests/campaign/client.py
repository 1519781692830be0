"""A client that looks features up without a pause: what it got, how fast, and whether time ever went back for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from featurestore.client import FeatureStore
from featurestore.errors import FeatureStoreError
from tests.campaign.verdict import expect


@dataclass(frozen=True, slots=True)
class Answer:
    """One lookup: when it was asked and answered, by the clock that its values are of, and its columns."""

    asked_us: int
    given_us: int
    columns: dict[str, list[Any]]


class Reader:
    """Reads some users every 20 ms in a thread of its own, from `with` to its end.

    keep  every answer, to be looked at afterwards
    """

    def __init__(self, store: FeatureStore, users: Sequence[str], view: str = "by_user", *, keep: bool = False) -> None:
        self._store, self._users, self._view, self._keep = store, list(users), view, keep
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self.reads = 0
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.backwards: list[str] = []
        self.answers: list[Answer] = []

    def p99_s(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)] if self.seconds else 0.0

    def check_forward(self) -> None:
        """No user's watermark ever went back: of a client whose partitions all had rows, which nothing lost."""
        expect(bool(self.reads), "no lookup was answered: nothing was tried")
        expect(not self.backwards, f"a client saw its watermark go back, {len(self.backwards)}x: {self.backwards[:1]}")

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        newest: dict[str, Any] = {}
        while not self._stopping.wait(0.02):
            began, asked_us = time.perf_counter(), time.time_ns() // 1_000
            try:
                table = self._store.get_many(self._view, {"user": self._users}, watermark=True)
            except FeatureStoreError as error:
                self.errors.append(str(error))
                continue
            finally:
                self.seconds.append(time.perf_counter() - began)
            self.reads += 1
            if self._keep:
                self.answers.append(Answer(asked_us, time.time_ns() // 1_000, table.to_pydict()))
            self._compare(newest, table)

    def _compare(self, newest: dict[str, Any], table: Any) -> None:
        marks = table[f"{self._view}__watermark"].to_pylist()
        for user, mark in zip(self._users, marks, strict=True):
            before = newest.get(user)
            if before is not None and (mark is None or mark < before):
                self.backwards.append(f"{user}: {before} -> {mark}")
            if mark is not None:
                newest[user] = mark
