"""Child servers: started with their output in a file, waited for until they answer, ended with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from featurestore.errors import LocalServerError

_POLL_S = 0.05
_STOP_S = 15.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port() -> int:
    """A loopback port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ChildServer:
    """One running server; `stop` ends it, and so does the death of this process.

    nice  how far it steps back for others where cores are few: 0 not at all, 19 as far as it can
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        is_ready: Callable[[], bool],
        timeout_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
        nice: int = 0,
    ) -> None:
        self.name, self._log = name, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=partial(_begin, nice),
                # Ctrl-C is for us alone: we end our children in order, the worker before its broker. They stay in our
                # session, since Linux weighs sessions before it looks at how nice a process is.
                process_group=0,
            )
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                self.stop()
                raise LocalServerError(name, f"did not answer within {timeout_s:.0f} s", self._tail())
            time.sleep(_POLL_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises LocalServerError when it has ended by itself."""
        if self._process.poll() is not None:
            raise LocalServerError(self.name, f"ended with code {self._process.returncode}", self._tail())

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it does not end in time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """SIGKILL, for tests of what a crash leaves behind."""
        self._process.kill()
        self._process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def answers(port: int, question: bytes, wanted: bytes) -> bool:
    """Whether a server on this loopback port answers the question with these first bytes."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(question)
            return connection.recv(len(wanted)) == wanted
    except OSError:
        return False


def _begin(nice: int) -> None:
    os.nice(nice)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
