"""Rows on their way into the event log: gathered on the engine's thread, written on another one.

A Delta commit costs the same for one row as for fifty thousand, so rows wait until there are enough of them or the
oldest is a second old; ten seconds, where commits take long. One commit is at work at a time; when the next one is due
before it is done, the engine waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.event_time import DAY_US, SECOND_US, Mark
from featurestore.offline import log_schema
from streams.sink import Log

# Enough rows for a Parquet file worth its commit, or a second. Commits that touch many days take long: then rows wait
# longer, so that commits stay a small part of the time.
ROWS_MAX = 100_000
# Of large events fewer rows: twice as many bytes may wait while a commit is at work.
BYTES_MAX = 32 << 20
_AGE_MIN_US = SECOND_US
_AGE_MAX_US = 10 * SECOND_US
_SHARE = 10

# Of the log's schema by name, all but the date.
Columns = Mapping[str, npt.NDArray[np.generic] | pa.Array]


class LogWriter:
    """Gathers and writes the rows of one topic; used from one thread. What a commit raises comes with a later call.

    Once a commit has failed, that is raised for ever: a later one would bring the log to marks beyond rows that it
    lacks, on the way to the process' end, and nobody would read them again.

    before  what must be done before each commit, in the same thread: nobody reads again what the log has passed
    """

    def __init__(
        self, log: Log, clock_us: Callable[[], int], before: Callable[[], None], thread: Executor | None = None
    ) -> None:
        self._log, self._clock_us, self._before = log, clock_us, before
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="event-log")
        self._commit: Future[int] | None = None
        self._failure: Exception | None = None
        self._waiting: list[Columns] = []
        self._rows = self._bytes = 0
        self._since_us: int | None = None
        # What the last commit took, and how many rows it brought.
        self._took_us, self._took_rows, self._going = 0, 1, 0

    def put(self, columns: Columns) -> None:
        """More rows; none is fine, they move the marks."""
        # Made a table when it is written: small batches come many times a second, and their tables
        # took a sixth of the engine's time.
        self._waiting.append(columns)
        self._rows += len(columns["partition"])
        self._bytes += sum(each.nbytes for each in columns.values())
        if self._since_us is None:
            self._since_us = self._clock_us()

    @property
    def is_due(self) -> bool:
        """Whether what waits should be written now."""
        if self._since_us is None:
            return False
        batches = max(self._rows / ROWS_MAX, self._bytes / BYTES_MAX)
        if self._commit is not None and not self._commit.done() and batches < 2:
            return False
        # The last commit of a backlog is large, and says little of the few rows that come after it.
        expected_us = self._took_us * min(self._rows / self._took_rows, 1)
        age_us = min(max(_AGE_MIN_US, _SHARE * expected_us), _AGE_MAX_US)
        return batches >= 1 or self._clock_us() - self._since_us >= age_us

    def write(self, marks: Mapping[int, Mark]) -> None:
        """Begin to write all that waits, which brings the log to `marks`."""
        self.finish()
        if self._since_us is None:
            return
        waiting, self._waiting, self._going = self._waiting, [], self._rows
        self._rows, self._bytes, self._since_us = 0, 0, None
        self._commit = self._thread.submit(self._write, waiting, dict(marks))

    def look(self) -> None:
        """Learn of a commit that is done, or of its failure."""
        if self._commit is not None and self._commit.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the commit that is at work."""
        if self._failure is not None:
            raise self._failure
        if self._commit is not None:
            commit, self._commit = self._commit, None
            try:
                self._took_us = commit.result()
            except Exception as error:
                self._failure = error
                raise
            self._took_rows = max(self._going, 1)

    def marks(self) -> dict[int, Mark]:
        """How far each partition has come in the log."""
        return self._log.marks()

    def forget(self) -> None:
        """Look at the log again on the next `marks`."""
        self._log.forget()

    def _write(self, waiting: Sequence[Columns], marks: Mapping[int, Mark]) -> int:
        self._before()
        began_us = self._clock_us()
        self._log.append(self._table(waiting), marks)
        return self._clock_us() - began_us

    def _table(self, waiting: Sequence[Columns]) -> pa.Table:
        schema = log_schema(self._log.topic)
        columns = {
            field.name: pa.chunked_array([some[field.name] for some in waiting], field.type)
            for field in schema
            if field.name != "date"
        }
        return pa.table({**columns, "date": _dates(columns["effective_us"].to_numpy())}, schema=schema)


def _dates(moments_us: npt.NDArray[np.int64]) -> pa.Array:
    """The day of each moment, as text."""
    day = moments_us // DAY_US
    # Sorting costs more than looking, and nearly all batches lie in one day.
    if len(day) and (day == day[0]).all():
        return pa.repeat(pa.scalar(str(day[0].astype("datetime64[D]"))), len(day))
    distinct, which = np.unique(day, return_inverse=True)
    dates = pa.array(distinct.astype("datetime64[D]").astype(str).tolist(), pa.string())
    return dates.take(pa.array(which.reshape(-1)))
