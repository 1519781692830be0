"""The kernel: what a feature value is, as functions of arrays.

Enter: columns of events, row payloads, moments. Leave: row payloads, Arrow arrays of values. Promise: the
worker (`fold`), the reader (`roll_up`) and the join (`values_at`) give the same bits for the same events.
No client library, no clock, no I/O.
"""

from featurestore.kernel.aggregates.own import OwnAggregate
from featurestore.kernel.decimals import PRECISION_MAX, as_decimals, decimal_type, decimals_from
from featurestore.kernel.events import (
    ARROW_TYPES,
    BATCHED_OFFSETS_MAX,
    PLACES_MAX,
    Column,
    DataType,
    Events,
    ValueType,
    arrow_type,
    in_records,
    is_single,
)
from featurestore.kernel.pieces import Pieces
from featurestore.kernel.plan import Feature, Plan, compile_plan, where_of
from featurestore.kernel.rows import newest_event_us, row_bytes
from featurestore.kernel.values import fold, fold_pieces, roll_up, values_at, warm_up

__all__ = [
    "ARROW_TYPES",
    "BATCHED_OFFSETS_MAX",
    "PLACES_MAX",
    "PRECISION_MAX",
    "Column",
    "DataType",
    "Events",
    "Feature",
    "OwnAggregate",
    "Pieces",
    "Plan",
    "ValueType",
    "arrow_type",
    "as_decimals",
    "compile_plan",
    "decimal_type",
    "decimals_from",
    "fold",
    "fold_pieces",
    "in_records",
    "is_single",
    "newest_event_us",
    "roll_up",
    "row_bytes",
    "values_at",
    "warm_up",
    "where_of",
]
