"""Marks of all partitions are read at once, and again only where somebody has committed since."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import deltalake
import pytest

from featurestore.event_time import HOUR_US, Mark
from featurestore.offline import EventLog
from tests.offline.test_cleaned import grown, let_age, now_us
from tests.offline.test_event_log import CLICKS, rows


class Counted(EventLog):
    """Counts how often the table was opened."""

    opened = 0

    def _open(self) -> deltalake.DeltaTable:
        self.opened += 1
        return super()._open()


def told(log: EventLog, version: int) -> dict[int, Mark]:
    """The marks of a version, as Delta itself tells them, one transaction after the other."""
    table, out = deltalake.DeltaTable(str(log.path), version=version), {}
    for partition in range(CLICKS.partitions):
        place = f"clicks/{partition}"
        offset, newest_us = table.transaction_version(place), table.transaction_version(f"{place}#newest_us")
        if offset is not None and newest_us is not None:
            out[partition] = Mark(offset, newest_us, f"id-{partition}")
    return out


def test_marks_are_those_that_delta_tells_at_every_version_whoever_wrote_it(tmp_path: Path) -> None:
    seed = 5
    draw, ends = random.Random(seed), dict.fromkeys(range(CLICKS.partitions), 0)
    writers, reader = [EventLog(tmp_path, CLICKS) for _ in range(2)], EventLog(tmp_path, CLICKS)
    for _ in range(50):
        partition, who = draw.randrange(CLICKS.partitions), draw.choice(writers)
        first, end = ends[partition], ends[partition] + draw.randrange(1, 4)
        ends[partition] = end
        who.append(rows(partition, first, end), {partition: Mark(end, 10 * end, f"id-{partition}")})
        if draw.random() < 0.1:
            who.compact()
        if draw.random() < 0.3:
            reader.forget()
            assert reader.marks() == told(reader, reader.version()), f"seed {seed}"
    for version in range(reader.version() + 1):
        assert reader.at(version).marks() == told(reader, version), f"seed {seed}"


def test_a_look_at_a_log_that_nobody_wrote_to_opens_no_table(tmp_path: Path) -> None:
    writer, log = EventLog(tmp_path, CLICKS), Counted(tmp_path, CLICKS)
    for end in (1, 2, 3):
        writer.append(rows(0, end - 1, end), {0: Mark(end, end)})
        for _ in range(20):
            log.forget()
            # The commit of another worker is seen at once.
            assert log.marks() == {0: Mark(end, end)}
        assert log.opened == end


@pytest.mark.parametrize("is_as_long", [True, False])
def test_a_log_that_was_removed_and_made_again_is_looked_at_anew(is_as_long: bool, tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS)
    log.append(rows(0, 0, 5), {0: Mark(5, 5, "old")})
    log.forget()
    assert log.marks() == {0: Mark(5, 5, "old")}
    shutil.move(log.path, tmp_path / "away")
    for end in (2,) if is_as_long else (2, 3):
        EventLog(tmp_path, CLICKS).append(rows(1, 0, end), {1: Mark(end, end, "new")})
    log.forget()
    assert log.marks() == {1: Mark(end, end, "new")}


def test_marks_are_read_where_the_newest_checkpoint_was_cut_off(tmp_path: Path) -> None:
    log = grown(tmp_path)
    newest = max((log.path / "_delta_log").glob("*.checkpoint.parquet"))
    newest.write_bytes(newest.read_bytes()[:100])
    version = int(newest.name.split(".")[0])
    assert log._kept._whole(version) == log.at(version - 1)._kept._on(
        log._kept._whole(version - 1), version - 1, version
    )


def test_a_reader_that_stood_still_while_the_log_was_cleaned_finds_its_marks(tmp_path: Path) -> None:
    log = EventLog(tmp_path, CLICKS)
    log.append(rows(0, 0, 1), {0: Mark(1, 0, "id")})
    log.forget()
    assert log.marks() == {0: Mark(1, 0, "id")}
    other = grown(tmp_path)
    let_age(other, 30)
    other.append(rows(1, 0, 1), {1: Mark(1, 0, "id")})
    assert other.clean(HOUR_US, now_us()).versions
    log.forget()
    assert log.marks() == {0: Mark(30, 29, "id"), 1: Mark(1, 0, "id")}
