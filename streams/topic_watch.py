"""Sees that a topic was made again under a running worker, or has got partitions that its definition does not have.

Offsets of a topic that was deleted and made again mean other events. librdkafka goes on with the new one by itself,
from the offset at which it stood in the old one: where the new one is as long as that already, nothing else would tell.
Nor would anything tell of new partitions before the group hands them out, while what is sent there is in no value.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from featurestore.errors import FeatureStoreError, GrownTopicError, TopicError
from streams.topic_ids import Told

log = logging.getLogger("featurestore.worker")

# What is sent to the new topic before it is seen may be counted, so often, and lookups do not know of what is sent to
# new partitions; one small call of the broker each time.
EVERY_S = 0.5


def changed(known: Mapping[str, Told], now: Mapping[str, Told]) -> TopicError | None:
    """The first topic that is another one now, or has more partitions.

    One that the broker does not know at the moment, or not all partitions of which, is neither.
    """
    for name, (identity, partitions) in sorted(known.items()):
        told = now.get(name, known[name])
        if told.id != identity:
            return TopicError(
                name,
                "it was deleted and made again while this worker read it, so its offsets mean other events now; give "
                "the topic another name, or use another project, with an offline_path of its own",
            )
        if told.partitions > partitions:
            return GrownTopicError(name, partitions, told.partitions)
    return None


def watch_topics(
    known: Mapping[str, Told], ask: Callable[[], Mapping[str, Told]], failed: Callable[[TopicError], None]
) -> None:
    """Compare until a topic has changed, for as long as the process lives; `failed` is called once.

    known  the topics as the worker reads them: how many partitions is what their definitions say
    ask    asks the broker; while it does not answer, or lacks a topic, nothing is known
    """

    def run() -> None:
        while True:
            time.sleep(EVERY_S)
            try:
                error = changed(known, ask())
            except FeatureStoreError as unknown:
                log.debug("topics are not compared: %s", unknown)
                continue
            except Exception:
                # Whatever it is, it may pass, and nobody else would look at the topics again.
                log.warning("topics are not compared", exc_info=True)
                continue
            if error is not None:
                failed(error)
                return

    threading.Thread(target=run, name="topic-watch", daemon=True).start()
