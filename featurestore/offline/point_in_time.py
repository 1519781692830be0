"""The point-in-time join: for each spine row, the values of its entities at its moment, from the event log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import MissingEntityKeyError, RepeatedColumnError, WrongTypeError
from featurestore.kernel import ARROW_TYPES, DataType, Events, in_records, values_at
from featurestore.kernel.expressions import from_arrow
from featurestore.kernel.keys import bucket_of, encode_keys
from featurestore.offline.event_log import EventLog
from featurestore.spec import FeatureService, Topic, ViewSelection

# One bucket of entities is sorted and summed at a time, so memory follows the bucket and not the log.
_BUCKET_EVENTS = 2_000_000

Ints = npt.NDArray[np.int64]


def point_in_time_join(
    spine: pa.Table,
    selections: Sequence[ViewSelection],
    log_of: Callable[[Topic], EventLog],
    *,
    event_time: str = "event_timestamp",
) -> pa.Table:
    """Give each spine row the values that its entities had at its moment.

    spine       (n rows) entity keys, `event_time` (aware time stamp, or int64 microseconds), labels; any order
    event_time  an event of this very microsecond counts, a later one does not; a moment between two microseconds
                stands for the earlier one, since no event lies between them
    returns     (n rows) the spine's columns, then `view__feature` columns; spine order

    Raises MissingEntityKeyError, WrongTypeError.
    """
    wanted = list(dict.fromkeys([event_time, *(key for each in selections for key in each.view.entity.keys)]))
    if any(name not in spine.column_names for name in wanted):
        raise MissingEntityKeyError("the point-in-time join", wanted, spine.column_names)
    moments = _moments(spine, event_time)
    out = spine
    for selection in selections:
        values = _joined(spine, moments, selection, log_of(selection.view.source))
        for feature, column in zip(selection.features, selection.columns, strict=True):
            out = out.append_column(column, values[feature])
    return out


def service_join(
    spine: pa.Table,
    service: FeatureService,
    log_of: Callable[[Topic], EventLog],
    *,
    event_time: str = "event_timestamp",
) -> pa.Table:
    """The join with all views of a service, then its derived features.

    Raises RepeatedColumnError, MissingEntityKeyError, WrongTypeError.
    """
    names = [*spine.column_names, *service.columns]
    for name in spine.column_names:
        if names.count(name) > 1:
            raise RepeatedColumnError(name, is_served=name in service.columns)
    joined = point_in_time_join(spine, service.selections, log_of, event_time=event_time)
    columns = {name: joined[name].combine_chunks() for name in joined.column_names}
    for name, values in service.derive(columns).items():
        joined = joined.append_column(name, values)
    return joined


def _joined(spine: pa.Table, moments: Ints, selection: ViewSelection, log: EventLog) -> dict[str, pa.Array]:
    view = selection.view
    keys = [_key(spine, name, view.source.schema[name]) for name in view.entity.keys]
    # A row without its key is an entity without events: it keeps its place and gets what nothing gives.
    named = np.asarray(_all_valid(keys))
    rows: dict[bytes, int] = {}
    spine_row = np.full(len(spine), -1, dtype=np.int64)
    encoded = encode_keys([key.filter(pa.array(named)) for key in keys])
    spine_row[named] = [rows.setdefault(key, len(rows)) for key in encoded]
    spine_row[~named] = len(rows)
    events = _events(selection, log, rows, int(moments.max(initial=0)))
    buckets = max(1, -(-len(events) // _BUCKET_EVENTS))
    bucket_of_row = np.array([bucket_of(key, buckets) for key in rows] + [0], dtype=np.int64)
    values: dict[str, list[pa.Array]] = {name: [] for name in view.outputs}
    places = []
    for bucket in range(buckets):
        asked = np.flatnonzero(bucket_of_row[spine_row] == bucket)
        part = events if buckets == 1 else events.take(np.flatnonzero(bucket_of_row[events.row] == bucket))
        places.append(asked)
        for name, array in values_at(part, spine_row[asked], moments[asked], view.plan).items():
            values[name].append(array)
    order = pa.array(np.argsort(np.concatenate(places), kind="stable"))
    return {name: pa.concat_arrays(values[name]).take(order) for name in selection.features}


def _events(selection: ViewSelection, log: EventLog, rows: dict[bytes, int], until_us: int) -> Events:
    """The view's events of the asked entities, up to the last moment asked."""
    view = selection.view
    place = ["offset", "position"] if view.source.is_batched else ["offset"]
    columns = list(dict.fromkeys(["effective_us", "partition", *place, *view.entity.keys, *view.plan.columns]))
    table = log.read(columns, until_us=until_us, late_by_max_us=view.lateness_us).combine_chunks()
    keys = [_key(table, name, view.source.schema[name]) for name in view.entity.keys]
    table = table.filter(_all_valid(keys))
    encoded = encode_keys([_key(table, name, view.source.schema[name]) for name in view.entity.keys])
    row = np.array([rows.get(key, -1) for key in encoded], dtype=np.int64)
    asked = np.flatnonzero(row >= 0)
    table = table.take(pa.array(asked))
    offset = table["offset"].to_numpy()
    return Events(
        row[asked],
        table["effective_us"].to_numpy(),
        table["partition"].to_numpy(),
        in_records(offset, table["position"].to_numpy()) if view.source.is_batched else offset,
        {name: from_arrow(table[name].combine_chunks(), view.source.schema[name]) for name in view.plan.columns},
    )


def _key(table: pa.Table, name: str, dtype: DataType) -> pa.Array:
    try:
        return table[name].combine_chunks().cast(ARROW_TYPES[dtype])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WrongTypeError(name, dtype, str(table[name].type), str(error)) from error


def _all_valid(keys: Sequence[pa.Array]) -> pa.Array:
    held = keys[0].is_valid()
    for key in keys[1:]:
        held = pc.and_(held, key.is_valid())
    return held


def _moments(spine: pa.Table, event_time: str) -> Ints:
    column = spine[event_time].combine_chunks()
    if column.null_count:
        raise WrongTypeError(event_time, "a moment in every row", None)
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None:
            raise WrongTypeError(event_time, "a time stamp with a zone", str(column.type))
        if column.type.unit == "ns":
            nanoseconds: Ints = column.cast(pa.int64()).to_numpy()
            return nanoseconds // 1_000
        try:
            column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise WrongTypeError(
                event_time, "moments that microseconds can say", str(column.type), str(error)
            ) from error
    elif column.type != pa.int64():
        raise WrongTypeError(event_time, "an aware time stamp or int64 microseconds", str(column.type))
    moments: Ints = column.to_numpy()
    return moments
