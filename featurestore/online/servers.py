"""Where calls go: to one server, or in a cluster to the node that has a bucket's slot at the moment.

A call is a command with its arguments. All calls of one `execute` are sent before the first answer is read. What lies
between MULTI and EXEC goes to one node together. A refused call gives its error in place of an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry

from featurestore.online.wire import Prefixed, packed

Call = tuple[Any, ...]

# A server that takes longer is as good as gone: the caller gets an error rather than a hang.
ANSWER_S = 30.0
_CONNECT_S = 5.0
_CLUSTER = "+cluster"
# How long a slot is waited for that is on its way between two nodes, and how often it is asked after.
_MOVE_S, _PAUSE_S = 30.0, 0.02
# Tries of what a lost connection left unanswered: a node that is gone has a successor within seconds.
_TRIES_MAX, _TRY_PAUSE_S = 5, 1.0
# Nothing was done, and the same call will be right elsewhere or later.
_ELSEWHERE = (redis.exceptions.AskError, redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError)


class Servers(Protocol):
    """Who answers calls. Raises `redis.RedisError` when nobody does."""

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each call."""

    def in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """The answers of some groups of calls; all of a group are answered before the next one is looked at."""

    def clients(self) -> Sequence[redis.Redis]:
        """One for each server that has rows of its own."""


def servers_at(url: str, answer_s: float = ANSWER_S) -> Servers:
    """The servers behind a URL; nothing is sent before the first call. `redis+cluster://` stands for a cluster.

    answer_s  a call that takes longer has failed; who is in a hurry tries again at once, and only when the connection
              was lost, not several times with pauses
    """
    scheme, colon, rest = url.partition("://")
    times = {"socket_connect_timeout": min(answer_s, _CONNECT_S), "socket_timeout": answer_s}
    is_hurried = answer_s < ANSWER_S
    if scheme.endswith(_CLUSTER):
        return Cluster(scheme.removesuffix(_CLUSTER) + colon + rest, times, is_hurried=is_hurried)
    again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    return OneServer(redis.Redis.from_url(url, **times, **({"retry": again} if is_hurried else {})))


