"""The broker: how every client of ours reaches it and logs in, and whether it answers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from featurestore.errors import BrokerAccessError, BrokerError
from featurestore.settings import Settings

# librdkafka's own words go where an application lets them: it retries by itself what it complains of.
log = logging.getLogger("featurestore.kafka")
log.addHandler(logging.NullHandler())

_Answer = TypeVar("_Answer")

_ANSWER_S = 5.0
# How much later than the end of a request its answer may be seen here.
GRACE_S = 5.0
# A refused login is told between two tries, so the answer is waited for in pieces.
_LOOK_S = 0.25
_RIGHTS = "kafka_sasl_username, and what the brokers allow it"
_REFUSALS = {
    KafkaError._AUTHENTICATION: "kafka_sasl_username and kafka_sasl_password, and kafka_sasl_mechanism",
    KafkaError._SSL: "kafka_ssl_ca (kafka_ssl_certificate and kafka_ssl_key where it wants ours)",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.GROUP_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.FENCED_INSTANCE_ID: "worker_id, which another worker has taken",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "worker_rebalance, which all workers of a project that run have alike: "
    "stop them all before another one starts",
}
# In TLS 1.3 brokers look at our certificate when the handshake is over for us. librdkafka then tells of a connection
# that was lost, as of any; the alert is in OpenSSL's words (RFC 8446, 6.2): 42 to 46, 48, 49 refuse one, 116 lacks it.
_CERTIFICATE_ALERT = re.compile(r"SSL alert number (4[2-689]|116)\b")
_CERTIFICATE = (
    "kafka_ssl_certificate and kafka_ssl_key: the brokers want a certificate of ours that has not expired, and that "
    "someone signed whom they know"
)
# Where a broker goes in the middle of a login, as in any restart, librdkafka tells it by the codes of a login that was
# refused, and gives that code to all that waits for the connection. The text tells them apart: it has librdkafka's own
# words then ("SASL PLAIN mechanism handshake failed: Local: Broker transport failure", "Disconnected: ...") or the
# system's, and the broker's or OpenSSL's where we are refused. Alert 80 is the broker's own fault, which may pass.
_LOGINS = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_BROKEN_OFF = re.compile(
    # "Disconnected: check client PLAIN credentials" is what a proxy's refusal looks like.
    r"\bLocal: |\bDisconnected: (?!check client)|SSL transport error: |:system library:|SSL alert number 80\b"
)
_CONFIGURED = "kafka_ssl_ca, kafka_ssl_certificate, kafka_ssl_key, kafka_ssl_key_password and kafka_sasl_mechanism"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is and how to log in. `login` holds a password, so it is never shown."""

    bootstrap: str
    login: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.bootstrap


def broker_of(settings: Settings) -> Broker:
    """The broker of these settings, for every client: reader, producers, admin."""
    protocol: str = settings.kafka_security_protocol
    login: dict[str, str] = {"security.protocol": protocol}
    if protocol.startswith("SASL_"):
        login |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.sasl_password(),
        }
    if protocol.endswith("SSL"):
        files = {
            "ssl.ca.location": settings.kafka_ssl_ca,
            "ssl.certificate.location": settings.kafka_ssl_certificate,
            "ssl.key.location": settings.kafka_ssl_key,
        }
        login |= {name: str(file) for name, file in files.items() if file is not None}
        if settings.kafka_ssl_key_password.get_secret_value():
            login["ssl.key.password"] = settings.kafka_ssl_key_password.get_secret_value()
    return Broker(settings.kafka_bootstrap, login)


def client_config(broker: Broker | str) -> dict[str, Any]:
    """What all clients share. A mere address is a broker that asks for no login."""
    if isinstance(broker, str):
        broker = Broker(broker)
    return {"bootstrap.servers": broker.bootstrap, **broker.login, "logger": log}


def refusal(error: KafkaError) -> BrokerAccessError | None:
    """What to tell when the broker will not talk to us, which no retry mends; None of any other error."""
    look_at = None if is_broken_off(error) else _REFUSALS.get(error.code())
    if error.code() == KafkaError._TRANSPORT and _CERTIFICATE_ALERT.search(error.str()):
        look_at = _CERTIFICATE
    return None if look_at is None else BrokerAccessError(error.str(), look_at)


def is_broken_off(error: KafkaError) -> bool:
    """Whether a login was cut off, or something waited for one that was: the next one may get through."""
    return error.code() in _LOGINS and _BROKEN_OFF.search(error.str()) is not None


def unusable(error: KafkaException) -> BrokerAccessError:
    """What to tell when librdkafka makes no client of the settings, such as of a file that is not there."""
    return BrokerAccessError(error.args[0].str(), _CONFIGURED)


@contextmanager
def in_words(broker: Broker | str) -> Iterator[None]:
    """Around a command: what librdkafka raises there is told as BrokerError, or BrokerAccessError."""
    try:
        yield
    except KafkaException as error:
        raise refusal(error.args[0]) or BrokerError(str(broker), error.args[0].str()) from error


class Refusals:
    """Listens to a client's errors for one that no retry mends: `error_cb` of its configuration."""

    def __init__(self) -> None:
        self.first: BrokerAccessError | None = None

    def __call__(self, error: KafkaError) -> None:
        self.first = self.first or refusal(error)

    def check(self) -> None:
        """Raises BrokerAccessError when there was one."""
        if self.first is not None:
            raise self.first


def answer_of(asked: Future[_Answer], timeout_s: float) -> _Answer:
    """What a request of an admin client came to; raises KafkaException, also where nobody answered in time.

    timeout_s  of the request: its own end comes first, and says who was silent
    """
    return asked.result(timeout_s + GRACE_S)


def admin_client(broker: Broker | str) -> AdminClient:
    """A client for topics and offsets; raises BrokerError when no broker answers, BrokerAccessError when it refuses."""
    refusals = Refusals()
    try:
        config: dict[str, Any] = {**client_config(broker), "error_cb": refusals}
        admin = AdminClient(config)
    except KafkaException as error:
        raise unusable(error) from error
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            admin.list_topics(timeout=_LOOK_S)
            return admin
        except KafkaException as error:
            admin.poll(0)
            refusals.check()
            if time.monotonic() > deadline:
                raise BrokerError(str(broker), str(error.args[0].str())) from error
