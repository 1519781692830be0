"""The transactions of an event log's table, all at once.

Delta's own call tells one of them and replays the table's log for it: of many partitions, each taken over by itself,
that is the square of their number. Here the newest checkpoint and the entries behind it are read once, and after that
only entries that are new. An entry is never changed, and appears whole under its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

# Further behind than this, a checkpoint is less to read than the entries; a log has one every twenty.
_ENTRIES_MAX = 20


class _Known(NamedTuple):
    """What the transactions of a version say.

    entry  inode and nanosecond of the version's entry: a table that was removed and made again has another one there
    """

    table_id: str
    version: int
    entry: tuple[int, int]
    said: Mapping[str, int]


class LogTransactions:
    """What the transactions of one table say: app id -> version; safe to ask from any thread."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "_delta_log"
        # Replaced, never changed.
        self._known: _Known | None = None

    def newest(self) -> Mapping[str, int] | None:
        """As of the newest version, where that is the one that was asked for last; None where it may be another."""
        known = self._known
        if known is None:
            return None
        try:
            # A disk of several machines looks anew at a folder that is opened, where it may remember what it lacked.
            folder = os.open(self._log, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            if _place(os.stat(_entry(known.version), dir_fd=folder)) != known.entry:
                return None
            os.stat(_entry(known.version + 1), dir_fd=folder)
        except FileNotFoundError as missing:
            return known.said if missing.filename == _entry(known.version + 1) else None
        finally:
            os.close(folder)
        return None

    def at(self, table_id: str, version: int) -> Mapping[str, int]:
        """As of a version that there is; raises FileNotFoundError where a clean-up has removed it."""
        known = self._known
        if known is not None and known.table_id == table_id and 0 <= version - known.version <= _ENTRIES_MAX:
            try:
                return self._know(table_id, version, self._on(known.said, known.version, version))
            except FileNotFoundError:
                # Cleaned away since; then there is a checkpoint.
                pass
        return self._know(table_id, version, self._whole(version))

    def _know(self, table_id: str, version: int, said: Mapping[str, int]) -> Mapping[str, int]:
        try:
            self._known = _Known(table_id, version, _place((self._log / _entry(version)).stat()), said)
        except FileNotFoundError:
            # Of a version whose checkpoint alone was kept.
            self._known = None
        return said

    def _whole(self, version: int) -> Mapping[str, int]:
        checkpoints = {int(path.name.split(".")[0]): path for path in self._log.glob("*.checkpoint.parquet")}
        for since in sorted((each for each in checkpoints if each <= version), reverse=True):
            try:
                table = pq.ParquetFile(checkpoints[since]).read(columns=["txn"])
                said = {one["appId"]: one["version"] for one in table["txn"].drop_null().to_pylist()}
                return self._on(said, since, version)
            except (FileNotFoundError, pa.ArrowInvalid):
                # Removed meanwhile, or cut off by a crash of the machine: an earlier one serves as well.
                continue
        return self._on({}, -1, version)

    def _on(self, said: Mapping[str, int], since: int, version: int) -> Mapping[str, int]:
        """What is said at a version, from what was said at an earlier one."""
        if since == version:
            return said
        out = dict(said)
        for each in range(since + 1, version + 1):
            for line in (self._log / _entry(each)).read_bytes().splitlines():
                action = json.loads(line) if b'"txn"' in line else {}
                if "txn" in action:
                    out[action["txn"]["appId"]] = action["txn"]["version"]
        return out


def _entry(version: int) -> str:
    return f"{version:020}.json"


def _place(told: os.stat_result) -> tuple[int, int]:
    return told.st_ino, told.st_mtime_ns
