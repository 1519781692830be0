"""The demo itself, on the year's last sixty days: it passes its own checks, and a new definition is in the next run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEW_VIEW = """
from featurestore import Entity, FeatureView, count, mean

from .flights import departures

by_destination = FeatureView(
    "by_destination", Entity("destination", key="dest"), departures, lateness="6h",
    features={"flights": count().over("24h", "7d"), "delay_mean": mean("dep_delay").over("7d")},
)
"""


def run(folder: Path) -> str:
    command = [sys.executable, "-m", "featurestore.cli", "demo", "--days", "60", "--live-seconds", "2"]
    command += ["--folder", str(folder / "demo"), "--definitions", str(folder / "definitions")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEATURESTORE_")}
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "COLUMNS": "150"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_the_demo_passes_and_a_new_definition_is_in_the_next_run(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "definitions", tmp_path / "definitions")
    first = run(tmp_path)
    assert "killed the worker" in first
    last = first.splitlines()[-1]
    assert last.startswith("demo: ok ")
    assert "mismatches=0" in last
    (tmp_path / "definitions" / "more.py").write_text(NEW_VIEW)
    second = run(tmp_path)
    assert "used again" in second
    assert "+ view by_destination" in second
    assert "mismatches=0" in second.splitlines()[-1]
    assert any(
        line.startswith("│ by_destination") and line.split("│")[2].strip() != "0" for line in second.splitlines()
    )
