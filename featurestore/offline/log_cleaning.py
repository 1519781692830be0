"""What an event log no longer needs: entries of Delta's log, and Parquet files that no version left names.

Delta's own vacuum and log retention go by the time alone, and cannot keep a version that a backfill stands at. Here one
version decides, the base: all from it on stay whole, all before it go, entries first. A process that is killed in
between leaves files that the next one removes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import deltalake
import pyarrow as pa

from featurestore.event_time import HOUR_US

# To read a past version, Delta replays what was committed since the checkpoint before it: a thousand commits at most.
_CHECKPOINTS_EVERY = 1_000
# No shorter keeping: a file is written before its commit, and its writer may stand still in between.
KEEP_MIN_US = HOUR_US


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was removed; bytes of entries and files together."""

    versions: int
    files: int
    bytes: int


def first_version(folder: Path) -> int:
    """The first version of a table that can be read, 0 where nothing was removed."""
    log = folder / "_delta_log"
    if (log / f"{0:020}.json").exists():
        return 0
    return min((_version(path) for path in log.glob("*.checkpoint.parquet")), default=0)


def clean(folder: Path, keep_us: int, now_us: int, needed: Collection[int]) -> Cleaned:
    """Remove what only versions before the base need; the caller sees to it that nobody else cleans.

    keep_us  how long a version stays after another one has come; also the least age of a file that is removed
    needed   versions that stay, with all after them
    """
    assert keep_us >= KEEP_MIN_US, "no file is removed that a writer may be about to commit"
    before_us, log = now_us - keep_us, folder / "_delta_log"
    entries = sorted(path for path in log.glob("*.json") if path.stem.isdecimal())
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    old = [_version(path) for path in entries if _changed_us(path) <= before_us]
    if not old:
        return Cleaned(0, 0, 0)
    first = first_version(folder)
    # The last of these was the newest one when the time began. Those needed may be gone already, which keeps nothing.
    wanted = min([max(old), *(version for version in needed if version >= first)])
    base = max((_version(path) for path in checkpoints if _version(path) <= wanted), default=first)
    gone = [path for path in entries if _version(path) < base]
    # Delta keeps the newest one's name, and opens no table where that is gone.
    others = [path for path in checkpoints[:-1] if _version(path) < base or _is_between(path, base, now_us)]
    # Checkpoints first: without one below it, no entry makes a version that `first_version` would name.
    freed = _removed([*others, *gone])
    named = _named(folder, base, [path for path in entries if _version(path) >= base])
    # A file that was written lately may be one that a writer is about to commit.
    files = [path for path in _files(folder) if path.relative_to(folder).as_posix() not in named]
    files = [path for path in files if _changed_us(path) <= before_us]
    freed += _removed(files)
    return Cleaned(len(gone), len(files), freed)


def _is_between(checkpoint: Path, base: int, now_us: int) -> bool:
    """Whether others serve as well: the base, each thousandth, and those of the last hour, which somebody may read."""
    version = _version(checkpoint)
    return version != base and version % _CHECKPOINTS_EVERY != 0 and _changed_us(checkpoint) < now_us - HOUR_US


def _named(folder: Path, base: int, entries: list[Path]) -> set[str]:
    """Files that the base, or a commit after it, is made of; commits that come meanwhile name younger files."""
    table = deltalake.DeltaTable(str(folder), version=base)
    named = {unquote(path) for path in pa.table(table.get_add_actions())["path"].to_pylist()}
    for entry in entries:
        for line in entry.read_bytes().splitlines():
            action = json.loads(line) if b'"add"' in line else {}
            if "add" in action:
                named.add(unquote(action["add"]["path"]))
    return named


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("date=*/*.parquet")


def _removed(paths: list[Path]) -> int:
    freed = 0
    for path in paths:
        freed += path.stat().st_size
        path.unlink()
    return freed


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])


def _changed_us(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000
