"""The rows of the fault matrix, by theme. Importing this enters them all."""

from __future__ import annotations

from tests.campaign.faults import backfill, bad_input, broker, drift, store, topic, worker

# The log cleaner works at once and topics are deleted at once; nothing else is unusual.
BROKER_SETTINGS: dict[str, object] = {"log.cleaner.backoff.ms": 200, "log.segment.delete.delay.ms": 100}

__all__ = ["BROKER_SETTINGS", "backfill", "bad_input", "broker", "drift", "store", "topic", "worker"]
