"""Sees that a topic was deleted and made again under a running worker, whose offsets then mean other events.

librdkafka goes on with the new topic by itself, from the offset at which it stood in the old one: where the new one
is as long as that already, nothing else would tell.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from featurestore.errors import FeatureStoreError, TopicError

log = logging.getLogger("featurestore.worker")

# What is sent to the new topic before it is seen may be counted, so often; one small call of the broker each time.
EVERY_S = 0.5


def changed(known: Mapping[str, str], now: Mapping[str, str]) -> TopicError | None:
    """The first topic that is another one now; one that the broker does not know at the moment is none."""
    for name, identity in sorted(known.items()):
        if now.get(name, identity) != identity:
            return TopicError(
                name,
                "it was deleted and made again while this worker read it, so its offsets mean other events now; give "
                "the topic another name, or use another project",
            )
    return None


def watch_topics(
    known: Mapping[str, str], ids: Callable[[], Mapping[str, str]], failed: Callable[[TopicError], None]
) -> None:
    """Compare until a topic is another one, for as long as the process lives; `failed` is called once.

    ids  asks the broker; while it does not answer, or lacks a topic, nothing is known
    """

    def run() -> None:
        while True:
            time.sleep(EVERY_S)
            try:
                error = changed(known, ids())
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
