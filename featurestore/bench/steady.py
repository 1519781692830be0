"""A steady stream of payments, from a process of its own.

Run as `python -m featurestore.bench.steady BOOTSTRAP TOPIC EVENTS_A_SECOND SECONDS`.
Prints one JSON object at the end: how many events were acknowledged, and the seconds that it took.
"""

from __future__ import annotations

import json
import random
import sys
import time

from featurestore.bench.payments import KEYS, payment
from streams.producer import EventProducer

_TICK_S = 0.005


def main(bootstrap: str, topic: str, rate: int, seconds: float) -> None:
    draw = random.Random(11)
    sent = 0
    with EventProducer(bootstrap) as producer:
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            while sent < passed * rate:
                card, name = draw.randrange(KEYS), f"{sent:016d}"
                value = payment(card, time.time_ns() // 1_000, draw.random() * 100, draw.randrange(2_000), name)
                producer.send_raw(topic, b"c%06d" % card, value)
                sent += 1
            time.sleep(_TICK_S)
        producer.flush()
        took = time.perf_counter() - began
        print(json.dumps({"events": producer.acknowledged[topic], "seconds": took}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
