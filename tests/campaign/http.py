"""The HTTP server of a row, and lookups through it from outside."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from featurestore.local import free_port, start_server
from tests.campaign.world import World

_CLIENTS = 4
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What clients saw: answers by status, and the slowest one."""

    statuses: dict[int, int]
    slowest_s: float

    @property
    def strange(self) -> int:
        """Answers that are neither features nor 'try again'."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 503))

    def __str__(self) -> str:
        said = ", ".join(f"{count}x {status}" for status, count in sorted(self.statuses.items()))
        return f"{said}, slowest {self.slowest_s:.1f} s"


class Http:
    """Starts the server against an address of the store; it ends with the row."""

    def __init__(self, world: World, redis_url: str) -> None:
        settings = world.settings.model_copy(update={"redis_url": redis_url, "http_port": free_port()})
        server = start_server(settings, world.folder)
        world.on_stop(server.stop)
        self.url = f"http://127.0.0.1:{settings.http_port}"

    def features(self, view: str, entities: dict[str, list[Any]]) -> tuple[int, bytes]:
        """Status and body of one lookup; status 0 where no answer came."""
        body = json.dumps({"service": view, "entities": entities}).encode()
        try:
            asked = Request(f"{self.url}/v1/features", body, {"Content-Type": "application/json"})
            with urlopen(asked, timeout=_TIMEOUT_S) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
        except (URLError, TimeoutError):
            return 0, b""

    def probe(self, inject: Callable[[], object], seconds: float) -> Probe:
        """Several clients look features up for so long, from just before the fault."""
        statuses: Counter[int] = Counter()
        ends = time.monotonic() + seconds

        def client(number: int) -> float:
            slowest_s = 0.0
            while time.monotonic() < ends:
                began = time.monotonic()
                status, _ = self.features("by_user", {"user": [f"u{number}", "u1"]})
                slowest_s = max(slowest_s, time.monotonic() - began)
                statuses[status] += 1
                time.sleep(0.05)
            return slowest_s

        with ThreadPoolExecutor(_CLIENTS) as pool:
            running = [pool.submit(client, number) for number in range(_CLIENTS)]
            time.sleep(0.3)
            inject()
            slowest_s = max(each.result() for each in running)
        return Probe(dict(statuses), slowest_s)
