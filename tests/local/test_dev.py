"""`featurestore dev`: everything is up, ends on Ctrl-C with all its children, and finds its data the next time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEATURESTORE_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "featurestore.cli", "dev", "--folder", str(folder)],
        cwd=ROOT,
        env={**environment, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    said = []
    for line in running.stdout:
        said.append(line)
        if "Ctrl-C ends" in line:
            return running
    raise AssertionError("".join(said))


def family(pid: int) -> set[int]:
    """Processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found - {pid}


def lookup(folder: Path, tailnum: str) -> dict[str, object]:
    settings = tomllib.loads((folder / "featurestore.toml").read_text())
    address = f"http://127.0.0.1:{settings['http_port']}/v1/features/aircraft_departures?tailnum={tailnum}"
    with urllib.request.urlopen(address, timeout=10) as response:
        row: dict[str, object] = json.load(response)
        return row


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("import nothing_of_this_name", "all.py cannot be read: ModuleNotFoundError"),
        ("from featurestore import Topic\nTopic('t', schema={'at': 'timestamp'}, event_time='att')", "'att'"),
        (None, "there is no definitions folder"),
    ],
)
def test_dev_says_what_is_broken_in_a_definition_and_starts_nothing(
    written: str | None, says: str, tmp_path: Path
) -> None:
    definitions = tmp_path / "definitions"
    if written is not None:
        definitions.mkdir()
        (definitions / "all.py").write_text(written)
    done = subprocess.run(
        [sys.executable, "-m", "featurestore.cli", "dev", "--folder", str(tmp_path / "dev")],
        cwd=ROOT,
        env={**os.environ, "FEATURESTORE_DEFINITIONS": str(definitions)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert says in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "dev").exists()


@pytest.mark.servers
def test_dev_serves_what_is_sent_ends_all_and_finds_it_again(tmp_path: Path) -> None:
    running = start(tmp_path / "dev")
    children = family(running.pid)
    try:
        assert len(children) >= 4
        environment = {**os.environ, "FEATURESTORE_CONFIG": str(tmp_path / "dev" / "featurestore.toml")}
        event = ROOT / "docs" / "examples" / "departure.json"
        command = [sys.executable, "-m", "featurestore.cli", "send", "flight-departures", str(event)]
        sent = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "1 events acknowledged" in sent.stdout, sent.stderr
        deadline = time.monotonic() + 30
        while lookup(tmp_path / "dev", "N14228")["aircraft_departures__status"] != "PRESENT":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    running = start(tmp_path / "dev")
    try:
        row = lookup(tmp_path / "dev", "N14228")
        assert row["aircraft_departures__last_delay"] == 2.0
        assert lookup(tmp_path / "dev", "N0NE")["aircraft_departures__status"] == "NOT_FOUND"
    finally:
        children = family(running.pid)
        running.kill()
        running.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        # A parent that was killed cannot end its children: they end by themselves.
        assert time.monotonic() < deadline, children
        time.sleep(0.1)
