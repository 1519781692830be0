"""Settings and definitions -> a worker ready to run."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from threading import Lock

import pyarrow as pa

from featurestore.kernel import warm_up
from featurestore.offline import EventLog
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from featurestore.spec import FeatureView, Repository, Topic
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of
from streams.codecs import codec_of
from streams.dead_letters import LETTER_BYTES_MAX, LETTER_QUEUE_BYTES_MAX, DeadLetterBox, dead_letter_topic
from streams.engine import Engine, steady_us
from streams.group import OneStore, worker_group
from streams.memory import let_compiler_go
from streams.producer import kafka_producer
from streams.schemas import schemas_at
from streams.serving_sink import ServingSink
from streams.taken_back import TakenBack
from streams.topics import Topics
from streams.transport import ReaderOptions
from streams.worker import EnginePort, StreamApp, stream_app


def online_store(settings: Settings) -> OnlineStore:
    """The online store of these settings."""
    return OnlineStore.at(settings.redis_url, namespace=settings.project, buckets=settings.buckets)


def build_worker(settings: Settings, repository: Repository) -> StreamApp:
    """One worker for all topics that a view reads."""
    # What takes long at its first use is used now, before a partition is taken over. Outside a worker's own process the
    # first array of Arrow from a list imports pandas, where it is installed.
    warm_up()
    pa.array([0])
    topics = sorted({view.source.name for view in repository.views.values()})
    logs = {name: EventLog(settings.offline_path, repository.topic(name), project=settings.project) for name in topics}
    # The log would refuse their events at its first commit, seconds after rows have counted them.
    for log in logs.values():
        log.check_types()
    store = online_store(settings)
    store.ensure_ready()
    broker = broker_of(settings)
    known = Topics(broker)
    # Also where the partitions that no definition says are another worker's.
    ids = known.whole_ids(map(repository.topic, topics))
    # A letter that finds no topic would end the worker at the first event that cannot be applied.
    known.ids(dead_letter_topic(name, settings.project) for name in topics)
    admin, turn = admin_client(broker), Lock()
    one_store = OneStore(admin, settings, store)
    # Who writes no rows looks at no store, and would not say again what it is called after it was emptied.
    client_id = one_store.join() if any(view.online for view in repository.views.values()) else "featurestore"
    store.share_logs({name: log.claim() for name, log in logs.items()})
    schemas = schemas_at(settings.schema_address)

    def sink(view: FeatureView) -> ServingSink:
        topic = view.source
        log = EventLog(settings.offline_path, topic)
        bounds = partial(bounds_of, admin, topic.name, range(topic.partitions))
        return ServingSink(store, view, log, bounds, _now_us, turn)

    bounds = {"message.max.bytes": LETTER_BYTES_MAX, "queue.buffering.max.kbytes": LETTER_QUEUE_BYTES_MAX >> 10}
    letters = DeadLetterBox(kafka_producer(broker, more=bounds), settings.project)

    def taken_back(topic: Topic) -> TakenBack:
        return TakenBack(broker, admin, settings.project, worker_group(settings), topic)

    engines = {
        name: Engine(
            repository.topic(name),
            ids[name],
            [sink(view) for view in repository.views_of(name) if view.online],
            max(view.lateness_us for view in repository.views_of(name)),
            logs[name],
            letters,
            steady_us,
            codec=codec_of(repository.topic(name), schemas),
            taken_back=taken_back(repository.topic(name)).behind,
        )
        for name in topics
    }
    # A worker that comes back under its own name gets its partitions back at once, without waiting for its old
    # self's session to end.
    options = ReaderOptions(
        batch_records_max=settings.batch_records_max,
        batch_bytes_max=settings.batch_bytes_max,
        ahead_bytes_max=settings.worker_ahead_bytes_max,
        rebalance=settings.worker_rebalance,
        session_s=settings.worker_session_s,
        instance_id=settings.worker_id,
        drain_s=settings.worker_drain_s,
        project=settings.project,
    )
    port = EnginePort(
        engines, options, broker.login, partial(known.told, topics), letters, one_store.check, let_compiler_go
    )
    folder = Path(settings.offline_path).parent / "faust"
    # Faust makes the last part of a path alone, and an offline_path may be new.
    folder.parent.mkdir(parents=True, exist_ok=True)
    return stream_app(worker_group(settings), settings.kafka_bootstrap, port, str(folder), client_id)


def _now_us() -> int:
    return time.time_ns() // 1_000
