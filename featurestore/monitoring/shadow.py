"""A shadow's rows against the point-in-time join, before anybody reads them."""

from __future__ import annotations

import pyarrow as pa

from featurestore.errors import BackfillError
from featurestore.event_time import as_datetime
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.monitoring.parity import differences
from featurestore.offline import EventLog, LogSlices, point_in_time_join
from featurestore.online import OnlineStore
from featurestore.spec import FeatureView, ViewSelection


def compare_shadow(store: OnlineStore, view: FeatureView, row_id: str, log: EventLog, entities_max: int) -> str:
    """Compare rows that stand exactly where a version of the log does, at the moment of its newest event, bit for bit.

    entities_max  how many entities: those first by a hash, so spread over all
    returns       what was compared, in words

    Raises BackfillError where a value differs.
    """
    slices = LogSlices(log, log.version())
    if not slices.marks:
        return "the log has no events yet"
    keys = list(view.entity.keys)
    entities = slices.some_entities(keys, entities_max)
    columns = [entities[key].combine_chunks() for key in keys]
    moment_us = max(mark.newest_us for mark in slices.marks.values())
    [payloads] = store.payloads([(row_id, encode_keys(columns))])
    shadow = roll_up(payloads, moment_us, view.plan)
    moments = pa.array([moment_us] * len(entities), pa.int64())
    spine = entities.append_column("event_timestamp", moments)
    joined = point_in_time_join(spine, [ViewSelection(view, tuple(view.outputs))], lambda topic: log)
    wrong = []
    for feature in view.outputs:
        wanted = joined[f"{view.name}__{feature}"].combine_chunks()
        for place in differences(shadow[feature], wanted):
            entity = tuple(column[place].as_py() for column in columns)
            wrong.append(f"{feature} of {entity} is {shadow[feature][place]} but {wanted[place]} in the log")
    if wrong:
        what = f"{len(wrong)} values differ from the event log, such as: {wrong[0]}"
        raise BackfillError(
            view.name, f"{what}; drop what was filled by the same command with --abandon, then run it again"
        )
    when = as_datetime(moment_us).isoformat()
    return f"{len(entities) * len(view.outputs):,} values of {len(entities):,} entities agree at {when}, bit for bit"
