"""A log that is cleaned: what is kept reads as before, what is removed is refused, no event is lost."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import deltalake
import pytest
from deltalake.transaction import AddAction, RemoveAction

from featurestore.cli.compact import versions_needed
from featurestore.errors import GoneVersionError
from featurestore.event_time import DAY_US, HOUR_US, Mark
from featurestore.offline import EventLog, LogSlices
from featurestore.offline.log_cleaning import clean
from featurestore.online import Backfilling
from featurestore.spec import Repository
from tests.offline.test_event_log import CLICKS, held, rows


class Often(EventLog):
    _CHECKPOINT_EVERY = 3


def now_us() -> int:
    return time.time_ns() // 1_000


def let_age(log: EventLog, hours: float) -> None:
    """Everything that lies there was written so long ago."""
    for path in [*log.path.glob("*/*.parquet"), *log.path.glob("*/*.json")]:
        changed = path.stat().st_mtime - hours * 3_600
        os.utime(path, (changed, changed))


def grown(folder: Path, commits: int = 30) -> EventLog:
    """Old small files that were compacted a moment ago, with an event of its own each."""
    log = Often(folder, CLICKS)
    for offset in range(commits):
        log.append(rows(0, offset, offset + 1), {0: Mark(offset + 1, offset)})
    let_age(log, 30)
    log.compact()
    return log


def test_what_was_the_newest_version_a_day_ago_and_all_after_it_read_as_before(tmp_path: Path) -> None:
    log = grown(tmp_path)
    log.append(rows(1, 0, 2), {1: Mark(2, 7)})
    before = {version: held(log.at(version)) for version in range(30, log.version() + 1)}
    cleaned = log.clean(DAY_US, now_us())
    # The day-old version 30 is read from the checkpoint at 30 or earlier.
    assert {version: held(log.at(version)) for version in before} == before
    assert 25 <= cleaned.versions <= 30
    assert cleaned.bytes > 0
    assert len(list((log.path / "_delta_log").glob("*.json"))) == log.version() + 1 - cleaned.versions
    assert EventLog(tmp_path, CLICKS).marks() == {0: Mark(30, 29), 1: Mark(2, 7)}


def test_an_append_removes_nothing_itself_however_old_it_is(tmp_path: Path) -> None:
    log = grown(tmp_path)
    let_age(log, 40 * 24)
    log.append(rows(0, 30, 31), {0: Mark(31, 30)})
    assert held(log.at(2)) == [(0, 0), (0, 1)]


def test_files_of_removed_versions_and_those_never_committed_go_once_they_are_old(tmp_path: Path) -> None:
    log = grown(tmp_path)
    for name in ("old", "young"):
        (log.path / "date=1970-01-01" / f"{name}.parquet").write_bytes(b"never committed")
    os.utime(log.path / "date=1970-01-01" / "old.parquet", (0, 0))
    assert log.clean(DAY_US, now_us()).files == 1
    let_age(log, 25)
    log.append(rows(0, 30, 31), {0: Mark(31, 30)})
    log._open().create_checkpoint()
    let_age(log, 25)
    (log.path / "date=1970-01-01" / "young.parquet").touch()
    assert log.clean(DAY_US, now_us()).files == 30
    files = {path.name for path in log.path.glob("date=*/*.parquet")}
    assert len(files) == 3
    assert "young.parquet" in files
    assert held(log) == [(0, offset) for offset in range(31)]
    log.append(rows(0, 29, 33), {0: Mark(33, 32)})
    assert held(EventLog(tmp_path, CLICKS)) == [(0, offset) for offset in range(33)]


def test_a_version_that_was_removed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    log = grown(tmp_path)
    log.clean(DAY_US, now_us())
    for read in (
        lambda: log.at(4).read(["offset"]),
        lambda: log.at(4).marks(),
        lambda: LogSlices(log, 4),
        lambda: log.at(4).between(0, 0, 4, ["offset"]),
    ):
        with pytest.raises(GoneVersionError, match=r"version 4 of the event log.*first that is there is .*--abandon"):
            read()


def test_a_version_at_which_a_backfill_stands_is_kept_with_all_after_it(tmp_path: Path) -> None:
    log = grown(tmp_path)
    before = {version: held(log.at(version)) for version in range(10, 32)}
    repository = Repository({"clicks": CLICKS}, {}, {})
    needed = versions_needed("clicks", repository, {"by_user@1": Backfilling("by_user@1.g2", 10, "fill")})
    assert 0 < log.clean(HOUR_US, now_us(), needed).versions <= 10
    assert {version: held(log.at(version)) for version in before} == before
    with pytest.raises(GoneVersionError):
        LogSlices(log, 3)


def test_writers_go_on_while_the_log_is_compacted_and_cleaned(tmp_path: Path) -> None:
    log, is_over = grown(tmp_path), threading.Event()
    errors = list[BaseException]()

    def write(partition: int) -> None:
        mine, offset = Often(tmp_path, CLICKS), 0
        try:
            while not is_over.is_set() or offset < 10:
                # Repeats of the last one, too: only marks that outlive the cleaning leave them out.
                mine.append(rows(partition, max(0, offset - 1), offset + 1), {partition: Mark(offset + 1, offset)})
                offset += 1
                ends[partition] = offset
        except BaseException as error:
            errors.append(error)

    ends = {1: 0, 2: 0}
    writers = [threading.Thread(target=write, args=(partition,)) for partition in ends]
    for writer in writers:
        writer.start()
    removed = 0
    for _ in range(3):
        log.compact()
        time.sleep(1)
        # Two seconds of keeping: far more than a commit waits.
        removed += log.clean(HOUR_US, now_us() + HOUR_US - 2_000_000).files
    assert removed >= 30
    is_over.set()
    for writer in writers:
        writer.join()
    assert errors == []
    expected = [(0, offset) for offset in range(30)]
    expected += [(partition, offset) for partition, end in ends.items() for offset in range(end)]
    assert held(EventLog(tmp_path, CLICKS)) == expected
    assert {partition: mark.offset for partition, mark in EventLog(tmp_path, CLICKS).marks().items()} == {0: 30, **ends}


class Slow(EventLog):
    """Cleaned between its files and their commit."""

    def _commit(
        self, table: deltalake.DeltaTable, files: list[AddAction | RemoveAction], moved: dict[int, Mark]
    ) -> None:
        EventLog(self.path.parent, CLICKS).clean(HOUR_US, now_us())
        super()._commit(table, files, moved)


def test_a_file_that_waits_for_its_commit_is_not_removed(tmp_path: Path) -> None:
    grown(tmp_path)
    Slow(tmp_path, CLICKS).append(rows(0, 30, 35), {0: Mark(35, 34)})
    assert held(EventLog(tmp_path, CLICKS)) == [(0, offset) for offset in range(35)]


def test_the_newest_checkpoint_stays_however_old_it_is(tmp_path: Path) -> None:
    log = grown(tmp_path)
    for path in (log.path / "_delta_log").glob("*.checkpoint.parquet"):
        os.utime(path, (0, 0))
    let_age(log, 30)
    before = held(log)
    assert clean(log.path, HOUR_US, now_us(), [10]).versions > 0
    assert held(EventLog(tmp_path, CLICKS)) == before
