"""The offline store: every event in Delta tables, and the values of any past moment from them.

Enter: batches of events with their offsets; spines. Leave: point-in-time values, training sets. Promise: an
event is in the log once, and the join gives what the online store would have served at that moment.
"""

from featurestore.offline.event_log import EventLog, check_types, log_schema
from featurestore.offline.log_cleaning import KEEP_MIN_US
from featurestore.offline.log_parts import Stride
from featurestore.offline.log_slices import LogSlices
from featurestore.offline.point_in_time import point_in_time_join, service_join
from featurestore.offline.training_set import TrainingSet, make_training_set

__all__ = [
    "KEEP_MIN_US",
    "EventLog",
    "LogSlices",
    "Stride",
    "TrainingSet",
    "check_types",
    "log_schema",
    "make_training_set",
    "point_in_time_join",
    "service_join",
]