class OneServer:
    """A server that has everything; see `Servers`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        """A lost connection is tried again as redis-py does."""
        # A pipeline of redis-py looks at every argument in Python, which costs more than the whole round trip.
        sent = packed(calls)
        pool = self._client.connection_pool

        def run() -> list[Any]:
            connection.send_packed_command(sent, check_health=False)  # type: ignore[no-untyped-call]
            return [_reply(connection) for _ in calls]

        connection = pool.get_connection()
        try:
            return list(connection.retry.call_with_retry(run, lambda error: connection.disconnect()))  # type: ignore[no-untyped-call]
        finally:
            pool.release(connection)

    def in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """In one round trip, since a server answers in order."""
        replies = iter(self.execute([call for group in groups for call in group]))
        return [[next(replies) for _ in group] for group in groups]

    def clients(self) -> Sequence[redis.Redis]:
        return [self._client]


@dataclass(slots=True)
class _Unit:
    """Calls that go to one node together, by their places.

    asked  the node that takes the slot over and has these keys already
    """

    key: bytes
    places: list[int]
    asked: ClusterNode | None = None


class Cluster:
    """A cluster; see `Servers`. redis-py knows which node has which slot; what it sends would be sent one by one."""

    def __init__(self, url: str, times: dict[str, float], *, is_hurried: bool) -> None:
        self._url, self._times, self._is_hurried = url, times, is_hurried
        # A connection of the pool may have been closed by the other side: that is known when it is used.
        self._tries_max = 2 if is_hurried else _TRIES_MAX
        self._move_s = min(_MOVE_S, times["socket_timeout"])
        self._lock = threading.Lock()
        self._made: RedisCluster | None = None

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        """Waits for slots that are on their way; what is still refused after that gives its error."""
        parts = [_by_slot(call) for call in calls]
        replies = iter(self._executed([part for each in parts for part, _ in each]))
        return [_joined(call, each, [next(replies) for _ in each]) for call, each in zip(calls, parts, strict=True)]

    def in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """One after the other: two nodes know nothing of each other's order."""
        return [self.execute(group) for group in groups]

    def clients(self) -> Sequence[redis.Redis]:
        self._look_again()
        return [_client(node) for node in sorted(self._cluster().get_primaries(), key=lambda node: str(node.name))]  # type: ignore[no-untyped-call]

    def _executed(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of calls of one slot each."""
        replies: list[Any] = [None] * len(calls)
        waiting, deadline, tries = _units(calls), time.monotonic() + self._move_s, 0
        while waiting:
            try:
                if tries:
                    self._look_again()
                self._ask(calls, waiting, replies)
            except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException) as error:
                tries += 1
                if tries >= self._tries_max or (self._is_hurried and isinstance(error, redis.TimeoutError)):
                    raise
                if not self._is_hurried:
                    time.sleep(_TRY_PAUSE_S)
                continue
            waiting = [unit for unit in waiting if _elsewhere(unit, replies) is not None]
            if not waiting or time.monotonic() > deadline:
                break
            self._redirect(waiting, replies)
        return replies

    def _cluster(self) -> RedisCluster:
        with self._lock:
            if self._made is None:
                self._made = RedisCluster.from_url(self._url, **self._times)
            return self._made

    def _look_again(self) -> None:
        """Ask which node has which slot."""
        self._cluster().nodes_manager.initialize()

    def _ask(self, calls: Sequence[Call], units: Sequence[_Unit], replies: list[Any]) -> None:
        """Send to all nodes, then read; fills in the replies of these units."""
        cluster = self._cluster()
        of_node: dict[str, tuple[ClusterNode, list[_Unit]]] = {}
        for unit in units:
            node = unit.asked or cluster.get_node_from_key(unit.key)  # type: ignore[no-untyped-call]
            if node is None:
                raise redis.exceptions.SlotNotCoveredError(f"no node has the slot of {unit.key!r}")
            of_node.setdefault(str(node.name), (node, []))[1].append(unit)
        opened: list[tuple[Any, Any]] = []
        try:
            for node, some in of_node.values():
                pool = _client(node).connection_pool
                connection = pool.get_connection()
                opened.append((pool, connection))
                sent = packed([call for unit in some for call in _sent(unit, calls)])
                connection.send_packed_command(sent, check_health=False)  # type: ignore[no-untyped-call]
            for (_, some), (_, connection) in zip(of_node.values(), opened, strict=True):
                for unit in some:
                    if unit.asked is not None:
                        _reply(connection)
                    for place in unit.places:
                        replies[place] = _reply(connection)
        except BaseException:
            # Answers that nobody has read would be taken for those of the next calls.
            for _, connection in opened:
                connection.disconnect()
            raise
        finally:
            for pool, connection in opened:
                pool.release(connection)

    def _redirect(self, units: Sequence[_Unit], replies: Sequence[Any]) -> None:
        """Say where each unit goes next, or wait a moment where only time helps."""
        errors = [_elsewhere(unit, replies) for unit in units]
        is_moved = any(isinstance(error, redis.exceptions.MovedError) for error in errors)
        if not any(type(error) is redis.exceptions.AskError for error in errors):
            time.sleep(_PAUSE_S)
        if is_moved or any(isinstance(error, redis.exceptions.ClusterDownError) for error in errors):
            self._look_again()
        for unit, error in zip(units, errors, strict=True):
            unit.asked = None
            if type(error) is redis.exceptions.AskError:
                unit.asked = self._cluster().get_node(error.host, error.port)  # type: ignore[no-untyped-call]


def _by_slot(call: Call) -> list[tuple[Call, list[int]]]:
    """The call in parts of one slot each, with the places of their names."""
    if call[0] not in ("MGET", "UNLINK") or len(call) == 2:
        return [(call, [])]
    places: dict[int, list[int]] = {}
    for place, name in enumerate(call[1:]):
        places.setdefault(key_slot(name), []).append(place)
    return [((call[0], *(call[1 + place] for place in some)), some) for some in places.values()]


def _joined(call: Call, parts: Sequence[tuple[Call, list[int]]], replies: Sequence[Any]) -> Any:
    """What one server would have answered."""
    if len(parts) == 1:
        return replies[0]
    refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if refused is not None:
        return refused
    if call[0] == "UNLINK":
        return sum(replies)
    out: list[Any] = [None] * (len(call) - 1)
    for (_, places), reply in zip(parts, replies, strict=True):
        for place, one in zip(places, reply, strict=True):
            out[place] = one
    return out


def _units(calls: Sequence[Call]) -> list[_Unit]:
    units: list[_Unit] = []
    is_open = False
    for place, call in enumerate(calls):
        if is_open:
            units[-1].places.append(place)
            units[-1].key = units[-1].key or _key(call)
        else:
            units.append(_Unit(_key(call), [place]))
        is_open = call[0] == "MULTI" or (is_open and call[0] != "EXEC")
    return units


def _key(call: Call) -> bytes:
    """A key of the call; all of them have the same slot."""
    if call[0] in ("MULTI", "EXEC"):
        return b""
    key = call[3 if call[0] == "FCALL" else 1]
    return key.prefix if isinstance(key, Prefixed) else key


def _sent(unit: _Unit, calls: Sequence[Call]) -> list[Call]:
    # It counts for one command, or for a whole transaction.
    return [*([("ASKING",)] if unit.asked is not None else []), *(calls[place] for place in unit.places)]


def _elsewhere(unit: _Unit, replies: Sequence[Any]) -> Exception | None:
    """Why none of the unit's calls was done, where that is for another node or another moment."""
    return next((replies[place] for place in unit.places if isinstance(replies[place], _ELSEWHERE)), None)


def _client(node: ClusterNode) -> redis.Redis:
    client: redis.Redis = node.redis_connection
    return client


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
