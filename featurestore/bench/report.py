"""What every benchmark says, in one shape."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

# Where a figure stands: a figure without a floor is at its aim, or short of it.
Standing = Literal["at the aim", "above the floor", "short of the aim", "under the floor"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One ratio, what is wanted of it, and what it was computed from.

    target  what we aim at; floor: what it must not fall below, where one is set
    raw     the measured things, by name with their unit
    """

    name: str
    value: float
    unit: str
    target: float
    better: Literal["higher", "lower"]
    raw: Mapping[str, float]
    floor: float | None = None

    @property
    def met(self) -> bool:
        """Against the target."""
        return self._reaches(self.target)

    @property
    def stands(self) -> Standing:
        """Against the target and the floor."""
        if self.met:
            return "at the aim"
        if self.floor is None:
            return "short of the aim"
        return "above the floor" if self._reaches(self.floor) else "under the floor"

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.better == "higher" else self.value <= bound


@dataclass(frozen=True, slots=True)
class Bench:
    """All figures of one run, and the machine that it ran on."""

    name: str
    figures: tuple[Figure, ...]
    load_before: float

    def as_json(self) -> str:
        """One object."""
        figures = [
            {
                "name": one.name,
                "value": round(one.value, 4),
                "unit": one.unit,
                "target": one.target,
                "floor": one.floor,
                "better": one.better,
                "met": one.met,
                "stands": one.stands,
                "raw": {name: round(value, 6) for name, value in one.raw.items()},
            }
            for one in self.figures
        ]
        said: dict[str, Any] = {"bench": self.name, "machine": machine(), "load": self.load_before, "figures": figures}
        return json.dumps(said)

    def as_table(self) -> Table:
        """The same for people."""
        table = Table(
            title=f"bench {self.name} on {machine()}, load before {self.load_before:.2f}", title_justify="left"
        )
        for column in ("figure", "value", "aim", "floor", "stands", "measured"):
            table.add_column(column, justify="left" if column in ("figure", "measured") else "right")
        for one in self.figures:
            sign = "at least" if one.better == "higher" else "at most"
            raw = ", ".join(f"{name} {value:,.6g}" for name, value in one.raw.items())
            floor = "-" if one.floor is None else f"{one.floor:g}"
            table.add_row(
                one.name,
                f"{one.value:.3g} {one.unit}",
                f"{sign} {one.target:g}",
                floor,
                one.stands.upper() if one.stands == "under the floor" else one.stands,
                raw,
            )
        return table


def machine() -> str:
    """Processor and cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def load_now() -> float:
    """Load average of the last minute."""
    return os.getloadavg()[0]
