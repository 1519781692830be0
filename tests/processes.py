"""Processes of our commands that are there at once: forked from one that has imported what they import.

A whole run starts some two hundred workers and commands, and importing the libraries takes each of them longer than
all else that it does. So one process imports them, once, and is forked for each. What comes out is a process as any
other, with an id, an environment, a folder and signals of its own, and really killed when it is killed; only its
interpreter does not start, nor end, by itself. What is proved with interpreters of their own: `tests/faults`,
`tests/local`, `tests/demo`, and the campaign.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing import forkserver
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).parents[1]
# Not the command line itself: that looks at its terminal and its environment while it is imported.
_IMPORTED = ["featurestore.feast.registry", "featurestore.server", "streams.worker", "streams.backfill",
             "streams.replay", "streams.letter_replay", "streams.send", "streams.progress"]  # fmt: skip
_context = multiprocessing.get_context("forkserver")


class Process:
    """A process that runs; in what tests need it is like `subprocess.Popen`."""

    def __init__(
        self, module: str, arguments: tuple[str, ...], environment: Mapping[str, str], cwd: Path | None,
        stdout: Path, stderr: Path,
    ) -> None:  # fmt: skip
        _be_ready()
        for path in (stdout, stderr):
            path.touch()
        what = (module, arguments, dict(environment), cwd or Path.cwd(), stdout, stderr)
        # At the end of the tests none is waited for.
        self._process = _context.Process(target=_run, args=what, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.args, self.pid = ("python", "-m", module, *arguments), self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    module: str, *arguments: str, environment: Mapping[str, str], output: Path, cwd: Path | None = None
) -> Process:
    """`python -m module arguments` in this environment alone; what it says is added to `output`."""
    return Process(module, arguments, environment, cwd, output, output)


def run(
    module: str, *arguments: str, environment: Mapping[str, str], cwd: Path | None = None, limit_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """The same, waited for, with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Process(module, arguments, environment, cwd, stdout, stderr)
        try:
            status = process.wait(limit_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(process.args, status, stdout.read_text(), stderr.read_text())


def _be_ready() -> None:
    """The process that has imported everything, from these sources, whichever are installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        _context.set_forkserver_preload(_IMPORTED)
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _run(
    module: str, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path, stdout: Path, stderr: Path
) -> None:
    """In the new process: be what `python -m module` would be."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with ExitStack() as opened:
        files: dict[Path, BinaryIO] = {}
        for number, path in ((1, stdout), (2, stderr)):
            if path not in files:
                files[path] = opened.enter_context(path.open("ab"))
            os.dup2(files[path].fileno(), number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - they end with the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
