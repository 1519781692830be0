"""Row 47: a backfill beside the live stream, killed where it flips."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from featurestore.local import environment_of
from tests.campaign.client import Reader
from tests.campaign.verdict import NotBuiltError, expect, row
from tests.campaign.world import World

_LIMIT_S = 60.0


@row(
    47,
    "backfill beside live",
    "a view filled again under load, SIGKILL near the flip, run again",
    "old or new, never mixed",
)
def backfill(world: World) -> str:
    world.define()
    worker = world.worker()
    world.until_reading(worker)
    world.send(3_000)
    world.until_applied(_LIMIT_S)
    command = [sys.executable, "-m", "featurestore.cli", "backfill"]
    environment = {**environment_of(world.settings), "COLUMNS": "200"}
    asked = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True, timeout=60)
    if asked.returncode:
        raise NotBuiltError("there is no `featurestore backfill`")
    expected = world.expected()
    view = expected.contract.views[0]
    wanted = {name: len(events) for name, events in expected.entities(view).items()}
    kills = 0
    with Reader(world.store, sorted(wanted), keep=True) as reader:
        log = world.folder / "backfill.log"
        took_s = 0.0
        for attempt in range(4):
            with log.open("ab") as output:
                began = time.monotonic()
                running = subprocess.Popen([*command, "by_user"], env=environment, stdout=output, stderr=output)
                try:
                    # The flip is the last thing it does: kill ever later, then let it run.
                    code = running.wait(60 if attempt == 3 else 2.0 + 1.5 * attempt + world.draw.random())
                except subprocess.TimeoutExpired:
                    os.kill(running.pid, 9)
                    running.wait()
                    kills += 1
                    continue
                took_s = time.monotonic() - began
                said = log.read_text(errors="replace")[-300:]
                expect(code == 0, f"backfill ended with {code}: {said}")
                break
    mixed = sum(
        any(n < wanted[u] for u, n in zip(table["user"], table["by_user__n_all"], strict=True))
        for table in reader.tables
    )
    expect(not mixed, f"{mixed} of {reader.reads} lookups gave less than before the backfill")
    expect(not reader.errors, f"{len(reader.errors)} lookups failed: {reader.errors[:1]}")
    world.send(500)
    world.until_applied(_LIMIT_S)
    return f"{kills} kills, then done in {took_s:.0f} s; {reader.reads} lookups, none mixed; {world.check()}"
