"""A real worker, really killed: afterwards every sum is what plain arithmetic over the sent events says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import redis

from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.local import LocalStack
from featurestore.offline import EventLog
from featurestore.online import OneServer, OnlineStore
from featurestore.spec import Repository, load
from streams.dead_letters import read_letters
from streams.producer import EventProducer
from streams.topics import Topics

# The campaign and the soak have many more.
KILLS = 12
EVENTS = 60_000
DEFINITIONS = """
from featurestore import Entity, FeatureView, Topic, count, last, max, sum

user = Entity("user", key="user")
payments = Topic(
    "payments",
    schema={"user": str, "shop": str, "at": "timestamp", "amount": float},
    event_time="at", key="user", partitions=3, nullable=("amount",),
)
by_user = FeatureView("by_user", user, payments, lateness="1h", features={
    "n": count(), "paid": sum("amount").over("1h"), "most": max("amount").over("24h"), "last_shop": last("shop"),
})
by_shop = FeatureView("by_shop", Entity("shop", key="shop"), payments, lateness="1h", features={
    "n": count(), "paid": sum("amount"),
})
"""


def start_worker(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        command = [sys.executable, "-m", "featurestore.cli", "worker"]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def wait_until_applied(
    log_of: EventLog, total: int, worker: subprocess.Popen[bytes], log: Path, limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        log_of.forget()
        if sum(mark.offset for mark in log_of.marks().values()) >= total:
            return
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def test_sums_are_exact_after_a_dozen_kills_at_random_moments(
    stack: LocalStack, redis_client: redis.Redis, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULT_SEED", "20260"))
    print(f"seed {seed}")
    draw = random.Random(seed)
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "payments.py").write_text(DEFINITIONS)
    repository = load(tmp_path / "definitions")
    environment = {
        **os.environ,
        "FEATURESTORE_PROJECT": "kill",
        "FEATURESTORE_DEFINITIONS": str(tmp_path / "definitions"),
        "FEATURESTORE_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "FEATURESTORE_REDIS_URL": stack.redis_url,
        "FEATURESTORE_OFFLINE_PATH": str(tmp_path / "offline"),
        "FEATURESTORE_BUCKETS": "8",
        "FEATURESTORE_BATCH_RECORDS_MAX": "500",
    }
    payments = repository.topic("payments")
    Topics(stack.kafka_bootstrap).create([payments], "kill")
    base_us = time.time_ns() // 1_000 - 600_000_000
    sent = [
        {
            "user": f"u{draw.randrange(300)}",
            "shop": f"s{draw.randrange(40)}",
            "at": base_us + index * 5_000 + draw.randrange(3_000_000),
            "amount": draw.choice([None, draw.uniform(0, 500), draw.uniform(0, 1e-9), 0.1]),
        }
        for index in range(EVENTS)
    ]
    log_file, log = tmp_path / "worker.log", EventLog(tmp_path / "offline", payments)
    broken = 0
    worker = start_worker(environment, log_file)
    try:
        with EventProducer(stack.kafka_bootstrap) as producer:
            share = EVENTS // (KILLS + 1)
            for kill in range(KILLS + 1):
                for event in sent[kill * share : (kill + 1) * share if kill < KILLS else EVENTS]:
                    producer.send(payments, event)
                producer.send_raw("payments", b"x", b"{broken")
                broken += 1
                producer.flush()
                if kill < KILLS:
                    # From the first seconds of a start to the middle of a commit: anywhere.
                    time.sleep(draw.uniform(0.0, 3.5))
                    worker.send_signal(signal.SIGKILL)
                    worker.wait()
                    worker = start_worker(environment, log_file)
        wait_until_applied(log, EVENTS + broken, worker, log_file, 120)
        worker.terminate()
        assert worker.wait(30) == 0, log_file.read_text()[-3000:]
    finally:
        worker.kill()
    check_log(log, EVENTS)
    letters = read_letters(stack.kafka_bootstrap, "kill", ["payments"])
    assert [letter.reason for letter in letters] == ["broken_json"] * broken
    check_rows(OnlineStore(OneServer(redis_client), namespace="kill", buckets=8), repository, sent)


def check_log(log: EventLog, total: int) -> None:
    table = log.read(["partition", "offset"])
    places = set(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
    assert len(table) == len(places) == total


def check_rows(store: OnlineStore, repository: Repository, sent: list[dict[str, object]]) -> None:
    for view_name, key in (("by_user", "user"), ("by_shop", "shop")):
        view = repository.view(view_name)
        of_key: dict[str, list[dict[str, object]]] = defaultdict(list)
        for event in sent:
            of_key[str(event[key])].append(event)
        names = sorted(of_key)
        [payloads] = store.payloads([(view.id, encode_keys([pa.array(names)]))])
        now_us = max(int(str(event["at"])) for event in sent)
        values = roll_up(payloads, now_us, view.plan)
        wanted_n = [len(of_key[name]) for name in names]
        assert values["n"].to_pylist() == wanted_n, view_name
        amounts = {
            name: [Fraction(event["amount"]) for event in of_key[name] if event["amount"] is not None]  # type: ignore[arg-type]
            for name in names
        }
        paid = values["paid_1h" if view_name == "by_user" else "paid"].to_pylist()
        assert paid == [float(sum(amounts[name], Fraction(0))) for name in names], view_name
    assert np.all(np.array(wanted_n) > 0)
