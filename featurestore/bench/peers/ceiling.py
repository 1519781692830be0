"""The ceiling: librdkafka hands records over, Polars decodes them, and nothing is done with them.

Run as `python -m featurestore.bench.peers.ceiling BOOTSTRAP TOPIC GROUP EVENTS`.
Prints one JSON object: events and seconds, from the first records on.
"""

from __future__ import annotations

import gc
import io
import json
import sys
import time

import polars as pl
from confluent_kafka import Consumer

from streams.transport.options import FETCH

_CHUNK, _BATCH = 10_000, 50_000


def main(bootstrap: str, topic: str, group: str, events: int) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # As the worker reads.
            "isolation.level": "read_committed",
            "check.crcs": True,
            **FETCH,
        }
    )
    consumer.subscribe([topic])
    schema = {"card": pl.String, "at": pl.Int64, "amount": pl.Float64, "shop": pl.String, "id": pl.String}
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    seen, before, began = 0, 0, None
    held: list[bytes] = []
    while seen < events:
        held += [message.value() or b"" for message in consumer.consume(_CHUNK, 0.05) if message.error() is None]
        if held and began is None:
            began, before = time.perf_counter(), len(held)
        if len(held) >= _BATCH or seen + len(held) >= events:
            seen += len(pl.read_ndjson(io.BytesIO(b"\n".join(held)), schema=schema))
            held = []
    assert began is not None
    print(json.dumps({"events": seen - before, "seconds": time.perf_counter() - began}), flush=True)
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
