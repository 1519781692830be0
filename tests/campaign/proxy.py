"""A TCP proxy between a worker and its server: it can be slow, deaf, cut, or cut in the middle of a frame.

It runs its own event loop in its own thread; faults are switched from any other thread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

from featurestore.local import free_port

_CHUNK_BYTES = 1 << 16


class Proxy:
    """Passes bytes between `port` and `upstream_port` of this machine.

    delay_s      each piece waits so long before it is passed on
    stall_share  of the pieces, this many wait `stall_s` more, as if lost and sent again
    deaf         nothing is passed, and nobody is told: a half-open connection
    refuses      new connections end at once
    hears        is given each piece on its way to the server, from the proxy's thread
    """

    def __init__(self, upstream_port: int, draw: random.Random) -> None:
        self.port, self.upstream_port, self._draw = free_port(), upstream_port, draw
        self.delay_s = self.stall_share = 0.0
        self.stall_s = 0.2
        self.deaf = self.refuses = False
        self.hears: Callable[[bytes], None] = lambda piece: None
        self.connections = 0
        self._cut_after: int | None = None
        self._on_cut: Callable[[], None] | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        if not ready.wait(10.0):
            raise RuntimeError("the proxy did not start")

    def cut(self) -> None:
        """Reset every connection now."""
        self._ask(self._cut_all)

    def cut_within(self, upstream_bytes: int, then: Callable[[], None] | None = None) -> None:
        """Pass so many more bytes towards the server, then reset everything and call `then` from the proxy's thread."""
        self._on_cut = then
        self._cut_after = upstream_bytes

    @property
    def was_cut(self) -> bool:
        """Whether the cut of `cut_within` has happened."""
        return self._cut_after is None

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _ask(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(5.0)

    def _run(self, ready: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        ready.set()
        await self._stopping.wait()
        server.close()
        self._cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refuses:
            writer.transport.abort()
            return
        try:
            there, away = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, away}
        try:
            await asyncio.gather(self._pass(reader, away, True), self._pass(there, writer, False))
        except asyncio.CancelledError:
            # The proxy ends. asyncio's streams log a task of theirs that is cancelled as if it had failed.
            return
        finally:
            for each in (writer, away):
                each.transport.abort()
            self._writers -= {writer, away}

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, upstream: bool) -> None:
        try:
            while piece := await source.read(_CHUNK_BYTES):
                if upstream:
                    self.hears(piece)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.stall_share and self._draw.random() < self.stall_share:
                    await asyncio.sleep(self.stall_s)
                while self.deaf:
                    await asyncio.sleep(0.02)
                if upstream and self._cut_after is not None:
                    if len(piece) >= self._cut_after:
                        target.write(piece[: self._cut_after])
                        await target.drain()
                        self._cut_after = None
                        if self._on_cut is not None:
                            self._on_cut()
                        self._cut_all()
                        return
                    self._cut_after -= len(piece)
                target.write(piece)
                await target.drain()
            target.write_eof()
        except (OSError, RuntimeError):
            # One side is gone: the other one hears of it at once.
            target.transport.abort()
