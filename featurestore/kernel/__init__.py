"""The kernel: what a feature value is, as functions of arrays.

Enter: columns of events, row payloads, moments. Leave: row payloads, Arrow arrays of values. Promise: the
worker (`fold`), the reader (`roll_up`) and the join (`values_at`) give the same bits for the same events.
No client library, no clock, no I/O.
"""

from featurestore.kernel.events import Column, DataType, Events
from featurestore.kernel.plan import Feature, Plan, compile_plan
from featurestore.kernel.values import ARROW_TYPES, fold, newest_event_us, roll_up, values_at

__all__ = [
    "ARROW_TYPES",
    "Column",
    "DataType",
    "Events",
    "Feature",
    "Plan",
    "compile_plan",
    "fold",
    "newest_event_us",
    "roll_up",
    "values_at",
]
