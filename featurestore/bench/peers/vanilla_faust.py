"""Plain Faust doing the fraud job: batches of a thousand, hourly sums a card, one Redis pipeline a batch.

No exactness is asked of it: hours instead of sliding windows, plain float sums, and a crash counts twice.
Run as `python -m featurestore.bench.peers.vanilla_faust BOOTSTRAP REDIS_URL TOPIC GROUP EVENTS`.
Prints one JSON object: events and seconds, from the first batch on.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from typing import Any

import faust
import redis.asyncio

_TAKE, _WITHIN_S = 1_000, 0.05


def main(bootstrap: str, redis_url: str, topic_name: str, group: str, events: int) -> None:
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16_384,
        worker_redirect_stdouts=False,
    )
    topic = app.topic(topic_name, value_serializer="json")
    store = redis.asyncio.Redis.from_url(redis_url)
    seen: dict[str, Any] = {"events": 0, "first": None}

    @app.agent(topic)
    async def spending(stream: Any) -> None:
        async for batch in stream.take(_TAKE, within=_WITHIN_S):
            if seen["first"] is None:
                seen["first"] = time.perf_counter()
                seen["before"] = len(batch)
            parts: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
            largest: dict[str, float] = {}
            for event in batch:
                card, amount = event["card"], event["amount"]
                part = parts[f"{group}:{card}:{event['at'] // 3_600_000_000}"]
                part[0] += 1
                part[1] += amount
                largest[card] = max(largest.get(card, amount), amount)
            pipeline = store.pipeline(transaction=False)
            for key, (count, total) in parts.items():
                pipeline.hincrby(key, "n", int(count))
                pipeline.hincrbyfloat(key, "sum", total)
            for card, amount in largest.items():
                pipeline.zadd(f"{group}:largest", {card: amount}, gt=True)
            await pipeline.execute()
            seen["events"] += len(batch)
            if seen["events"] >= events:
                seconds = time.perf_counter() - seen["first"]
                print(json.dumps({"events": seen["events"] - seen["before"], "seconds": seconds}), flush=True)

    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
