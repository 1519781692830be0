"""What a run of the demo leaves for the next one."""

from __future__ import annotations

from pathlib import Path

import msgspec

_FILE = "held.json"


class Held(msgspec.Struct):
    """Which year is in the topics, and what of it was acknowledged.

    planted     topic -> reason -> bad events among them
    unfinished  events were being sent when the run ended: nobody knows how many arrived
    """

    shifted_us: int
    days: int | None
    acknowledged: dict[str, int]
    planted: dict[str, dict[str, int]]
    unfinished: bool

    def save(self, folder: Path) -> None:
        unfinished = folder / f"{_FILE}.new"
        unfinished.write_bytes(msgspec.json.encode(self))
        unfinished.replace(folder / _FILE)

    def is_year(self, shifted_us: int, days: int | None) -> bool:
        """Whether this is that year, all of it."""
        return (self.shifted_us, self.days, self.unfinished) == (shifted_us, days, False)


def read_held(folder: Path) -> Held | None:
    """What the last run left, None when it left nothing."""
    path = folder / _FILE
    return msgspec.json.decode(path.read_bytes(), type=Held) if path.exists() else None
