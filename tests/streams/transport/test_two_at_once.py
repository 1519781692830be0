"""Two workers on the same partitions at once: sinks compare and set, so every event counts once."""

from __future__ import annotations

import numpy as np

from featurestore.event_time import SECOND_US
from streams.transport import Batch
from tests.simulation.history import History
from tests.simulation.world import PARTITIONS, TOPIC


class BothRead(History):
    """A drain that timed out: the old owner's writes go on while the new one reads the same batches."""

    def run(self) -> None:
        self._workers = [self._worker() for _ in range(2)]
        for worker in self._workers:
            for partition in range(PARTITIONS):
                self._try(worker, lambda each, p=partition: each.open(p))
        for _ in range(40):
            self._draw.choices([self._deliver, self._other_thread, self._tick], [4, 2, 1])[0]()
        self._heal()
        self._check()


def test_a_batch_that_its_old_owner_still_writes_counts_once() -> None:
    # Trap 14: Faust cancels the body in the middle of a write, and the thread that writes goes on.
    for seed in range(15):
        BothRead(seed).run()


def test_an_empty_batch_moves_every_sink_over_its_markers() -> None:
    history = next(each for each in map(History, range(10)) if each._held[0])
    worker = history._worker()
    history._faulty = False
    worker.open(0)
    end = history._held[0][-1].offset + 1
    history._apply(worker, (0, 0, end))
    nothing = np.empty(0, dtype=np.int64)
    worker.engine.apply(Batch(TOPIC.name, 0, end, end + 3, [], nothing, nothing))
    history._now_us += 20 * SECOND_US
    worker.port._tick()
    worker.engine.flush()
    assert worker.engine.settled() == {0: end + 3}
