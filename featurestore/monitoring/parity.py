"""The proof that online and offline agree: the same entities at the same moment, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.client import FeatureStore
from featurestore.event_time import as_datetime
from featurestore.spec import FeatureView


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One feature of one entity that the two stores give differently."""

    view: str
    entity: tuple[object, ...]
    feature: str
    online: object
    offline: object


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared, and what differed."""

    view: str
    pairs: int
    values: int
    not_null: int
    mismatches: tuple[Mismatch, ...]


def known_entities(store: FeatureStore, view: FeatureView, limit: int | None = None) -> dict[str, pa.Array]:
    """Every entity that the view's log names, by key column; at most `limit` of them."""
    keys = list(view.entity.keys)
    table = store.event_log(view.source).read(keys).drop_null()
    distinct = table.group_by(keys).aggregate([]).sort_by([(key, "ascending") for key in keys])
    chosen = distinct if limit is None else distinct.slice(0, limit)
    return {key: chosen[key].combine_chunks() for key in keys}


def prove(store: FeatureStore, views: Sequence[FeatureView], moment_us: int, limit: int | None = None) -> list[Parity]:
    """Compare every known entity of the views at one moment, which must not lie before their newest events.

    The stream must stand still meanwhile: the log is a second behind the rows.
    """
    then = FeatureStore(store.settings, store.repository, clock_us=lambda: moment_us)
    out = []
    for view in views:
        entities = known_entities(store, view, limit)
        count = len(next(iter(entities.values())))
        online = then.get_many(view.name, entities)
        moments = pa.array([as_datetime(moment_us)] * count, pa.timestamp("us", tz="UTC"))
        offline = store.point_in_time(view.name, pa.table({**entities, "event_timestamp": moments}))
        found: list[Mismatch] = []
        not_null = 0
        for feature in view.outputs:
            served = online[f"{view.name}__{feature}"].combine_chunks()
            trained = offline[f"{view.name}__{feature}"].combine_chunks()
            not_null += len(served) - served.null_count
            found.extend(
                Mismatch(
                    view.name,
                    tuple(entities[key][place].as_py() for key in entities),
                    feature,
                    served[place].as_py(),
                    trained[place].as_py(),
                )
                for place in differences(served, trained)
            )
        out.append(Parity(view.name, count, count * len(view.outputs), not_null, tuple(found)))
    return out


def differences(left: pa.Array, right: pa.Array) -> list[int]:
    """Where two arrays of one type differ in a bit; a NaN equals itself, and -0.0 is not 0.0."""
    assert left.type == right.type, f"{left.type} and {right.type}"
    valid_left, valid_right = np.asarray(left.is_valid()), np.asarray(right.is_valid())
    differs = valid_left != valid_right
    both = valid_left & valid_right
    if pa.types.is_float64(left.type):
        bits = [side.fill_null(0.0).to_numpy().view(np.int64) for side in (left, right)]
        differs |= both & (bits[0] != bits[1])
    else:
        # As text, so that the zeros of lists differ as well.
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        differs |= both & np.array([repr(one) != repr(other) for one, other in pairs], dtype=np.bool_)
    return [int(place) for place in np.flatnonzero(differs)]
