"""A worker as an operator runs it: a process that is started again when it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from featurestore.local import environment_of
from featurestore.settings import Settings

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
# A worker that ends so often is broken, not unlucky.
_RESTARTS_MAX = 40
_PAUSE_S = 0.3
_NICE = 15


class Supervised:
    """One worker under a name that lasts.

    restarts  how often it ended without being told to
    started_s when its current process began, of `time.monotonic`
    """

    def __init__(self, settings: Settings, name: str, log: Path, *, restarting: bool = True, group: str = "") -> None:
        module = ["tests.campaign.other_group", group] if group else ["featurestore.cli", "worker"]
        self._command = [sys.executable, "-m", *module]
        self._environment = {
            **environment_of(settings),
            "FEATURESTORE_WORKER_ID": name,
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        self.name, self._log_file, self._restarting = name, log, restarting
        self.restarts, self.codes = 0, list[int]()
        self._lock = threading.Lock()
        self._ending = False
        self._process = self._start()
        self._watch = threading.Thread(target=self._supervise, name=f"supervisor-{name}", daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def processor_s(self) -> float:
        """Seconds of processors that its current process has had; on a busy machine less than it would have used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL; it is started again."""
        with self._lock:
            self._process.kill()
            self._process.wait()
            if self._restarting and not self._ending:
                self._process = self._start()

    def freeze(self) -> None:
        """SIGSTOP until `thaw`; one that has just ended takes seconds to start, which does as well."""
        with self._lock:
            if self.is_alive:
                self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        with self._lock:
            if self.is_alive:
                self.signal(signal.SIGCONT)

    def hold(self) -> None:
        """SIGKILL, and leave it dead until `resume`."""
        with self._lock:
            self._restarting = False
            self._process.kill()
            self._process.wait()

    def resume(self) -> None:
        with self._lock:
            self._restarting = True
            self._process = self._start()

    def terminate(self, limit_s: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        with self._lock:
            self._ending = True
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        return self._process.wait(limit_s)

    def wait(self, limit_s: float) -> int | None:
        """Its exit code when it ends by itself in time; for a worker that is not started again."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it for good, however it stands."""
        with self._lock:
            self._ending = True
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        self._watch.join()

    def said(self) -> str:
        return self._log_file.read_text(errors="replace")

    def _start(self) -> subprocess.Popen[bytes]:
        self.started_s = time.monotonic()
        with self._log_file.open("ab") as output:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_begin,
            )

    def _supervise(self) -> None:
        while not self._ending:
            with self._lock:
                code = self._process.poll()
                if code is not None and not self._ending and self._restarting:
                    self.codes.append(code)
                    if self.restarts < _RESTARTS_MAX:
                        self.restarts += 1
                        self._process = self._start()
            time.sleep(_PAUSE_S)


def _begin() -> None:
    """A campaign that is killed leaves no worker behind; workers step back for the store as in a local stack."""
    os.nice(_NICE)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
