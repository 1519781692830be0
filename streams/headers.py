"""Headers of records that were sent again: a letter that was taken back, by the project whose letter it was.

Several projects may read one topic. An event that one of them could not apply may have been applied by the others, so
its copy counts for that one alone; for all others its offset holds no record.
"""

from __future__ import annotations

from confluent_kafka import Message

REPLAYED_FROM = "replayed-from"
REPLAYED_FOR = "replayed-for"


def is_for(message: Message, project: str) -> bool:
    """Whether the record counts for this project."""
    # The last of a name counts, as for the workers' reader.
    headers = dict(message.headers() or ())
    return REPLAYED_FOR not in headers or (headers[REPLAYED_FOR] or b"") == project.encode()
