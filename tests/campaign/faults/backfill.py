"""Row 47: a backfill beside the live stream, killed where it flips."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from featurestore.local import environment_of
from featurestore.online import Aliases, Backfilling
from streams.build import online_store
from tests.campaign.answers import check_whole
from tests.campaign.oracle import SECOND_US
from tests.campaign.verdict import FailedError, NotBuiltError, expect, row
from tests.campaign.world import World

_LIMIT_S = 60.0
# A row is fresh in tenths of a second; what waits for a processor beside us is not the backfill's fault.
_FRESH_S = 10.0
_USERS = 6


@row(
    47,
    "backfill beside live",
    "a view filled again under load, SIGKILL in its fill, at the flip, and after it, run again",
    "old or new, never mixed",
)
def backfill(world: World) -> str:
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    world.send(3_000)
    world.until_applied(_LIMIT_S)
    world.until_told(world.expected())
    command = [sys.executable, "-m", "featurestore.cli", "backfill"]
    environment = {**environment_of(world.settings), "COLUMNS": "200"}
    asked = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True, timeout=60)
    if asked.returncode:
        raise NotBuiltError("there is no `featurestore backfill`")
    job = _Job(world, [*command, "by_user"], environment)
    old_id = job.served
    steady = world.send_steadily(200)
    with world.reader(_USERS) as reader:
        kills = [
            job.killed(lambda: job.state is not None, world.draw.uniform(0.0, 0.2)),
            # As soon as it says that it is about to flip, so right before or right after it did.
            job.killed(lambda: job.stage in ("flip", "flipped"), 0.0),
            # While it hands over, or drops what was served before.
            job.killed(lambda: job.served != old_id, world.draw.uniform(0.5, 4.0)),
        ]
        expect(kills[1].startswith("flip"), f"no kill came near the flip: {kills}")
        new_id = job.id
        took_s = job.ended()
        time.sleep(1)
        steady.stop()
        world.until_applied(_LIMIT_S)
        seen = world.check()
    alias = job.aliases.get(job.view_id)
    expect(alias is not None and alias.is_ready, f"the alias is {alias}")
    expect(job.served == new_id != old_id, f"{job.served} is served, the backfill filled {new_id} beside {old_id}")
    expect(job.state is None, f"it ended, and left {job.state}")
    left = sum(f"}}:{old_id}:row:".encode() in key for key in world.valkey.client.scan_iter(count=1_000))
    expect(left == 0, f"it ended, and left {left} rows of {old_id}")
    whole = check_whole(reader.answers, world.expected(), round(_FRESH_S * world.patience * SECOND_US))
    expect(not reader.errors, f"{len(reader.errors)} lookups failed: {reader.errors[:1]}")
    return f"killed at {', at '.join(kills)}, then done in {took_s:.0f} s; {whole}; {seen}"


class _Job:
    """The backfill as its processes leave it: what it has written down, and what is served."""

    def __init__(self, world: World, command: list[str], environment: dict[str, str]) -> None:
        self._world, self._command, self._environment = world, command, environment
        self._log = world.folder / "backfill.log"
        self.view_id = world.repository.view("by_user").id
        self.aliases = Aliases(online_store(world.direct))

    @property
    def state(self) -> Backfilling | None:
        return self.aliases.backfill(self.view_id)

    @property
    def stage(self) -> str:
        state = self.state
        return "nothing" if state is None else state.stage

    @property
    def id(self) -> str:
        state = self.state
        return "nothing" if state is None else state.id

    @property
    def served(self) -> str:
        return self.aliases.id_of(self.view_id)

    def killed(self, is_time: Callable[[], bool], pause_s: float) -> str:
        """Run it until then, and a little longer, and kill it; at which stage that was, and whether it had flipped."""
        running = self._start()
        try:
            deadline = time.monotonic() + _LIMIT_S * self._world.patience
            while not is_time():
                self._expect_running(running)
                expect(time.monotonic() < deadline, f"backfill stands at {self.stage!r}{self._said()}")
                # A flip follows in milliseconds on the word that it will.
                time.sleep(0.0005)
            time.sleep(pause_s)
            self._expect_running(running)
        finally:
            running.kill()
            running.wait()
        return f"{self.stage} with {self.served.rpartition('@')[2]} served"

    def ended(self) -> float:
        """Run it to its end; seconds that it took."""
        running, began = self._start(), time.monotonic()
        try:
            code = running.wait(_LIMIT_S * self._world.patience)
        except subprocess.TimeoutExpired:
            raise FailedError(f"backfill does not end, it stands at {self.stage!r}{self._said()}") from None
        finally:
            running.kill()
            running.wait()
        expect(code == 0, f"backfill ended with {code}{self._said()}")
        return time.monotonic() - began

    def _expect_running(self, running: subprocess.Popen[bytes]) -> None:
        expect(running.poll() is None, f"backfill ended with {running.returncode} before its kill{self._said()}")

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)

    def _said(self) -> str:
        return f": {self._log.read_text(errors='replace')[-300:]}"
