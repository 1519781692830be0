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
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry

from featurestore.errors import SettingError
from featurestore.online.wire import packed

Call = tuple[Any, ...]

# A server that takes longer is as good as gone: the caller gets an error rather than a hang.
ANSWER_S = 30.0
_CONNECT_S = 5.0
_CLUSTER, _PORT = "+cluster", 6379
# How long a slot is waited for that is on its way between two nodes, or whose node has no successor yet: by default a
# replica takes over after 15 s and an election.
_PATIENCE_S = 30.0
# How often each is asked for.
_PAUSE_S, _TRY_PAUSE_S = 0.02, 1.0
# Nothing was done, and the same call will be right elsewhere or later.
_ELSEWHERE = (redis.exceptions.AskError, redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError)


class Servers(Protocol):
    """Who answers calls. Raises `redis.RedisError` or `RedisClusterException` (which is none) when nobody does.

    has_all  whether one server has everything: then a call may have keys of any buckets
    """

    has_all: bool

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each call."""

    def in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """The answers of some groups of calls; all of a group are answered before the next one is looked at."""

    def clients(self) -> Sequence[redis.Redis]:
        """One for each server that has rows of its own."""


def servers_at(url: str, answer_s: float = ANSWER_S) -> Servers:
    """The servers behind a URL; nothing is sent before the first call.

    `redis+cluster://` stands for a cluster; several of its nodes may be named, with commas, for when one is down.

    answer_s  a call that takes longer has failed; who is in a hurry tries again at once, and only when the connection
              was lost, not several times with pauses
    """
    scheme, colon, rest = url.partition("://")
    times = {"socket_connect_timeout": min(answer_s, _CONNECT_S), "socket_timeout": answer_s}
    is_hurried = answer_s < ANSWER_S
    again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    is_cluster = scheme.endswith(_CLUSTER)
    try:
        alone = _nodes_of(scheme.removesuffix(_CLUSTER) + colon + rest)[0] if is_cluster else url
        client = redis.Redis.from_url(alone, **times, **({"retry": again} if is_hurried else {}))
        pool = client.connection_pool
        # Makes one that is not opened: options that nobody knows would be an error of its first use.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise SettingError(
            "redis_url", f"cannot be used: {error}; write one such as redis://127.0.0.1:6379/0"
        ) from error
    if is_cluster:
        return Cluster(scheme.removesuffix(_CLUSTER) + colon + rest, times, is_hurried=is_hurried)
    return OneServer(client)


class OneServer:
    """A server that has everything; see `Servers`."""

    has_all = True

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


class _NobodyError(redis.ConnectionError):
    """No node of a cluster answers."""


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

    has_all = False

    def __init__(self, url: str, times: dict[str, float], *, is_hurried: bool) -> None:
        (self._url, self._named), self._times, self._is_hurried = _nodes_of(url), times, is_hurried
        self._patience_s = min(_PATIENCE_S, times["socket_timeout"])
        # Over the map of slots: who finds that another one has looked meanwhile takes what that one found.
        self._lock = threading.Lock()
        self._map: RedisCluster | None = None
        # All nodes of the last map: those that the URL names may be gone for good.
        self._met: list[tuple[str, int]] = []
        self._looked_s = self._doubted_s = 0.0
        self._failure: Exception | None = None
        # Nodes that take slots over and have none yet, so that they are on no map.
        self._strangers: dict[str, ClusterNode] = {}

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        """Waits for slots that are on their way; what is still refused after that gives its error."""
        parts = [_by_slot(call) for call in calls]
        asked = [part for each in parts for part, _ in each]
        answers = self._executed(asked)
        for place, (call, answer) in enumerate(zip(asked, answers, strict=True)):
            if isinstance(answer, redis.exceptions.TryAgainError) and _is_plain_get(call):
                # Some rows are at the old node, and some are at the new one or nowhere: one by one they are found.
                singly = self._executed([("MGET", name) for name in call[1:]])
                refused = next((one for one in singly if isinstance(one, Exception)), None)
                answers[place] = refused if refused is not None else [one[0] for one in singly]
        replies = iter(answers)
        return [_joined(call, each, [next(replies) for _ in each]) for call, each in zip(calls, parts, strict=True)]

    def in_turn(self, groups: Sequence[Sequence[Call]]) -> list[list[Any]]:
        """One after the other: two nodes know nothing of each other's order."""
        return [self.execute(group) for group in groups]

    def clients(self) -> Sequence[redis.Redis]:
        nodes = {str(node.name): node for node in self._look().get_primaries()}  # type: ignore[no-untyped-call]
        return [_client(node) for _, node in sorted({**self._strangers, **nodes}.items())]

    def _executed(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of calls of one slot each."""
        replies: list[Any] = [None] * len(calls)
        waiting, deadline, failures = _units(calls), time.monotonic() + self._patience_s, 0
        while waiting:
            try:
                self._ask(calls, waiting, replies)
                waiting = [unit for unit in waiting if _elsewhere(unit, calls, replies) is not None]
                if not waiting or time.monotonic() > deadline:
                    break
                self._redirect(waiting, calls, replies)
            except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException) as error:
                failures += 1
                self._doubt()
                # A connection of the pool may have been closed by the other side: that is known when it is used.
                is_over = failures > 1 or isinstance(error, redis.TimeoutError | _NobodyError)
                # A silent node has cost all patience by now: once more, for its successor.
                if is_over if self._is_hurried else failures > 1 and time.monotonic() > deadline:
                    raise
                if not self._is_hurried:
                    time.sleep(_TRY_PAUSE_S)
        return replies

    def _doubt(self) -> None:
        """Somebody does not answer: ask for the map before the next call."""
        self._doubted_s = time.monotonic()
        self._strangers.clear()

    def _known(self) -> RedisCluster:
        """Which node has which slot, as far as is known."""
        known = self._map
        return known if known is not None and self._looked_s > self._doubted_s else self._look()

    def _look(self) -> RedisCluster:
        """Ask which node has which slot. Raises `redis.ConnectionError` when nobody says."""
        began_s = time.monotonic()
        with self._lock:
            if self._looked_s < began_s:
                try:
                    if self._map is None:
                        # Slots that nobody has are the matter of who asks for them.
                        self._map = RedisCluster.from_url(
                            self._url,
                            startup_nodes=[ClusterNode(*place) for place in [*self._met, *self._named]],  # type: ignore[no-untyped-call]
                            require_full_coverage=False,
                            **self._times,
                        )
                    else:
                        self._map.nodes_manager.initialize()
                    self._met = [(node.host, node.port) for node in self._map.get_nodes()]  # type: ignore[no-untyped-call]
                    self._failure = None
                except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
                    # It may have forgotten the URL for nodes that are gone.
                    self._map, self._failure = None, error
                self._looked_s = time.monotonic()
            if self._map is None:
                raise _NobodyError(f"no node of the cluster says which slots it has: {self._failure}")
            return self._map

    def _ask(self, calls: Sequence[Call], units: Sequence[_Unit], replies: list[Any]) -> None:
        """Send to all nodes, then read; fills in the replies of these units."""
        known = self._known()
        of_node: dict[str, tuple[ClusterNode, list[_Unit]]] = {}
        for unit in units:
            node = unit.asked or known.get_node_from_key(unit.key)  # type: ignore[no-untyped-call]
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

    def _redirect(self, units: Sequence[_Unit], calls: Sequence[Call], replies: Sequence[Any]) -> None:
        """Say where each unit goes next, or wait a moment where only time helps."""
        errors = [_elsewhere(unit, calls, replies) for unit in units]
        if any(isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterDownError) for error in errors):
            self._look()
        if any(unit.asked is not None or not _is_ask(error) for unit, error in zip(units, errors, strict=True)):
            time.sleep(_PAUSE_S)
        for unit, error in zip(units, errors, strict=True):
            unit.asked = self._node(error.host, error.port) if _is_ask(error) else None

    def _node(self, host: str, port: int) -> ClusterNode:
        """The node at an address, whether or not it has slots."""
        node: ClusterNode | None = self._known().get_node(host, port)  # type: ignore[no-untyped-call]
        if node is not None:
            return node
        name = f"{host}:{port}"
        if name not in self._strangers:
            parts = urlsplit(self._url)
            login, at, _ = parts.netloc.rpartition("@")
            place = f"[{host}]:{port}" if ":" in host else name
            url = urlunsplit(parts._replace(netloc=f"{login}{at}{place}"))
            client = redis.Redis.from_url(url, **self._times)
            self._strangers[name] = ClusterNode(host, port, redis_connection=client)  # type: ignore[no-untyped-call]
        return self._strangers[name]


def _nodes_of(url: str) -> tuple[str, list[tuple[str, int]]]:
    """The URL with the first of its nodes alone, and the places of the others."""
    parts = urlsplit(url)
    login, at, nodes = parts.netloc.rpartition("@")
    first, *others = nodes.split(",")
    places = [urlsplit(f"//{each}") for each in others]
    alone = urlunsplit(parts._replace(netloc=f"{login}{at}{first}"))
    return alone, [(place.hostname or "", place.port or _PORT) for place in places]


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
    key: bytes = call[3 if call[0] in ("FCALL", "EVAL") else 1]
    return key


def _sent(unit: _Unit, calls: Sequence[Call]) -> list[Call]:
    # It counts for one command, or for a whole transaction.
    return [*([("ASKING",)] if unit.asked is not None else []), *(calls[place] for place in unit.places)]


def _elsewhere(unit: _Unit, calls: Sequence[Call], replies: Sequence[Any]) -> Any:
    """Why none of the unit's calls was done, where that is for another node or another moment."""
    error = next((replies[place] for place in unit.places if isinstance(replies[place], _ELSEWHERE)), None)
    is_for_one_by_one = isinstance(error, redis.exceptions.TryAgainError) and _is_plain_get(calls[unit.places[0]])
    return None if is_for_one_by_one else error


def _is_plain_get(call: Call) -> bool:
    """Whether it asks for several rows that need not be as of one moment."""
    return bool(call[0] == "MGET" and len(call) > 2)


def _is_ask(error: object) -> bool:
    # A slot that has moved is told by a subclass.
    return type(error) is redis.exceptions.AskError


def _client(node: ClusterNode) -> redis.Redis:
    client: redis.Redis = node.redis_connection
    return client


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
