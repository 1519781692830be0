"""A Delta table read plainly, commit by commit: what EventLog says of it is held to this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from featurestore.event_time import Mark
from tests.log_histories.events import COLUMNS, PARTITIONS, WIDEST, Row


class PlainTable:
    """Rows and marks of the newest commit that was looked at.

    rows     in the order of partition and offset; one that is there twice comes twice
    marks    as the app transactions have them
    version  -1 before the first commit
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.version = folder, -1
        self._files: dict[str, list[Row]] = {}
        self._transactions: dict[str, int] = {}

    def look(self) -> bool:
        """Take in one more commit, if there is any."""
        path = self._folder / "_delta_log" / f"{self.version + 1:020}.json"
        if not path.exists():
            return False
        self.version += 1
        for action in map(json.loads, path.read_text().splitlines()):
            self._take(action)
        return True

    @property
    def rows(self) -> list[Row]:
        rows = [row for file in self._files.values() for row in file]
        return sorted(rows, key=lambda row: (row["partition"], row["offset"]))

    @property
    def marks(self) -> dict[int, Mark]:
        held, name = self._transactions, WIDEST.name
        return {
            partition: Mark(held[f"{name}/{partition}"], held[f"{name}/{partition}#newest_us"])
            for partition in range(PARTITIONS)
            if f"{name}/{partition}" in held
        }

    def _take(self, action: dict[str, Any]) -> None:
        if "txn" in action:
            self._transactions[action["txn"]["appId"]] = action["txn"]["version"]
        elif "remove" in action:
            # What is not there may be removed once more, says Delta's protocol.
            self._files.pop(action["remove"]["path"], None)
        elif "add" in action:
            added = action["add"]
            rows = pq.ParquetFile(self._folder / added["path"]).read().to_pylist()
            # A file has neither its date nor the columns that came after it.
            self._files[added["path"]] = [
                {name: {**row, **added["partitionValues"]}.get(name) for name in COLUMNS} for row in rows
            ]
