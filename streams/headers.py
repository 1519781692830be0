"""Headers of records that were sent again: a letter that was taken back, by the project whose letter it was.

Several projects may read one topic. An event that one of them could not apply may have been applied by the others, so
its copy counts for that one alone; for all others its offset holds no record.
"""

from __future__ import annotations

REPLAYED_FROM = "replayed-from"
REPLAYED_FOR = "replayed-for"
