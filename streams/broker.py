"""The broker: how every client of ours is configured to reach it, and whether it answers."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from featurestore.errors import BrokerError

# librdkafka's own words go where an application lets them: it retries by itself what it complains of.
log = logging.getLogger("featurestore.kafka")
log.addHandler(logging.NullHandler())

_ANSWER_S = 5.0


def client_config(bootstrap: str) -> dict[str, Any]:
    """What all clients share."""
    return {"bootstrap.servers": bootstrap, "logger": log}


def admin_client(bootstrap: str) -> AdminClient:
    """A client for topics and offsets; raises BrokerError when no broker answers."""
    admin = AdminClient(client_config(bootstrap))
    try:
        admin.list_topics(timeout=_ANSWER_S)
    except KafkaException as error:
        raise BrokerError(bootstrap, str(error.args[0].str())) from error
    return admin
