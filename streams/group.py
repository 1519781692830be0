"""The workers of a project: one consumer group, whose members say by their client ids into which store they write.

A topic's partitions are shared out among all of them, so one with another online store would take events from the
others' rows, and lookups of neither store would say so. What is kept anywhere cannot tell that from a store that took
the place of another one, which is as it should be; but a client id is there as long as its worker lives.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._group import ConsumerGroupDescription

from featurestore.errors import BrokerError, FeatureStoreError, OtherStoreError, WorkersRunningError
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from streams.broker import admin_client, answer_of, broker_of, is_broken_off, refusal

# Before the identity of a store; a member of an earlier release is called otherwise, and says nothing of its store.
_CLIENT = "featurestore-store-"
# A broker that began a moment ago does not know yet who keeps its groups; one that goes cuts questions off.
_NOT_YET = (
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
)
_TIMEOUT_S, _REQUEST_S = 30.0, 10.0
# While a partition is taken over, all others of the group wait.
_TAKEOVER_S = 2.0
_LOOK_S = 0.5
# Beyond a session, after which the broker counts a dead member no longer.
_GRACE_S = 5.0

log = logging.getLogger("featurestore.worker")


class Member(NamedTuple):
    """Of a group.

    worker_id  its lasting name, where it has one
    """

    client_id: str
    worker_id: str


def worker_group(settings: Settings) -> str:
    """The consumer group of a project's workers."""
    return f"{settings.project}-worker"


def refuse_workers(settings: Settings) -> None:
    """Raises WorkersRunningError: a worker at work holds events, and knows the log as it was before.

    After a skip it would find the log ahead of them.
    """
    # By its name until the answer is there: a client that nobody holds ends what was asked of it.
    admin = admin_client(broker_of(settings))
    if found := members(admin, settings, _TIMEOUT_S):
        raise WorkersRunningError(worker_group(settings), len(found))


def members(admin: AdminClient, settings: Settings, timeout_s: float) -> list[Member]:
    """Who is in the group now; one that was killed is until its session is over."""
    described = _described(admin, settings, timeout_s)
    found = [] if described is None else described.members
    return [Member(each.client_id, each.group_instance_id or "") for each in found]


def is_read(admin: AdminClient, settings: Settings, topic: str, timeout_s: float) -> bool:
    """Whether a worker has partitions of a topic, or may have: while they are shared out nobody says who has which."""
    described = _described(admin, settings, timeout_s)
    if described is None or not described.members:
        return False
    held = {place.topic for each in described.members for place in each.assignment.topic_partitions}
    return topic in held or described.state != ConsumerGroupState.STABLE


def _described(admin: AdminClient, settings: Settings, timeout_s: float) -> ConsumerGroupDescription | None:
    """What the broker says of the group; None where there never was one."""
    group, deadline = worker_group(settings), time.monotonic() + timeout_s
    while True:
        request_s = min(timeout_s, _REQUEST_S)
        asked = admin.describe_consumer_groups([group], request_timeout=request_s)
        try:
            described: ConsumerGroupDescription = answer_of(asked[group], request_s)
            return described
        except KafkaException as error:
            # What a newer broker says of a group that never was; an older one describes it without members.
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            is_away = error.args[0].code() in _NOT_YET or is_broken_off(error.args[0])
            if not is_away or time.monotonic() > deadline:
                raise refusal(error.args[0]) or BrokerError(str(broker_of(settings)), error.args[0].str()) from error
            time.sleep(_LOOK_S)


class OneStore:
    """Holds a worker to the store of those of its project that live.

    wait_s  how long to wait for others to go, or to write their store's identity again after it was emptied
    """

    def __init__(self, admin: AdminClient, settings: Settings, store: OnlineStore, wait_s: float | None = None) -> None:
        self._admin, self._settings, self._store = admin, settings, store
        self._wait_s = settings.worker_session_s + _GRACE_S if wait_s is None else wait_s
        self._identity = ""

    def join(self) -> str:
        """The client id of this worker, once nobody who lives writes into another store; raises OtherStoreError."""
        deadline, is_told = time.monotonic() + self._wait_s, False
        # Also what has our own name, of before: a broker calls a lasting member as it was called first.
        while self._has_others(self._store.identity(), _TIMEOUT_S, but_for=""):
            if time.monotonic() >= deadline:
                raise OtherStoreError(self._settings.project, worker_group(self._settings))
            if not is_told:
                log.warning("waiting up to %.0f s for workers of another online store to end", self._wait_s)
                is_told = True
            time.sleep(_LOOK_S)
        self._identity = self._store.be_identified()
        return f"{_CLIENT}{self._identity}"

    def check(self) -> None:
        """The same when a partition was taken over: of two that begin at once, neither sees the other before that."""
        if not self._identity:
            return
        try:
            # Of a store that was emptied meanwhile it is what it was.
            has_others = self._has_others(self._identity, _TAKEOVER_S, but_for=self._settings.worker_id)
        except FeatureStoreError as error:
            log.warning("whether all workers have one online store is not known: %s", error)
            return
        if has_others:
            raise OtherStoreError(self._settings.project, worker_group(self._settings))

    def _has_others(self, identity: str | None, timeout_s: float, but_for: str) -> bool:
        for member in members(self._admin, self._settings, timeout_s):
            is_other = not member.worker_id or member.worker_id != but_for
            if is_other and member.client_id.startswith(_CLIENT) and member.client_id != f"{_CLIENT}{identity}":
                return True
        return False
