"""Two who compact one log at the same time, or one beside a definition that gains a column: no row comes twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import deltalake
import pytest

from featurestore.errors import EventLogError
from featurestore.event_time import Mark
from featurestore.offline import EventLog
from tests.offline.test_event_log import CLICKS, held, rows


class Held(EventLog):
    """Lets something else happen to the table between its look at it and what it does then."""

    between_looks: Callable[[], None] | None = None

    def _open(self) -> deltalake.DeltaTable:
        table = super()._open()
        if self.between_looks is not None:
            self.between_looks()
        return table


def compacting(folder: Path) -> Held:
    log = Held(folder, CLICKS)
    for first in range(0, 20, 5):
        log.append(rows(0, first, first + 5), {0: Mark(first + 5, first)})
    return log


def test_a_log_is_compacted_by_one_at_a_time(tmp_path: Path) -> None:
    log = compacting(tmp_path)

    def compact_too() -> None:
        with pytest.raises(EventLogError, match="somebody else is compacting it"):
            EventLog(tmp_path, CLICKS).compact()

    log.between_looks = compact_too
    log.compact()
    assert held(log) == [(0, offset) for offset in range(20)]
    assert log.files() == 1
    EventLog(tmp_path, CLICKS).compact()


def test_a_log_whose_columns_changed_while_it_was_compacted_stays_as_it_is(tmp_path: Path) -> None:
    log = compacting(tmp_path)

    def widen() -> None:
        deltalake.DeltaTable(str(log.path)).alter.add_columns([deltalake.Field("z", "double")])

    log.between_looks = widen
    with pytest.raises(EventLogError, match="changed while it was compacted"):
        log.compact()
    assert held(log) == [(0, offset) for offset in range(20)]
    log.between_looks = None
    log.compact()
    assert (log.files(), held(log)) == (1, [(0, offset) for offset in range(20)])
