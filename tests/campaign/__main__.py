"""`make faults ROUNDS=1`: the rows of the fault matrix, one after another, with real processes.

`python -m tests.campaign --rows 1,5,11-16 --seed 7` runs some of them, and `--seed` runs them again as they were drawn.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.campaign import faults
from tests.campaign.servers import Broker
from tests.campaign.verdict import ROWS, FailedError, NotBuiltError, NotHereError, Row, Status, Verdict
from tests.campaign.world import Say, World

# Rounds are for machines that have a night; nobody has a year.
_ROUNDS_MAX = 1_000
# Of the fault matrix; 50 and 56 come from further down and from outside of it.
_ROWS = "1-28,37-47,50,56"
_COLOURS: dict[Status, str] = {"ok": "green", "FAILED": "red", "not built": "yellow", "not here": "cyan"}


def run_row(row: Row, kafka: Broker, folder: Path, seed: int, say: Say, patience: float) -> Verdict:
    """One row in a world of its own; whatever it raises is its verdict."""
    began = time.monotonic()
    status: Status = "ok"
    world = World(kafka, folder, row.number, seed, say, patience)
    try:
        seen = row.act(world)
    except NotBuiltError as error:
        status, seen = "not built", str(error)
    except NotHereError as error:
        status, seen = "not here", str(error)
    except FailedError as error:
        status, seen = "FAILED", str(error)
    except Exception as error:
        # A row that breaks has shown nothing.
        status, seen = "FAILED", f"{type(error).__name__}: {error}"
        (folder / "traceback").write_text(traceback.format_exc())
    finally:
        world.stop()
    return Verdict(row.number, row.fault, row.injected, row.expected, seen, status, seed, time.monotonic() - began)


def numbers(text: str) -> list[int]:
    """`1,5,11-13` as numbers; raises ValueError for a row that there is not."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    unknown = [number for number in out if number not in ROWS]
    if unknown:
        raise ValueError(f"there is no row {unknown[0]}; rows: {', '.join(map(str, sorted(ROWS)))}")
    return out


def table_of(verdicts: list[Verdict]) -> Table:
    table = Table(title="fault campaign", title_justify="left", show_lines=True)
    for name, ratio in (("row", None), ("fault", 2), ("injected", 3), ("expected", 3), ("seen", 5)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for name in ("verdict", "s", "seed"):
        table.add_column(name, no_wrap=True)
    for one in verdicts:
        colour = _COLOURS[one.status]
        table.add_row(
            str(one.row),
            one.fault,
            one.injected,
            one.expected,
            one.seen.replace("[", "\\["),
            f"[{colour}]{one.status}[/]",
            f"{one.seconds:.0f}",
            str(one.seed),
        )
    return table


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    asked.add_argument("--rounds", type=int, default=1, help="how often, each time from another seed")
    asked.add_argument("--rows", default=_ROWS, help=f"numbers of the matrix: 1,5,11-16; all are {_ROWS}")
    asked.add_argument("--seed", type=int, help="of the first round; the others count on from it")
    asked.add_argument("--patience", type=float, default=1.0, help="times every limit of a wait, on a busy machine")
    asked.add_argument("--json", action="store_true", help="print one JSON object")
    asked.add_argument("--keep", type=Path, help="leave logs and stores of failed rows in this folder")
    chosen = asked.parse_args()
    if not 1 <= chosen.rounds <= _ROUNDS_MAX:
        asked.error(f"--rounds is from 1 to {_ROUNDS_MAX}")
    try:
        rows = [ROWS[number] for number in numbers(chosen.rows)]
    except ValueError as error:
        asked.error(str(error))
    first = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    console, verdicts = Console(stderr=True, width=None), list[Verdict]()
    folder = Path(tempfile.mkdtemp(prefix="featurestore-faults-"))
    # Ended from outside, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kafka = Broker(folder / "kafka", faults.BROKER_SETTINGS)

    def say(line: str) -> None:
        console.print(f"    {line}", highlight=False, markup=False)

    try:
        console.print(f"kafka: starting, in {folder}", highlight=False)
        kafka.start()
        for seed in range(first, first + chosen.rounds):
            for row in rows:
                console.print(f"row {row.number:2}  seed {seed}  {row.fault}: {row.injected}", highlight=False)
                mine = folder / f"{seed}-{row.number}"
                verdict = run_row(row, kafka, mine, seed, say, chosen.patience)
                verdicts.append(verdict)
                colour = _COLOURS[verdict.status]
                console.print(f"    [{colour}]{verdict.status}[/] {verdict.seconds:.0f} s: ", end="")
                console.print(verdict.seen, markup=False, highlight=False)
                if verdict.status == "FAILED" and chosen.keep is not None:
                    shutil.copytree(mine, chosen.keep / mine.name, dirs_exist_ok=True)
                shutil.rmtree(mine, ignore_errors=True)
    finally:
        kafka.stop()
        shutil.rmtree(folder, ignore_errors=True)
    counts = Counter(verdict.status for verdict in verdicts)
    if chosen.json:
        print(json.dumps({"seed": first, "counts": counts, "rows": [asdict(verdict) for verdict in verdicts]}))
    else:
        Console().print(table_of(verdicts))
    console.print(", ".join(f"{number} {status}" for status, number in sorted(counts.items())), highlight=False)
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
