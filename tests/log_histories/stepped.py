"""Work in a thread of its own that stands still where others may come between, until it is let go on.

One thread runs at a time, and who goes on is drawn: so a seed repeats the interleaving of several writers.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Semaphore, Thread

import deltalake
from deltalake.transaction import AddAction, RemoveAction

from featurestore.event_time import Mark
from featurestore.offline import EventLog


class KilledError(BaseException):
    """The process ended here; nothing catches that."""


class SteppedWork:
    """Something that is done step by step.

    where  at which place it stands, None when it is done
    error  how it ended, None when it came to its end
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.where: str | None = "begins"
        self.error: BaseException | None = None
        self._work, self._raised = work, None
        self._is_let, self._stands = Semaphore(0), Semaphore(0)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self, raised: BaseException | None = None) -> None:
        """To the next place, or to the end; or this is raised where it stands."""
        self._raised = raised
        self._is_let.release()
        self._stands.acquire()
        if self.where is None:
            # Libraries that are still at the end of a thread end a process of Python badly.
            self._thread.join()

    def end(self) -> None:
        """Whatever it stands at, it goes no further."""
        if self.where is not None:
            self.go_on(KilledError())

    def stand(self, where: str) -> None:
        """Called by the work itself, in its thread."""
        self.where = where
        self._stands.release()
        self._wait()

    def _wait(self) -> None:
        self._is_let.acquire()
        if self._raised is not None:
            raise self._raised

    def _run(self) -> None:
        try:
            self._wait()
            self._work()
        except BaseException as error:
            self.error = error
        self.where = None
        self._stands.release()


class SteppedLog(EventLog):
    """A log that stands still before and after each thing that it does to its table, while it has `work`."""

    # Few enough for histories of a dozen commits.
    _CHECKPOINT_EVERY = 3

    work: SteppedWork | None = None

    def _stand(self, where: str) -> None:
        if self.work is not None:
            self.work.stand(where)

    def _open(self) -> deltalake.DeltaTable:
        self._stand("opens")
        table = super()._open()
        self._stand("has opened")
        return table

    def _create(self) -> deltalake.DeltaTable:
        self._stand("creates")
        table = super()._create()
        self._stand("has created")
        return table

    def _widen(self, table: deltalake.DeltaTable) -> bool:
        self._stand("widens")
        is_wider = super()._widen(table)
        if is_wider:
            self._stand("has widened")
        return is_wider

    def _commit(
        self, table: deltalake.DeltaTable, files: list[AddAction | RemoveAction], moved: dict[int, Mark]
    ) -> None:
        self._stand("has written files")
        super()._commit(table, files, moved)
        self._stand("has committed")
