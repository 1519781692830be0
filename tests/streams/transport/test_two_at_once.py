"""Two workers on the same partitions at once: sinks compare and set, so every event counts once."""

from __future__ import annotations

from tests.simulation.history import History
from tests.simulation.world import PARTITIONS


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
