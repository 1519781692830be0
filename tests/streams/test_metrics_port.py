"""The loopback port of a worker: what others do to it takes nothing from the worker."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack
from urllib.request import urlopen

import pytest

from featurestore.errors import SettingError
from streams.metrics import CONNECTIONS_MAX, WorkerMetrics, serve_metrics

SILENT_S = 0.5


@pytest.fixture
def port() -> int:
    return served()


def served(port: int = 0) -> int:
    return serve_metrics(WorkerMetrics({}, dict, time.monotonic), port, silent_s=SILENT_S)


def half_sent(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(b"GET /health HTTP/1.1\r\n")
    return made


def test_a_look_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise ValueError("no clock")

    port = serve_metrics(WorkerMetrics({}, dict, broken), 0, silent_s=SILENT_S)
    with pytest.raises(ConnectionError):
        urlopen(f"http://127.0.0.1:{port}/health", timeout=30)
    assert "a question at the worker's port has no answer" in caplog.text
    assert "no clock" in caplog.text


def test_a_port_that_is_taken_is_told_with_its_setting(port: int) -> None:
    with pytest.raises(
        SettingError, match=f"setting worker_port is {port}, which cannot be listened on: Address already"
    ):
        served(port)


def test_requests_that_are_never_finished_hold_few_threads_and_none_for_long(port: int) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    asked = 4 * CONNECTIONS_MAX
    with ExitStack() as held:
        # The system's own queue is short: who finds it full tries again by and by.
        opened = list[socket.socket]()

        def ask() -> None:
            opened.append(held.enter_context(half_sent(port)))

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(asked)]
        for thread in asking:
            thread.start()
        most, deadline = 0, time.monotonic() + 60
        while any(thread.is_alive() for thread in asking):
            own = sum("process_request_thread" in thread.name for thread in threading.enumerate())
            most = max(most, own)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert 0 < most <= CONNECTIONS_MAX
        # A monitor comes through behind them, and they are all let go of.
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
            assert answer.status == 200
        for each in opened:
            assert each.recv(100) == b""
    while threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > descriptors:
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)
